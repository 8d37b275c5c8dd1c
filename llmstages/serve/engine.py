"""The thread that generates: answers wait in line, join the batch where there is room, and leave it
when they end or nobody wants them any more.

Promise: every answer that is taken gets exactly one end, whatever happens to the model or the
server, unless nobody wants it any more; what an answer says does not depend on the others.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from llmstages.model.batching import Batch, Row
from llmstages.model.decoding import Decoder

PROMPT_TOKENS = 2048
"""Tokens of prompts that are read before the answers under way get their next token; a longer
prompt is read alone."""
RECENT = 0.1
"""Share of the last answer in the average of how long an answer takes."""


class Full(Exception):
    """No more answers can wait."""


class End(Enum):
    """Why an answer has ended."""

    STOP = "stop"
    """With a stop token."""
    LENGTH = "length"
    """At its limit."""
    FAILED = "failed"
    CLOSED = "closed"
    """The server ends."""
    LATE = "late"
    """It took longer than its client may wait; the engine does not know of that."""


@dataclass(frozen=True)
class Event:
    """What has happened to one answer: a new token, its end, or both."""

    row: Row
    token: int | None = None
    end: End | None = None


class Engine:
    """Continues rows in a thread of its own; its methods may be called from any other."""

    def __init__(
        self,
        decoder: Decoder,
        stop_ids: Sequence[int],
        *,
        batch_size: int,
        max_waiting: int,
        deliver: Callable[[list[Event]], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        """`deliver` is called from the thread, with all that a step brought; `on_error` with what
        ended all the answers under way."""
        self.batch_size = batch_size
        self.max_waiting = max_waiting
        self.running = 0
        """Answers in the batch."""
        self.answers = self.prompt_tokens = self.new_tokens = 0
        """Answers ended, and tokens read and generated, since the start."""
        self.seconds_an_answer = 1.0
        """How long one takes once it has joined the batch, of late."""
        self._batch = Batch(decoder)
        self._decoder = decoder
        self._stop_ids = set(stop_ids)
        self._deliver, self._on_error = deliver, on_error
        self._waiting: deque[Row] = deque()
        self._unwanted: set[Row] = set()
        self._joined: dict[Row, float] = {}
        """When each row of the batch joined it."""
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Answers that wait for room in the batch."""
        return len(self._waiting)

    @property
    def seconds_until_room(self) -> float:
        """How long it may take until one more answer can wait: a guess."""
        return self.seconds_an_answer / self.batch_size

    def submit(self, rows: Sequence[Row]) -> None:
        """Put rows in line, all or none. Raises `Full`."""
        with self._changed:
            if self._closing:
                self._deliver([Event(row, end=End.CLOSED) for row in rows])
                return
            room = self.batch_size - self.running + self.max_waiting
            if len(self._waiting) + len(rows) > room:
                raise Full
            self._waiting.extend(rows)
            self._changed.notify()

    def cancel(self, rows: Sequence[Row]) -> None:
        """Nobody wants these rows any more, if they have not ended yet; nothing more is delivered
        of them after what is on its way."""
        with self._changed:
            self._unwanted.update(rows)
            self._changed.notify()

    def close(self) -> None:
        """End all answers, and the thread. May be called twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    # -- the thread

    def _work(self) -> None:
        leaving: set[Row] = set()
        while True:
            with self._changed:
                while not (self._closing or self._waiting or self._unwanted or self._batch.rows):
                    self._changed.wait()
                if self._closing:
                    ended = [row for row in self._batch.rows if row not in leaving]
                    ended += self._waiting
                    self._waiting.clear()
                    self._deliver([Event(row, end=End.CLOSED) for row in ended])
                    return
                unwanted, self._unwanted = self._unwanted, set()
                leaving |= unwanted.intersection(self._batch.rows)
                if unwanted:
                    self._waiting = deque(row for row in self._waiting if row not in unwanted)
                joining = self._next(self.batch_size - len(self._batch) + len(leaving))
                self.running = len(self._batch) - len(leaving) + len(joining)
            now = time.monotonic()
            self._joined |= dict.fromkeys(joining, now)
            for row in leaving:
                self._joined.pop(row, None)
            try:
                self._batch.advance(leaving, joining)
                leaving = self._tell()
            except Exception as error:  # out of memory: the next answers may need less
                under_way = dict.fromkeys([*self._batch.rows, *joining])
                ended = [row for row in under_way if row not in leaving]
                self._batch, leaving = Batch(self._decoder), set()
                self._joined.clear()
                with suppress(Exception):  # a log that cannot be written ends nothing
                    self._on_error(error)
                self._deliver([Event(row, end=End.FAILED) for row in ended])
            self.prompt_tokens += sum(len(row.prompt) for row in joining)
            self.running = len(self._batch) - len(leaving)

    def _next(self, room: int) -> list[Row]:
        """Rows in line that may join now."""
        joining: list[Row] = []
        tokens = 0
        while self._waiting and len(joining) < room:
            tokens += len(self._waiting[0].prompt)
            if joining and tokens > PROMPT_TOKENS:
                break
            joining.append(self._waiting.popleft())
        return joining

    def _tell(self) -> set[Row]:
        """Deliver the tokens that all rows have just got; which of the rows end with them."""
        events, ended = [], set()
        for row in self._batch.rows:
            token, end = row.tokens[-1], None
            if token in self._stop_ids:
                events.append(Event(row, end=End.STOP))
                ended.add(row)
                continue
            self.new_tokens += 1
            if len(row.tokens) == row.limit:
                end = End.LENGTH
                ended.add(row)
            events.append(Event(row, token, end))
        now = time.monotonic()
        for row in ended:
            took = now - self._joined[row]
            self.seconds_an_answer += RECENT * (took - self.seconds_an_answer)
        self.answers += len(ended)
        if events:
            self._deliver(events)
        return ended

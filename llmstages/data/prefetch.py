"""Micro-batches made ahead by a thread, and on their way to the device while it computes.

The order and the contents are those of the data set itself: the thread only walks ahead of the
loop, one step after the other. `micro_batches` may be asked for any step; when it is not the next
one, the thread starts anew there, as the data set promises to be a pure function of the step.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Full, Queue
from typing import Protocol

import torch

from llmstages.data.batch import Batch

MICRO_BATCHES_AHEAD = 2
POLL_SECONDS = 0.1
"""How often a waiting thread looks whether it is still wanted."""


class StepData(Protocol):
    """A data set whose micro-batches are a pure function of the step."""

    def micro_batches(self, step: int) -> Iterable[Batch]:
        """Micro-batches of step `step`, counted from 0."""


@dataclass(frozen=True)
class Ready:
    """A micro-batch on the device; `copied` is there when the copy may still be on its way."""

    batch: Batch
    copied: torch.cuda.Event | None = None


@dataclass(frozen=True)
class EndOfStep:
    """No more micro-batches of a step."""


@dataclass(frozen=True)
class Failed:
    """What the data set raised; the loop raises it where it would have come."""

    error: BaseException


class PrefetchedData:
    """A data set read ahead by a thread; `close` ends the thread.

    On cuda batches are copied from pinned memory on a stream of their own, so that neither the host
    nor the computing stream waits for a copy.
    """

    def __init__(
        self, data: StepData, device: torch.device, ahead: int = MICRO_BATCHES_AHEAD
    ) -> None:
        self.data = data
        self.device = device
        self.ahead = ahead
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.next_step: int | None = None
        self.thread: threading.Thread | None = None
        self.queue: Queue[Ready | EndOfStep | Failed] = Queue(ahead)
        self.stop = threading.Event()

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """Micro-batches of step `step`, on the device."""
        if self.next_step != step:
            self.start(step)
        self.next_step = None  # until the step has been read to its end
        while True:
            item = self.queue.get()
            if isinstance(item, EndOfStep):
                break
            if isinstance(item, Failed):
                self.close()
                raise item.error
            if item.copied is not None:
                wait_for_copy(item.batch, item.copied)
            yield item.batch
        self.next_step = step + 1

    def start(self, step: int) -> None:
        """Begin to read at a step."""
        self.close()
        self.stop = threading.Event()
        self.queue = Queue(self.ahead)
        self.thread = threading.Thread(
            target=self.read, args=(step, self.queue, self.stop), name="prefetch", daemon=True
        )
        self.thread.start()

    def close(self) -> None:
        """End the thread; the next step asked for starts another."""
        self.stop.set()
        self.next_step = None
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def read(
        self, step: int, queue: "Queue[Ready | EndOfStep | Failed]", stop: threading.Event
    ) -> None:
        """The thread: step after step into the queue, until it is told to stop."""
        try:
            while not stop.is_set():
                for batch in self.data.micro_batches(step):
                    if not put(queue, self.send(batch), stop):
                        return
                if not put(queue, EndOfStep(), stop):
                    return
                step += 1
        except BaseException as error:
            put(queue, Failed(error), stop)

    def send(self, batch: Batch) -> Ready:
        """Start a batch on its way to the device."""
        if self.stream is None:
            return Ready(batch.to(self.device))
        pinned = batch.pin_memory()
        with torch.cuda.stream(self.stream):
            return Ready(pinned.to(self.device), self.stream.record_event())


def put(
    queue: "Queue[Ready | EndOfStep | Failed]",
    item: Ready | EndOfStep | Failed,
    stop: threading.Event,
) -> bool:
    """Put an item when there is room; False when the thread was told to stop meanwhile."""
    while not stop.is_set():
        try:
            queue.put(item, timeout=POLL_SECONDS)
            return True
        except Full:
            continue
    return False


def wait_for_copy(batch: Batch, copied: torch.cuda.Event) -> None:
    """Let the computing stream, not the host, wait for a copy, and own the memory from then on."""
    stream = torch.cuda.current_stream(batch.tokens.device)
    stream.wait_event(copied)
    for tensor in batch.tensors():
        tensor.record_stream(stream)

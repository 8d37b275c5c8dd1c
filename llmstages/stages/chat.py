"""`llmstages chat`: a conversation with a model, in a terminal or through a pipe.

Answers go to standard output as they are generated, all else to standard error. What the model has
read of the conversation stays in its cache; of each prompt only what has changed is read.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from llmstages.config.uses import ChatConfig
from llmstages.errors import UserError
from llmstages.model.generation import fit_prompt, seeded, stream
from llmstages.report.plain import for_stream
from llmstages.report.terminal import say
from llmstages.stages.shared.speaker import Speaker, open_speaker
from llmstages.text.chat import Message, render, stop_ids
from llmstages.text.streaming import TextStream

HELP = """\
/reset        forget the conversation, keep the system prompt
/system TEXT  what the model is told before the conversation; alone: show it
/save FILE    add the conversation to a file that finetune-instruct reads, or bring it up to date
/help         this
/quit         leave, as Ctrl-D does
A backslash at the end of a line: the message goes on in the next. Two slashes: no command.
Ctrl-C stops an answer."""
FIRST_CAPACITY = 256
"""Tokens that the cache has room for at first; it grows with the conversation."""


def run(config: ChatConfig) -> None:
    """Answer line by line until the input ends."""
    speaker = open_speaker(config, "chat")
    chat = Chat(speaker, config)
    if not speaker.is_tuned:
        say(
            f"{config.checkpoint_dir}: a base model, not tuned on instructions: "
            "it continues text rather than answers"
        )
    if sys.stdin.isatty():
        say("/help lists the commands, Ctrl-D leaves")
    with termination_leaves():
        for line in lines():
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if not command(chat, line):
                        break
                elif line.strip():
                    chat.say(line.removeprefix("/") if line.startswith("//") else line)
            except UserError as error:
                say(f"error: {error}")


# -------------------------------------------------------------------------------------------------
# what the user types


class Terminated(KeyboardInterrupt):
    """The process is asked to end, which Ctrl-C does not."""


@contextmanager
def termination_leaves() -> Iterator[None]:
    """Tell SIGTERM from Ctrl-C inside. Outside the main thread it cannot be."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def lines() -> Iterator[str]:
    """What is typed, turn by turn, lines that end in a backslash joined with what follows."""
    read = line_reader()
    parts: list[str] = []
    while True:
        try:
            line = read("... " if parts else "> ")
        except Terminated:
            raise
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            parts = []
            say("\n(Ctrl-D leaves)")
            continue
        if line is not None and line.endswith("\\"):
            parts.append(line[:-1])
        elif line is not None:
            yield "\n".join([*parts, line])
            parts = []
        else:
            if parts:
                yield "\n".join(parts)
            return


def line_reader() -> Callable[[str], str | None]:
    """Reads a line after showing a prompt, None at the end of the input."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401  gives input() its history and its keys

        def ask(prompt: str) -> str | None:
            try:
                return input(prompt)
            except EOFError:
                sys.stdout.write("\n")
                return None

        return ask

    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")

    def read(prompt: str) -> str | None:
        if sys.stdin.isatty():
            sys.stderr.write(prompt)
            sys.stderr.flush()
        line = sys.stdin.readline()
        return line.removesuffix("\n").removesuffix("\r") if line else None

    return read


def command(chat: "Chat", line: str) -> bool:
    """Do what a line that starts with a slash says; False: leave. Raises `UserError`."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name in ("/quit", "/exit"):
        return False
    if name == "/help":
        say(HELP)
    elif name == "/reset":
        chat.reset()
        say("forgotten")
    elif name == "/system":
        if rest:
            chat.system, chat.first = rest, 0  # it may leave room for more turns than the last
        say(f"system: {chat.system}" if chat.system else "there is no system prompt")
    elif name == "/save":
        if not rest:
            raise UserError("/save needs a file: /save FILE")
        chat.save(Path(rest).expanduser())
        say(f"saved in {rest}")
    else:
        raise UserError(f"{name} is no command: /help lists them")
    return True


# -------------------------------------------------------------------------------------------------
# the conversation


class Chat:
    """A conversation, and what the model has read of it."""

    def __init__(self, speaker: Speaker, config: ChatConfig) -> None:
        self.speaker = speaker
        self.config = config
        self.tokenizer = speaker.checkpoint.tokenizer
        self.system = config.system
        self.messages: list[Message] = []
        """All turns but the system prompt."""
        self.first = 0
        """The oldest turn that the model still reads."""
        self.saved: dict[Path, tuple[int, int]] = {}
        """Where in each file this conversation was saved: begin and end, in bytes."""
        self.decoder = speaker.decoder()
        room = min(FIRST_CAPACITY, speaker.context_length)
        self.cache = self.decoder.empty_cache([0], room)
        self.known: list[int] = []
        """The ids whose keys and values the cache holds."""
        self.num_read = 0
        """Tokens of prompts that went through the model so far."""

    def reset(self) -> None:
        """Forget all turns."""
        self.messages, self.first, self.saved = [], 0, {}

    def say(self, text: str) -> None:
        """Take the user's turn and print the answer to it."""
        first = self.first
        self.messages.append(Message("user", text))
        pieces = TextStream(self.tokenizer)
        began = time.monotonic()
        try:
            for token in self._tokens():
                write(pieces.add([token]))
        except Terminated:
            raise
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            say("\n(stopped)")
        except UserError:
            self._take_back(first)
            raise
        seconds = time.monotonic() - began
        write(pieces.end() + "\n")
        if pieces.text.strip():
            self.messages.append(Message("assistant", pieces.text))
        else:
            self._take_back(first)  # a turn without an answer is no part of a conversation
        count = len(pieces.ids)
        say(f"({count} tokens, {count / max(seconds, 1e-9):,.0f} tokens/s)")

    def _take_back(self, first: int) -> None:
        """Undo the user's last turn, before which the model read from turn `first` on."""
        self.messages.pop()
        self.first = first

    def _tokens(self) -> Iterator[int]:
        """The answer to the last turn, token by token."""
        ids = self._prompt()
        same = 0
        while same < min(len(ids) - 1, len(self.known)) and ids[same] == self.known[same]:
            same += 1
        self.num_read += len(ids) - same
        self.known = self.known[:same]
        answer: list[int] = []
        config, whole = self.config, False
        try:
            for token in stream(
                self.decoder,
                self.cache,
                ids,
                same,
                max_new_tokens=config.max_new_tokens,
                stop_ids=stop_ids(self.tokenizer),
                sampling=self.speaker.sampling,
                generator=seeded(config.seed, len(self.messages)),
            ):
                answer.append(token)
                yield token
            whole = True
        finally:
            # The last position of an answer broken off may be half written; before the first token
            # nothing is known of how far the prompt was read.
            if whole or answer:
                held = [*ids, *answer][: self.cache.length]
                self.known = held if whole else held[:-1]

    def _prompt(self) -> list[int]:
        """Ids of what the model reads: the system prompt and the newest turns that leave room."""
        context_length, dropped = self.speaker.context_length, 0
        while True:
            ids = self._rendered()
            kept = fit_prompt(ids, self.config.max_new_tokens, context_length)
            if len(kept) == len(ids):
                break
            following = [
                index
                for index, message in enumerate(self.messages)
                if index > self.first and message.role == "user"
            ]
            if not following:
                say(
                    f"(the message has {len(ids)} tokens, the model reads {context_length}: "
                    f"the last {len(kept)} are used)"
                )
                break
            dropped += following[0] - self.first
            self.first = following[0]
        if dropped:
            say(
                f"(the model reads {context_length} tokens: "
                f"the {dropped} oldest turns are no longer among them)"
            )
        return kept

    def _rendered(self) -> list[int]:
        opening = [Message("system", self.system)] if self.system else []
        turns = [*opening, *self.messages[self.first :]]
        return render(turns, self.tokenizer, open_answer=True, plain=not self.speaker.is_tuned)[0]

    def save(self, path: Path) -> None:
        """Add the whole conversation to a JSON Lines file. Raises `UserError`.

        Saved again it takes the place of its shorter self, if nothing was added there in between.
        """
        if not self.messages:
            raise UserError("nothing has been said: there is nothing to save")
        opening = [Message("system", self.system)] if self.system else []
        turns = [{"role": m.role, "content": m.content} for m in [*opening, *self.messages]]
        row = json.dumps({"messages": turns}, ensure_ascii=False) + "\n"
        try:
            with path.open("ab") as file:
                if file.seekable():
                    begin, end = self.saved.get(path.resolve(), (0, -1))
                    if file.tell() != end:
                        begin = file.tell()
                    file.truncate(begin)
                    self.saved[path.resolve()] = (begin, begin + len(row.encode()))
                file.write(row.encode())
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error


def write(text: str) -> None:
    """Print a piece of an answer at once."""
    sys.stdout.write(for_stream(text, sys.stdout))
    sys.stdout.flush()

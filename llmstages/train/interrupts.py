"""Signals while training: noted, so that what is under way ends, or is given up, and is saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llmstages.report.terminal import warn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, an orderly end, and SLURM's warning before preemption (`--signal=USR1@60`)."""


class Interrupts:
    """The signals a run has received: none, one to save and leave, or two to leave at once."""

    def __init__(self) -> None:
        self.count = 0
        self.may_raise = False

    def __bool__(self) -> bool:
        return self.count > 0

    @property
    def leave_at_once(self) -> bool:
        """Whether a second signal came: nothing more is to be saved."""
        return self.count > 1

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        self.count += 1
        if self.count == 1:
            warn("interrupted: saving (once more to leave at once)")
        if self.leave_at_once or self.may_raise:
            raise KeyboardInterrupt

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, the first signal raises `KeyboardInterrupt` too: what is done here takes long and
        can be given up."""
        if self:
            raise KeyboardInterrupt
        self.may_raise = True
        try:
            yield
        finally:
            self.may_raise = False


@contextmanager
def catch_interrupts() -> Iterator[Interrupts]:
    """Note signals inside. Outside the main thread they cannot be caught, and are not."""
    interrupts = Interrupts()
    before = {}
    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, interrupts.note)
    except ValueError:
        pass
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

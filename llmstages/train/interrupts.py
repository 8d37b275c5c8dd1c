"""SIGINT and SIGTERM while training: noted, so that the step under way ends and is saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llmstages.report.terminal import warn


@contextmanager
def catch_interrupts() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, so that the step under way ends and is saved.

    A second signal leaves at once. Outside the main thread signals cannot be caught, and are not.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        warn("interrupted: saving after this step (once more to leave at once)")

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:
        pass
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

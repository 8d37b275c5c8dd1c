"""Steps of a long command: each with a progress bar, and a record of when it ran."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from llmstages.report.terminal import progress


@dataclass(frozen=True)
class Step:
    """One step: its name, when it began (seconds since 1970) and how long it took."""

    name: str
    started_at: float
    seconds: float


@dataclass
class Steps:
    """The steps of one command, in order."""

    done: list[Step] = field(default_factory=list)

    @contextmanager
    def __call__(
        self, name: str, total: float | None = None, unit: str = "", *, quiet: bool = False
    ) -> Iterator[Callable[..., None]]:
        """Run a step under a progress bar (none when `quiet`); yields `advance(amount=1)`."""
        started_at, started = time.time(), time.perf_counter()
        with nullcontext(_nothing) if quiet else progress(name, total, unit) as advance:
            yield advance
        self.done.append(Step(name, round(started_at, 3), round(time.perf_counter() - started, 3)))


def _nothing(amount: float = 1) -> None:
    """Progress that nobody sees."""

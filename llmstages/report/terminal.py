"""What a user sees while a stage works: progress bars, notes, warnings and tables.

Progress, notes and warnings go to standard error; results (generated text, predictions, the tables
of `inspect`) go to standard output, so that they can be piped.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from llmstages.errors import UserError
from llmstages.report.plain import visible


class StandardError:
    """Standard error as it is at each use.

    While a progress bar is shown rich stands in for `sys.stderr`, so that what is written comes out
    above the bar. A console would see through that and write into the bar; through this object it
    does not.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "rich_proxied_file":
            raise AttributeError(name)
        return getattr(sys.stderr, name)


def error_console() -> Console:
    """Console on standard error, made at each use so that redirection after import is respected."""
    return Console(
        file=cast(IO[str], StandardError()), highlight=False, soft_wrap=True, quiet=is_quiet()
    )


def is_quiet() -> bool:
    """Whether this is one of several processes, and not the one that speaks for all."""
    return os.environ.get("RANK", "0") != "0"


def is_interactive() -> bool:
    """Whether standard error is a terminal on which lines can be drawn anew."""
    return Console(stderr=True).is_interactive


def output_console() -> Console:
    """Console on standard output."""
    return Console(highlight=False)


def plain(text: str, style: str = "") -> Text:
    """A text to print as it is: nothing in it is markup, and control characters are spelled out."""
    return Text(visible(text), style=style)


def say(text: str) -> None:
    """Print a note as it is: no markup is interpreted, whatever the text contains."""
    error_console().print(plain(text))


def warn(text: str) -> None:
    """Print a warning."""
    error_console().print(plain(f"warning: {text}", style="yellow"))


def clipped(text: str, length: int = 120) -> str:
    """A text on one line, quoted, its middle left out when it is long."""
    if len(text) > length:
        text = f"{text[: length * 2 // 3]} ... {text[-length // 3 :]}"
    return repr(text)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    to_output: bool = False,
) -> None:
    """Print a table; columns that hold only numbers, or nothing, are right-aligned."""
    grid = Table(title=plain(title) if title else None, title_justify="left")
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index] is not None]
        numeric = bool(cells) and all(isinstance(cell, (int, float)) for cell in cells)
        grid.add_column(plain(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(plain(cell_text(value)) for value in row))
    (output_console() if to_output else error_console()).print(grid)


def cell_text(value: object) -> str:
    """A value as it stands in a table: thousands separated, four significant decimals."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


class ProgressBelow(Progress):
    """Progress bars with something above them."""

    above: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.above is not None:
            yield self.above
        yield from super().get_renderables()


@contextmanager
def progress(
    description: str,
    total: float | None = None,
    unit: str = "",
    above: RenderableType | None = None,
) -> Iterator[Callable[..., None]]:
    """Show a progress bar; yields `advance(amount=1, note="", total=...)`.

    A `total` given to `advance` replaces the old one. `total=None` here shows a spinner. `above` is
    drawn above the bar, anew each time the bar is. In a log file (no terminal) only the last state
    is printed.
    """
    bar = ProgressBelow(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True, quiet=is_quiet()),
        refresh_per_second=4,
    )
    bar.above = above
    with bar:
        task = bar.add_task(visible(description), total=total, note="")

        def advance(amount: float = 1, note: str | None = None, total: float | None = None) -> None:
            if note is None:
                bar.update(task, advance=amount, total=total)
            else:
                bar.update(task, advance=amount, total=total, note=visible(note))

        try:
            yield advance
        except UserError:
            bar.live.transient = True  # the error's one line says it all
            raise

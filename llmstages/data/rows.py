"""What all readers of rows share: a row, bad rows, lines of bounded length, what no row may hold.

`UserError`s raised here and in the readers say what is broken in a file; errors of packed data
(`llmstages.data.opening.UNREADABLE`) pass through.
"""

import io
import logging
import math
import re
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from llmstages.errors import UserError

logger = logging.getLogger("llmstages")

Opener = Callable[[], IO[bytes]]
"""Gives a stream of unpacked bytes, once it is needed."""
BadRowsPolicy = Literal["refuse", "skip"]

KEPT_BAD_ROWS = 1000
DEEPEST = 200
"""Levels of lists and objects in a value; Python's own recursion ends at about a thousand."""
SURROGATES = re.compile("[\ud800-\udfff]")
NOT_JSON = object()
"""Stands for NaN and Infinity, which Python's parser takes and JSON does not have."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the line it starts on, 1-based, and its values.

    The line is a row's number for Parquet and, as a `Record`, for JSON on a single line.
    """

    line: int
    values: dict[str, Any]


class Record(int):
    """Number of a row, 1-based, in place of its line where all rows stand on the first line."""


def place(line: int) -> str:
    """Where in a file a row stands, for a heading: `line 6` or `record 6`."""
    return f"record {line}" if isinstance(line, Record) else f"line {line}"


def located(path: Path | str, line: int) -> str:
    """Where a row stands, for a message: `x.csv:6` or `x.json:1: record 6`."""
    return f"{path}:1: record {line}" if isinstance(line, Record) else f"{path}:{line}"


class Unusable(Exception):
    """A row can be read and not used; the message is the reason."""


@dataclass
class BadRows:
    """Rows that cannot be used, and what happens to them."""

    path: Path | str
    policy: BadRowsPolicy
    count: int = 0
    rows: list[tuple[int, str]] = field(default_factory=list)
    """The first of them by line, at most `KEPT_BAD_ROWS`: a broken file has any number."""

    def add(self, line: int, reason: str) -> None:
        """Count a bad row."""
        self.count += 1
        insort(self.rows, (line, reason), key=lambda bad: bad[0])
        del self.rows[KEPT_BAD_ROWS:]

    def finish(self) -> None:
        """Raise (`refuse`) or warn (`skip`) once the whole file has been looked at."""
        if not self.rows:
            return
        if self.policy == "refuse":
            raise self.refusal()
        logger.warning("%s: %s", self.path, self.skipped())

    def refusal(self) -> UserError:
        """What ends the reading: the first bad row, how many there are, and what to do."""
        line, reason = self.rows[0]
        return UserError(
            f"{located(self.path, line)}: {reason} ({self._counted()} in the file; "
            "correct them, or leave them out with bad_rows=skip)"
        )

    def skipped(self) -> str:
        """How many rows are left out, and why the first of them is."""
        line, reason = self.rows[0]
        return f"{self._counted()} skipped, the first on {place(line)}: {reason}"

    def _counted(self) -> str:
        return f"{self.count:,} bad row{'s' if self.count > 1 else ''}"


@dataclass(frozen=True)
class Limits:
    """The most that is held in memory at once; None: whatever comes."""

    line_characters: int | None = None
    """A longer line is a bad row."""
    field_characters: int = 2**27
    """A longer field of delimited text is a bad row. Python's own limit is less than one novel."""
    json_characters: int | None = None
    """A longer JSON value (one list of all rows) is refused."""


NO_LIMITS = Limits()


def text_lines(
    open_stream: Opener, encoding: str, newline: str | None, bad: BadRows, limits: Limits
) -> Iterator[str]:
    """Lines of a text; a byte that does not fit the encoding becomes a lone surrogate.

    A line that is too long is read over, a bad row, and an empty line in its place.
    """
    longest = -1 if limits.line_characters is None else limits.line_characters
    with decoded(open_stream(), encoding, newline) as text:
        number = 0
        try:
            while line := text.readline(longest):
                number += 1
                if len(line) == longest and line[-1] not in "\r\n":
                    bad.add(number, f"a line of more than {longest:,} characters")
                    while line and line[-1] not in "\r\n":
                        line = text.readline(2**20)
                    line = "\n"
                yield line
        except UnicodeDecodeError as error:
            raise UserError(f"{bad.path}: broken {encoding} text ({error.reason})") from None


def decoded(stream: IO[bytes], encoding: str, newline: str | None) -> io.TextIOWrapper:
    """`stream` as text."""
    errors = "strict" if encoding.startswith("utf-16") else "surrogateescape"
    return io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline=newline)


def shown(text: str, width: int = 60) -> str:
    """The start of a broken row, on one line, for a message."""
    flat = " ".join(SURROGATES.sub("\ufffd", text).split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def fault_of(value: object) -> str | None:
    """Why a parsed value cannot be used: what text may not hold and JSON does not have."""
    level = [value]
    for _ in range(DEEPEST):
        inside: list[object] = []
        for part in level:
            if (fault := _fault_of_part(part, inside)) is not None:
                return fault
        if not inside:
            return None
        level = inside
    return f"values nested more than {DEEPEST} deep"


def _fault_of_part(part: object, inside: list[object]) -> str | None:
    """Why one value cannot be used; those in a dict or list are put to `inside`."""
    if isinstance(part, str):
        if "\x00" in part:
            return "a NUL character"
        if not part.isascii() and (found := SURROGATES.search(part)):
            if "\udc80" <= found.group() <= "\udcff":
                return "bytes that do not fit the encoding, or a lone surrogate"
            return "a lone surrogate (half of a character)"
    elif isinstance(part, dict):
        inside += [*part.keys(), *part.values()]
    elif isinstance(part, list):
        inside += part
    elif part is NOT_JSON:
        return "NaN and Infinity are no JSON values"
    elif isinstance(part, float) and math.isinf(part):
        return "a number too large"
    return None

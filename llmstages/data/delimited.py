"""Rows of CSV, TSV and their relatives: delimiter, quoting and header are found out."""

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmstages.data.columns import column_key
from llmstages.data.rows import BadRows, Limits, Opener, Row, fault_of, shown, text_lines
from llmstages.errors import UserError

Kind = Literal["csv", "tsv"]

# What follows a quote decides at once whether it ends the field, so nothing is tried twice: text
# made of tabs and quotes must not take time that grows with its square.
_QUOTED_FIELD = re.compile(r'(?:^|\t)"((?:[^"]++|"")*+)"(?=\t|\r?$)', re.M)


@dataclass(frozen=True)
class Dialect:
    """How fields are told apart."""

    delimiter: str
    quoted: bool
    escaped: bool = False

    def reader(self, lines: Iterable[str]) -> Any:
        """A strict `csv.reader`: a quote that is never closed must not swallow rows in silence."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            doublequote=not self.escaped,
            escapechar="\\" if self.escaped else None,
            strict=True,
        )


def _records(
    dialect: Dialect, lines: Iterable[str], limits: Limits
) -> Iterator[tuple[int, list[str] | str]]:
    """Line on which each record starts, and its fields, or why it has none."""
    csv.field_size_limit(limits.field_characters)
    reader = dialect.reader(lines)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = str(error)
            if "unexpected end of data" in reason:
                reason = "a quote opened here is never closed"
            elif "field larger" in reason:
                reason = (
                    f"more than {limits.field_characters:,} characters in one field: a quote that "
                    "is never closed?"
                )
            yield start, f"broken quoting ({reason})"
            continue
        yield start, fields


def _find_dialect(sample: str, kind: Kind, limits: Limits) -> Dialect:
    """Delimiter and quoting of delimited text, from its first lines."""
    preferred = "\t" if kind == "tsv" else ","
    lines = [line for line in io.StringIO(sample, newline="") if line.strip()]
    best, delimiter = -1.0, preferred
    # One open quote swallows all the lines of the sample after it.
    csv.field_size_limit(max(limits.field_characters, len(sample)))
    for candidate in dict.fromkeys((preferred, ",", "\t", ";", "|")):
        widths = [len(line) for line in csv.reader(lines[:500], delimiter=candidate)]
        if widths and widths[0] > 1:
            evenness = sum(width == widths[0] for width in widths) / len(widths)
            if evenness > best + 0.05:
                best, delimiter = evenness, candidate
    if delimiter != "\t":
        broken = _num_broken(Dialect(delimiter, quoted=True), lines, limits)
        escaped = Dialect(delimiter, quoted=True, escaped=True)
        if broken and '\\"' in sample and _num_broken(escaped, lines, limits) < broken:
            return escaped
        return Dialect(delimiter, quoted=True)
    # In tab-separated text a quote is a character, unless the fields are really quoted: every quote
    # is closed, and either most lines have quoted fields or some field needs its quotes.
    quoted = Dialect(delimiter, quoted=True)
    num_quoted = sum(line.startswith('"') or '\t"' in line for line in lines)
    needs_quotes = any(
        re.search(r'""|\t|\n', field[1]) is not None for field in _QUOTED_FIELD.finditer(sample)
    )
    if (
        num_quoted
        and (needs_quotes or num_quoted > len(lines) / 2)
        and not _num_broken(quoted, lines, limits)
    ):
        return quoted
    return Dialect(delimiter, quoted=False)


def _num_broken(dialect: Dialect, lines: list[str], limits: Limits) -> int:
    """Records of a sample that do not parse; one that is cut off by its end does not count."""
    records = [fields for _, fields in _records(dialect, lines, limits)]
    return sum(isinstance(fields, str) for fields in records[:-1])


def _has_header(
    first: list[str], others: list[list[str]], kind: Kind, known: frozenset[str]
) -> bool:
    """Whether the first record names the columns.

    It does when it holds a known column name. Otherwise only CSV is given the benefit of the
    doubt, when its first record looks like names: short, different, no numbers, and not values
    that come again in their columns.
    """
    names = [name.strip() for name in first]
    if any(column_key(name) in known for name in names):
        return True
    given = [name for name in names if name]
    if kind == "tsv" or not given or len(set(given)) < len(given):
        return False
    if not all(re.fullmatch(r"[^\W\d][\w .:/()#%-]{0,39}", name) for name in given):
        return False
    again = {(index, cell.strip()) for record in others for index, cell in enumerate(record)}
    return not any((index, name) in again for index, name in enumerate(names) if name)


def _column_names(first: list[str], has_header: bool) -> list[str]:
    """Names of the columns: the header's, or the column's number where it has none."""
    names: dict[str, None] = {}
    for index, cell in enumerate(first, 1):
        name = cell.strip() if has_header else ""
        if not name:
            name = str(index)
        while name in names:
            name = f"{name} ({index})"
        names[name] = None
    return list(names)


def _num_filled(record: list[str]) -> int:
    """Cells of a record up to the last that is not blank."""
    blank = itertools.takewhile(lambda cell: not cell.strip(), reversed(record))
    return len(record) - sum(1 for _ in blank)


@dataclass(frozen=True)
class Layout:
    """How delimited text is read: found once, from its start."""

    dialect: Dialect
    columns: list[str]
    has_header: bool
    newline: str
    """What ends a line, as `open` takes it."""


def find_layout(
    path: Path | str, sample: str, kind: Kind, header_names: frozenset[str], limits: Limits
) -> Layout:
    """The layout of the text that starts with `sample`.

    Raises:
        UserError: there is no readable row in the sample.
    """
    dialect = _find_dialect(sample, kind, limits)
    records = _records(dialect, io.StringIO(sample, newline=""), limits)
    sampled = [
        fields
        for _, fields in itertools.islice(records, 1000)
        if isinstance(fields, list) and any(cell.strip() for cell in fields)
    ]
    if not sampled:
        raise UserError(f"{path}: no readable row in it: is it really {kind.upper()}?")
    has_header = _has_header(sampled[0], sampled[1:], kind, header_names)
    columns = _column_names(sampled[0], has_header)
    # Excel writes blank columns at the end; they are kept only where some row fills them.
    del columns[max(map(_num_filled, sampled)) :]
    # Quoted fields may hold any line break; without quotes only the real one ends a row.
    return Layout(
        dialect, columns, has_header, "" if dialect.quoted or "\n" not in sample else "\n"
    )


def delimited_rows(
    open_stream: Opener, encoding: str, layout: Layout, bad: BadRows, limits: Limits
) -> Iterator[Row]:
    """The rows below the header; blank ones are passed over."""
    columns, header_pending = layout.columns, layout.has_header
    lines = text_lines(open_stream, encoding, layout.newline, bad, limits)
    for line, fields in _records(layout.dialect, lines, limits):
        if isinstance(fields, str):
            bad.add(line, fields)
            continue
        # In a file of one column `""` is a text, which is empty; a blank line is none.
        if not any(cell.strip() for cell in fields) and not (len(columns) == 1 and fields == [""]):
            continue
        if header_pending:
            header_pending = False
            continue
        if len(fields) != len(columns):
            extra = fields[len(columns) :]
            if len(fields) < len(columns) or any(cell.strip() for cell in extra):
                expected = "the header has" if layout.has_header else "the first row has"
                bad.add(line, f"{_count(fields)} where {expected} {len(columns)}")
                continue
        values = dict(zip(columns, fields, strict=False))
        fault = fault_of(values)
        if fault:
            bad.add(line, f"{fault}: {shown(layout.dialect.delimiter.join(fields))}")
        else:
            yield Row(line, values)


def _count(fields: Sequence[str]) -> str:
    return f"{len(fields)} field{'s' if len(fields) != 1 else ''}"

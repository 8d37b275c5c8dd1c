"""Rows out of files: JSON Lines, JSON, CSV, TSV and Parquet, plain or packed, in any encoding.

`read_rows` finds out by itself what a file is (by its suffix, and by its content where there is no
telling suffix), which encoding and delimiter it has and whether it has a header, and hands out its
rows one by one with their line numbers. Nothing is guessed in silence: an encoding other than UTF-8
is said through the `llmstages` logger, and a row that cannot be read either ends the reading with
one line that names it (`bad_rows="refuse"`) or is left out, counted and said (`"skip"`).
`open_table` does the same for a stream, once, and leaves the saying to its caller.

Rows are streamed: files of any size need constant memory, except JSON (one value), which is read
whole. No row that is handed out holds a NUL, a lone surrogate, `NaN` or `Infinity` in its JSON.
"""

import io
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast

from llmstages.data.columns import HEADER_NAMES, column_key
from llmstages.data.delimited import delimited_rows, find_layout
from llmstages.data.encodings import detect_encoding
from llmstages.data.json_rows import is_json, json_lines, json_list
from llmstages.data.opening import UNREADABLE, check_file, inner_suffix, open_bytes
from llmstages.data.parquet_rows import parquet_columns, parquet_rows
from llmstages.data.rows import (
    NO_LIMITS,
    BadRows,
    BadRowsPolicy,
    Limits,
    Opener,
    Row,
    Unusable,
    fault_of,
    located,
    shown,
    text_lines,
)
from llmstages.errors import UserError

logger = logging.getLogger("llmstages")

T = TypeVar("T")

Format = Literal["jsonl", "json", "csv", "tsv", "parquet", "lines"]

SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}

# An encoding is judged by the first 64 MiB; a later byte that does not fit makes its row a bad row.
ENCODING_BYTES = 64 * 2**20
SAMPLE_CHARACTERS = 2**20
COLUMN_ROWS = 200


@dataclass
class Table:
    """An opened file; iterate `rows` once.

    `bad` collects the rows left out; a reader on top may add the rows it cannot use. With
    `bad_rows="refuse"` the `UserError` comes when `rows` is exhausted, so that it can say how many
    rows are bad; what was handed out until then is to be dropped.
    """

    path: Path | str
    format: Format
    encoding: str
    columns: list[str]
    has_header: bool
    rows: Iterator[Row]
    bad: BadRows
    delimiter: str | None = None

    @property
    def skipped(self) -> list[tuple[int, str]]:
        """Line and reason of the first rows left out so far; `bad.count` is their number."""
        return self.bad.rows

    def usable(self, read: Callable[[Row], T]) -> Iterator[T]:
        """What `read` makes of each row; one for which it raises `Unusable` is a bad row.

        With `bad_rows="refuse"` nothing is handed out after the first bad row.
        """
        for row in self.rows:
            try:
                found = read(row)
            except Unusable as reason:
                self.bad.add(row.line, str(reason))
                continue
            if self.bad.policy == "skip" or not self.bad.count:
                yield found


def read_rows(
    path: Path | str,
    *,
    bad_rows: str = "refuse",
    format: str | None = None,
    column_names: Sequence[str] = (),
    quiet: bool = False,
) -> Table:
    """Open a file of rows.

    Args:
        path: the file; packed ones are unpacked (see `llmstages.data.opening`).
        bad_rows: `refuse` or `skip`.
        format: `jsonl`, `json`, `csv`, `tsv`, `parquet` or `lines`; found out when None.
        column_names: names given by the user; a first row that holds one of them is a header.
        quiet: say nothing about encoding and skipped rows, and never refuse (for a first look).

    Raises:
        UserError: the file is missing, empty, a directory or unreadable; and, from `rows`, with
            `bad_rows="refuse"`, the first bad row.
    """
    path = Path(path)
    check_file(path)
    bad = BadRows(path, "skip" if quiet else cast(BadRowsPolicy, bad_rows))
    kind = cast(Format | None, format) or SUFFIXES.get(inner_suffix(path.name))
    if kind == "parquet" or _read_start(path, 4) == b"PAR1":
        columns, rows = parquet_columns(path, path), parquet_rows(path, bad)
        table = Table(path, "parquet", "utf-8", columns, True, rows, bad)
    else:
        data = _read_start(path, ENCODING_BYTES)
        try:
            table = open_table(data, lambda: open_bytes(path), bad, kind, column_names)
        except UNREADABLE as error:
            raise _broken(path, error) from None
        del data
    if not quiet and table.encoding != "utf-8":
        logger.info("%s: read as %s", path, table.encoding)
    table.rows = _finished(table.rows, bad, quiet)
    return table


def table_with_columns(
    path: Path | str, bad_rows: str, column_names: Sequence[str], quiet: bool = False
) -> Table:
    """Open a file of rows, of which at least one has a column; arguments are those of `read_rows`.

    Raises:
        UserError: no row has one; and whatever `read_rows` raises.
    """
    table = read_rows(path, bad_rows=bad_rows, column_names=column_names, quiet=quiet)
    if not table.columns:
        if table.skipped:
            line, reason = table.skipped[0]
            raise UserError(f"{located(path, line)}: {reason}; none of the first rows can be used")
        raise UserError(f"{path}: no rows in it")
    return table


def open_table(
    data: bytes,
    open_stream: Opener,
    bad: BadRows,
    format: Format | None,
    column_names: Sequence[str] = (),
    limits: Limits = NO_LIMITS,
) -> Table:
    """The table in a stream of unpacked bytes; not for Parquet.

    Args:
        data: the start of the stream, by which encoding and layout are judged.
        open_stream: gives the stream, from its start; called once, when rows are read.
        bad: where bad rows are counted; its path names the stream in messages.
        format: what the suffix says, if anything.
        column_names: as for `read_rows`.
        limits: what is too long to be held in memory.

    Raises:
        UserError: the stream is empty or no table, at once or from `rows`. Errors of packed data
            pass through.
    """
    path = bad.path
    if is_blank(data):
        raise UserError(f"{path}: the file is empty")
    encoding = detect_encoding(data)
    sample_bytes = data[: SAMPLE_CHARACTERS * (2 if encoding.startswith("utf-16") else 1)]
    sample = sample_bytes.decode(encoding, errors="replace")
    if len(sample_bytes) < len(data):
        # The last line of a sample that is cut off is no evidence of anything.
        sample = sample[: sample.rfind("\n") + 1] or sample
    kind = _content_format(sample, format)
    if kind == "jsonl":
        rows = json_lines(open_stream, encoding, bad, limits)
        return _peeked(Table(path, kind, encoding, [], True, rows, bad))
    if kind == "json":
        rows = json_list(open_stream, encoding, bad, limits)
        return _peeked(Table(path, kind, encoding, [], True, rows, bad))
    if kind in ("csv", "tsv"):
        # The columns of a file without header are named by their numbers.
        given = (column_key(name) for name in column_names if not name.isdigit())
        layout = find_layout(path, sample, kind, HEADER_NAMES.union(given), limits)
        rows = delimited_rows(open_stream, encoding, layout, bad, limits)
        columns, delimiter = layout.columns, layout.dialect.delimiter
        return Table(path, kind, encoding, columns, layout.has_header, rows, bad, delimiter)
    rows = _lines(open_stream, encoding, bad, limits)
    return Table(path, "lines", encoding, ["text"], False, rows, bad)


def is_blank(data: bytes) -> bool:
    """Whether there is nothing but white space and byte order marks."""
    return not data.strip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")


def _content_format(sample: str, by_suffix: Format | None) -> Format:
    """The format, from the start of the text and, where that leaves a choice, from the suffix."""
    if by_suffix in ("csv", "tsv", "lines"):
        return by_suffix
    body = sample.lstrip("\ufeff \t\r\n")
    first_line, _, rest = body.partition("\n")
    if by_suffix == "jsonl":
        # A JSON array in a .jsonl file is common; a line that is a whole value is JSON Lines.
        return "json" if body.startswith("[") and not is_json(first_line) else "jsonl"
    if by_suffix == "json":
        return "jsonl" if body.startswith("{") and is_json(first_line) and rest.strip() else "json"
    if body.startswith("{") and is_json(first_line):
        return "jsonl"
    if re.match(r'\[\s*[\[{]|\{\s*"', body):
        return "json"
    lines = [line for line in io.StringIO(sample) if line.strip()][:1000]
    if not lines:
        return "lines"
    for delimiter, kind in (("\t", "tsv"), (",", "csv"), (";", "csv")):
        num_fields = lines[0].count(delimiter) + 1
        named = any(
            column_key(cell.strip('"')) in HEADER_NAMES for cell in lines[0].split(delimiter)
        )
        if num_fields < 2:
            continue
        if delimiter == "\t":
            fits = sum(line.count("\t") + 1 == num_fields for line in lines) / len(lines)
            if fits > 0.9 or named:
                return "tsv"
        elif named:
            return cast(Format, kind)
    return "lines"


def _lines(open_stream: Opener, encoding: str, bad: BadRows, limits: Limits) -> Iterator[Row]:
    """Plain text, one text a line; blank lines are passed over."""
    for number, line in enumerate(text_lines(open_stream, encoding, None, bad, limits), 1):
        text = line.rstrip("\n")
        if text.strip():
            fault = fault_of(text)
            if fault:
                bad.add(number, f"{fault}: {shown(text)}")
            else:
                yield Row(number, {"text": text})


def _peeked(table: Table) -> Table:
    """Fill in `columns` from the first rows; they are handed out all the same.

    What ends the reading among them is raised after them, as it would be without looking.
    """
    first: list[Row] = []
    rest = table.rows
    try:
        first += itertools.islice(rest, COLUMN_ROWS)
    except (UserError, *UNREADABLE) as error:
        if not first:
            raise
        rest = _failing(error)
    table.columns = list(dict.fromkeys(key for row in first for key in row.values))
    table.rows = itertools.chain(first, rest)
    return table


def _failing(error: Exception) -> Iterator[Row]:
    raise error
    yield


def _finished(rows: Iterable[Row], bad: BadRows, quiet: bool) -> Iterator[Row]:
    """The rows, then the verdict on the bad ones."""
    try:
        yield from rows
    except UNREADABLE as error:
        raise _broken(bad.path, error) from None
    if not quiet:
        bad.finish()


def _read_start(path: Path, size: int) -> bytes:
    """The first `size` bytes after unpacking."""
    try:
        with open_bytes(path) as stream:
            return stream.read(size)
    except UNREADABLE as error:
        raise _broken(path, error) from None


def _broken(path: Path | str, error: Exception) -> UserError:
    return UserError(f"{path}: broken or cut-off compressed data ({error}): fetch the file again")

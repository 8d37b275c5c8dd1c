"""Reading lists of links: Reddit submissions (Pushshift's JSON Lines, CSV) and plain lists of URLs.

The format is told by the first line: an object is JSON Lines, a header with a column `url` is CSV
or TSV, everything else a list with a URL a line, in which `#` begins a comment. All may be packed.
Lines are read one by one and never longer than `MAX_LINE_BYTES`.
"""

import csv
import glob
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llmstages.collect.sources.records import Note, Skipped
from llmstages.data.opening import UNREADABLE, check_file, inner_name, inner_suffix, open_bytes
from llmstages.errors import UserError

FIELD_CHARACTERS = 2**17
"""Longest field of a CSV file; far above Reddit's own limit."""
MAX_LINE_BYTES = 2**22
"""Longest line; a submission of 40,000 characters, Reddit's limit, is far shorter."""
LIST_SUFFIXES = frozenset((".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".urls"))
"""What is read of a folder, besides Pushshift's files, which are named `RS_2011-01` and packed."""
_PUSHSHIFT = re.compile(r"rs_(v2_)?\d{4}-\d{2}")
NO_SCORE = "no score"


@dataclass(frozen=True)
class Link:
    """A link as it stands in a list."""

    url: str
    score: int | None = None
    """Votes of the submission; None for what was not voted on."""
    is_submission: bool = False
    is_self: bool = False
    """A submission that is a text of its own."""


def link_files(paths: Sequence[str]) -> tuple[list[tuple[str, Path]], list[Note]]:
    """The files in `paths`, each once, sorted by locator, and what was left aside.

    Raises:
        UserError: a path does not exist, a glob matches nothing, or a folder holds no list.
    """
    found: dict[Path, str] = {}
    notes: list[Note] = []
    for given in paths:
        for root in _expanded(given):
            if not root.is_dir():
                check_file(root)
                found.setdefault(root.resolve(), root.name)
                continue
            inside = sorted(path for path in root.rglob("*") if path.is_file())
            lists = [path for path in inside if _is_list(path)]
            if not lists:
                raise UserError(
                    f"{given}: no list of links in this directory: readable are .jsonl .csv .tsv "
                    ".txt and RS_<year>-<month>, plain or packed"
                )
            if len(lists) < len(inside):
                notes.append(Note(given, f"{len(inside) - len(lists)} files left aside: no lists"))
            for path in lists:
                found.setdefault(path.resolve(), path.relative_to(root).as_posix())
    return sorted((locator, path) for path, locator in found.items()), notes


def read_links_file(locator: str, path: Path) -> Iterator[Link | Skipped | Note]:
    """The links of one file, in order. Raises `UserError` when it cannot be opened."""
    with open_bytes(path) as stream:
        try:
            yield from _read(stream)
        except UNREADABLE as error:
            yield Note(locator, f"broken or cut-off data ({error}): links before it are used")


def _expanded(given: str) -> list[Path]:
    path = Path(given).expanduser()
    if path.exists() or not glob.has_magic(given):
        return [path]
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    if not matches:
        raise UserError(f"{given}: no file matches")
    return matches


def _is_list(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return (
        inner_suffix(path.name) in LIST_SUFFIXES
        or _PUSHSHIFT.fullmatch(inner_name(path.name)) is not None
    )


def _read(stream: IO[bytes]) -> Iterator[Link | Skipped]:
    lines = _lines(stream)
    first = next((line for line in lines if isinstance(line, Skipped) or line.strip()), None)
    if first is None:
        return
    if isinstance(first, Skipped):
        yield first
        first = ""
    first = first.removeprefix("\ufeff")
    if first.lstrip().startswith("{"):
        yield from map(_submission, _with_first(first, lines))
        return
    delimiter = "\t" if "\t" in first else ","
    header = [name.strip().strip('"').lower() for name in first.split(delimiter)]
    if "url" in header:
        yield from _read_table(header, delimiter, lines)
        return
    for line in _with_first(first, lines):
        if isinstance(line, Skipped):
            yield line
        elif (text := line.strip()) and not text.startswith("#"):
            yield Link(text)


def _read_table(
    header: list[str], delimiter: str, lines: Iterator[str | Skipped]
) -> Iterator[Link | Skipped]:
    too_long: list[Skipped] = []

    def texts() -> Iterator[str]:
        for line in lines:
            if isinstance(line, Skipped):
                too_long.append(line)
            else:
                yield line

    csv.field_size_limit(FIELD_CHARACTERS)  # one for the process: other readers set their own
    rows = csv.reader(texts(), delimiter=delimiter)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error:
            yield Skipped("broken line")
            continue
        if row:
            yield _link(dict(zip(header, row, strict=False)))
    yield from too_long


def _submission(line: str | Skipped) -> Link | Skipped:
    if isinstance(line, Skipped):
        return line
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return Skipped("broken line")
    return _link(record) if isinstance(record, dict) else Skipped("broken line")


def _link(record: dict[str, Any]) -> Link | Skipped:
    url = record.get("url")
    if not isinstance(url, str) or not url.strip():
        return Skipped("no URL")
    is_submission = "score" in record
    score = None
    if is_submission:
        try:
            score = int(float(record["score"]))
        except (TypeError, ValueError, OverflowError):
            return Skipped(NO_SCORE)
    is_self = str(record.get("is_self")).lower() in ("true", "t", "1")
    # Reddit's interface writes `&` as HTML does.
    return Link(url.replace("&amp;", "&"), score, is_submission, is_self)


def _with_first(first: str, lines: Iterator[str | Skipped]) -> Iterator[str | Skipped]:
    yield first
    for line in lines:
        if isinstance(line, Skipped) or line.strip():
            yield line


def _lines(stream: IO[bytes]) -> Iterator[str | Skipped]:
    """The lines with their ends; a line that is too long is passed over."""
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)
            yield Skipped("line too long")
        else:
            yield line.decode("utf-8", errors="replace")

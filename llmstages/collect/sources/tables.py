"""Tables: JSON Lines, JSON, CSV, TSV and Parquet; a row is a document.

The column with the text is named by the recipe or found by its name. Title, date and the like are
kept, also when they stand in an object `metadata`, as in Dolma's files.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

from llmstages.collect.sources.opening import as_seekable
from llmstages.collect.sources.records import BrokenInput, Found, Note, RawDocument, Skipped
from llmstages.config.collect_groups import SourceConfig
from llmstages.data.columns import column_key
from llmstages.data.opening import inner_suffix, with_head
from llmstages.data.parquet_rows import parquet_columns, parquet_rows
from llmstages.data.rows import BadRows, BadRowsPolicy, Limits, Row
from llmstages.data.table import SUFFIXES, is_blank, open_table
from llmstages.errors import UserError

TEXT_COLUMNS = (
    *("text", "content", "body", "document", "raw_content", "article", "passage", "story"),
    *("page", "markdown", "message", "abstract", "description", "sentence", "code"),
)
"""Names by which the text column of a table is found, likeliest first."""
KEPT_COLUMNS = {
    "title": ("title",),
    "date": ("date", "created", "timestamp", "published", "date_download"),
    "author": ("author", "authors"),
    "license": ("license", "licence"),
    "language": ("language", "lang"),
    "id": ("id",),
}
"""What is kept in the metadata, and the columns it is taken from, likeliest first."""
URL_COLUMNS = ("url", "uri", "warc_target_uri")
NESTED_COLUMNS = ("metadata", "meta")
ENCODING_BYTES = 8 * 2**20
LIMITS = Limits(
    line_characters=2**26,
    # The csv module holds a field at four bytes a character: 16 Mi characters are 64 MB.
    field_characters=2**24,
    json_characters=2**27,
)
BAD_ROW = "bad row"


class NoTextColumn(UserError):
    """A table is sound, but none of its columns is the text."""


def read_table(
    stream: IO[bytes], locator: str, path: str, source: SourceConfig, bad_rows: str
) -> Iterator[Found]:
    """The rows of a table; `path` names it in messages.

    Raises:
        UserError: with `bad_rows="refuse"`, for the first bad row, once all have been seen.
        NoTextColumn: no column is the text.
    """
    bad = BadRows(path, cast(BadRowsPolicy, bad_rows))
    magic, stream = with_head(stream, 4)
    suffix = inner_suffix(locator)
    if magic == b"PAR1" or SUFFIXES.get(suffix) == "parquet":
        with as_seekable(stream) as file:
            yield from _documents(_parquet(file, bad, source), locator, bad)
    else:
        data, stream = with_head(stream, ENCODING_BYTES)
        if len(data) < ENCODING_BYTES and is_blank(data):
            yield Note(locator, "empty file")
            return
        try:
            table = open_table(data, lambda: stream, bad, SUFFIXES.get(suffix), limits=LIMITS)
        except UserError as error:
            raise _broken(error, path) from None
        del data
        if table.encoding != "utf-8":
            yield Note(locator, f"read as {table.encoding}")
        if table.columns:
            kept = _Kept.of(table.columns, source.text_column, path)
            yield from _documents((kept, table.rows), locator, bad)
        elif not bad.count:
            yield Note(locator, "no rows in it")
    if bad.count:
        if bad.policy == "refuse":
            raise bad.refusal()
        yield Skipped(BAD_ROW, bad.count)
        yield Note(locator, bad.skipped())


@dataclass(frozen=True)
class _Kept:
    """Which columns of a table are kept, and as what."""

    text: str
    by_key: Mapping[str, str]
    """The columns by their keys, the text's left out."""

    @classmethod
    def of(cls, columns: Sequence[str], wanted: str | None, path: str) -> "_Kept":
        text = _text_column(path, columns, wanted)
        return cls(text, {column_key(name): name for name in columns if name != text})

    def columns(self) -> list[str]:
        """All columns that are read."""
        names = (*sum(KEPT_COLUMNS.values(), ()), *URL_COLUMNS, *NESTED_COLUMNS)
        return [self.text, *(self.by_key[name] for name in names if name in self.by_key)]

    def values(self, row: Row) -> dict[str, Any]:
        """Kept values by the keys of their columns; those of nested objects where not shadowed."""
        values = {key: row.values.get(name) for key, name in self.by_key.items()}
        for key in NESTED_COLUMNS:
            if isinstance(nested := values.get(key), dict):
                inner = {column_key(str(name)): value for name, value in nested.items()}
                values = inner | {name: value for name, value in values.items() if value}
        return values


def _parquet(file: IO[bytes], bad: BadRows, source: SourceConfig) -> tuple[_Kept, Iterator[Row]]:
    path = str(bad.path)
    try:
        columns = parquet_columns(file, path)
    except UserError as error:
        raise _broken(error, path) from None
    kept = _Kept.of(columns, source.text_column, path)
    return kept, parquet_rows(file, bad, kept.columns())


def _documents(table: tuple[_Kept, Iterator[Row]], locator: str, bad: BadRows) -> Iterator[Found]:
    """One document a row; a row without text is a bad one."""
    kept, rows = table
    ordinal = -1
    while True:
        try:
            row = next(rows, None)
        except UserError as error:
            raise _broken(error, str(bad.path)) from None
        if row is None:
            return
        ordinal += 1
        text = row.values.get(kept.text)
        if not isinstance(text, str):
            bad.add(row.line, f"no text in {kept.text!r}")
            continue
        values = kept.values(row)
        url = next((values[key] for key in URL_COLUMNS if _is_word(values.get(key))), None)
        metadata = {"file": locator, "line": str(row.line)}
        for name, columns in KEPT_COLUMNS.items():
            value = next((values[key] for key in columns if _is_word(values.get(key))), None)
            if value is not None:
                metadata[name] = str(value)
        if url is None and metadata.get("id", "").startswith(("http://", "https://")):
            url = metadata["id"]
        if metadata.get("id") == url:
            metadata.pop("id", None)
        yield RawDocument(locator, ordinal, text, None if url is None else str(url), metadata)


def _is_word(value: object) -> bool:
    """Whether a value says something short."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""


def _text_column(path: str, columns: Sequence[str], wanted: str | None) -> str:
    """The column that holds the text."""
    listed = ", ".join(columns[:50]) or "none"
    if wanted is not None:
        if wanted not in columns:
            raise NoTextColumn(f"{path}: no column {wanted!r}, its columns are: {listed}")
        return wanted
    if len(columns) == 1:
        return columns[0]
    keys = {column_key(name): name for name in columns}
    for name in TEXT_COLUMNS:
        if name in keys:
            return keys[name]
    raise NoTextColumn(
        f"{path}: no text column found, its columns are: {listed}: name it in the recipe with "
        "text_column"
    )


def _broken(error: UserError, path: str) -> BrokenInput:
    """What a reader of rows says of a file that is broken, without the file's name."""
    return BrokenInput(re.sub(r"^:(?=\d)", "line ", str(error).removeprefix(path)).lstrip(": "))

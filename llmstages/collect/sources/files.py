"""Files, folders and globs: text, Markdown, HTML, JSON Lines, JSON, CSV, TSV, Parquet.

All may be packed with gzip or Zstandard. Folders are searched for every readable format; what is
no text is left aside and counted. A text file or page is one document, a row of a table is one.
Every encoding other than UTF-8 is said.
"""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llmstages.collect.sources.html import page_text
from llmstages.collect.sources.records import Input, Note, RawDocument
from llmstages.data.table import column_key, decode_bytes, open_bytes, read_rows
from llmstages.errors import UserError

TEXT_SUFFIXES = frozenset(
    (
        *(".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".org", ".adoc", ".asc", ".log"),
        *(".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".go", ".java", ".js", ".ts"),
        *(".kt", ".lua", ".php", ".pl", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift"),
    )
)
HTML_SUFFIXES = frozenset((".html", ".htm", ".xhtml"))
TABLE_SUFFIXES = frozenset(
    (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".parquet", ".pq")
)
PACKED_SUFFIXES = (".gz", ".zst")

TEXT_COLUMNS = (
    *("text", "content", "body", "document", "raw_content", "article", "passage", "story"),
    *("page", "markdown", "message", "abstract", "description", "sentence", "code"),
)
"""Names by which the text column of a table is found, likeliest first."""
TITLE_COLUMNS = ("title", "date", "timestamp", "author", "license", "language")
"""Columns kept in the metadata."""

SNIFF_BYTES = 8192


def list_files(source: str, paths: Sequence[str]) -> tuple[list[Input], list[Note]]:
    """The readable files under `paths`, sorted by locator, with their hashes.

    Raises:
        UserError: a path does not exist, a glob matches nothing, a file is not text, or no
            readable file is found.
    """
    found: dict[str, str] = {}  # absolute path -> locator
    aside: Counter[str] = Counter()
    for given in paths:
        for root in _expand(given):
            if root.is_dir():
                files, unread = _walk(root)
                if not files:
                    kinds = f" (only {_kinds(unread)})" if unread else ""
                    raise UserError(
                        f"{given}: no text in this directory{kinds}: readable are .txt .md .html "
                        ".jsonl .json .csv .tsv .parquet, plain, .gz or .zst"
                    )
                aside.update(unread)
                for path in files:
                    found.setdefault(str(path.resolve()), path.relative_to(root).as_posix())
            elif _format(root) is None:
                raise UserError(
                    f"{given}: not a text file: readable are .txt .md .html .jsonl .json .csv "
                    ".tsv .parquet, plain, .gz or .zst"
                )
            else:
                found.setdefault(str(root.resolve()), root.name)
    if not found:
        raise UserError(
            f"source {source} has no paths: name files or folders, as in "
            "`llmstages collect corpus=local my_texts/`"
        )
    found = _distinct(found)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = list(pool.map(_sha256, found))
    inputs = [
        Input(locator, path, os.path.getsize(path), digest)
        for (path, locator), digest in zip(found.items(), hashes, strict=True)
    ]
    notes = [Note(source, f"left aside, no readable text: {_kinds(aside)}")] if aside else []
    return sorted(inputs, key=lambda entry: entry.locator), notes


def read_file(entry: Input, text_column: str | None, bad_rows: str) -> Iterator[RawDocument | Note]:
    """The documents of one file."""
    path = Path(entry.path)
    kind = _format(path)
    if kind == "table":
        if entry.bytes == 0:
            yield Note(entry.locator, "empty file")
            return
        yield from _read_table(entry, text_column, bad_rows)
        return
    try:
        with open_bytes(path) as stream:
            data = stream.read()
    except (OSError, EOFError) as error:
        raise UserError(
            f"{path}: broken or cut-off data ({error}): fetch the file again"
        ) from error
    if kind == "html":
        text, encoding = page_text(data)
    else:
        text, encoding = decode_bytes(data)
    if encoding not in ("utf-8", "ascii"):
        yield Note(entry.locator, f"read as {encoding}")
    yield RawDocument(entry.locator, 0, text, metadata={"file": entry.locator})


def _read_table(
    entry: Input, text_column: str | None, bad_rows: str
) -> Iterator[RawDocument | Note]:
    """One document a row."""
    path = Path(entry.path)
    # Quiet: in a worker process nobody hears the logger; encoding and bad rows are said below.
    table = read_rows(path, bad_rows="skip", quiet=True)
    if table.encoding and table.encoding != "utf-8" and table.format != "parquet":
        yield Note(entry.locator, f"read as {table.encoding}")
    column = _text_column(path, table.columns, text_column)
    keys = {column_key(name): name for name in table.columns}
    url_column = keys.get("url") or keys.get("uri")
    kept = [keys[key] for key in TITLE_COLUMNS if key in keys and keys[key] != column]
    bad: list[tuple[int, str]] = []
    for ordinal, row in enumerate(table.rows):
        text = row.values.get(column)
        if not isinstance(text, str):
            bad.append((row.line, f"no text in {column!r}"))
            continue
        metadata = {"file": entry.locator, "line": str(row.line)}
        for name in kept:
            value: Any = row.values.get(name)
            if isinstance(value, (str, int, float)) and value != "":
                metadata[name] = str(value)
        url = row.values.get(url_column) if url_column else None
        yield RawDocument(
            entry.locator, ordinal, text, url if isinstance(url, str) else None, metadata
        )
    bad = sorted(bad + table.skipped)
    if bad:
        line, reason = bad[0]
        rows = f"{len(bad):,} bad row{'s' if len(bad) > 1 else ''}"
        if bad_rows == "refuse":
            raise UserError(
                f"{path}:{line}: {reason} ({rows} in the file; correct them, or leave them out "
                "with bad_rows=skip)"
            )
        yield Note(entry.locator, f"{rows} skipped, the first on line {line}: {reason}")


def _text_column(path: Path, columns: Sequence[str], wanted: str | None) -> str:
    """The column that holds the text."""
    listed = ", ".join(columns) or "none"
    if wanted is not None:
        if wanted not in columns:
            raise UserError(f"{path}: no column {wanted!r}, its columns are: {listed}")
        return wanted
    if len(columns) == 1:
        return columns[0]
    keys = {column_key(name): name for name in columns}
    for name in TEXT_COLUMNS:
        if name in keys:
            return keys[name]
    raise UserError(
        f"{path}: no text column found, its columns are: {listed}: name it in the recipe with "
        "text_column"
    )


def _expand(given: str) -> list[Path]:
    """The path itself, or what a glob matches."""
    path = Path(given).expanduser()
    if path.exists():
        return [path]
    if glob.has_magic(given):
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise UserError(f"{given}: matches no file")
        return [Path(match) for match in matches if _wanted(Path(match))]
    parent = path.parent
    names = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1, cutoff=0.5)
    hint = f": did you mean {parent / near[0]}?" if near else ": check the path"
    raise UserError(f"{given}: no such file or directory{hint}")


def _wanted(path: Path) -> bool:
    return path.is_dir() or _format(path) is not None


def _walk(root: Path) -> tuple[list[Path], Counter[str]]:
    """Readable files under a folder in a fixed order, and the suffixes of the others, counted."""
    files: list[Path] = []
    aside: Counter[str] = Counter()
    for directory, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(directory) / name
            if name.startswith(".") or not path.is_file():
                continue
            # In a folder an unknown suffix is more often data than prose (.xml, .svg, .lock).
            suffix = _suffix(path)
            if (suffix and suffix not in _KNOWN_SUFFIXES) or _format(path) is None:
                aside[_suffix(path) or "no suffix"] += 1
            else:
                files.append(path)
    return files, aside


_KNOWN_SUFFIXES = TEXT_SUFFIXES | HTML_SUFFIXES | TABLE_SUFFIXES


def _suffix(path: Path) -> str:
    """The suffix that tells the format: that before `.gz` or `.zst`."""
    name = path.name.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    return Path(name).suffix


def _format(path: Path) -> str | None:
    """`table`, `html` or `text`; None when it is not readable."""
    suffix = _suffix(path)
    if suffix in TABLE_SUFFIXES:
        return "table"
    if suffix in HTML_SUFFIXES:
        return "html"
    if suffix in TEXT_SUFFIXES or _looks_like_text(path):
        return "text"
    return None


def _looks_like_text(path: Path) -> bool:
    """Whether the first bytes of a file without a telling suffix are text."""
    try:
        with open_bytes(path) as stream:
            head = stream.read(SNIFF_BYTES)
    except (OSError, EOFError, UserError):
        return False
    text, _ = decode_bytes(head)
    odd = sum(character < " " and character not in "\t\n\r\f" for character in text)
    return bool(text) and (odd + text.count("\ufffd")) * 100 <= len(text)


def _distinct(found: dict[str, str]) -> dict[str, str]:
    """Locators made unique: where two are equal, all become relative to the common folder."""
    if len(set(found.values())) == len(found):
        return found
    common = os.path.commonpath([os.path.dirname(path) for path in found])
    return {path: Path(path).relative_to(common).as_posix() for path in found}


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kinds(aside: Counter[str]) -> str:
    total = sum(aside.values())
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in aside.most_common(5))
    return f"{total} file{'s' if total > 1 else ''} ({kinds})"

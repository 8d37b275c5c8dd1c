"""Evaluation texts out of files: what decontamination searches for.

Every string of every row counts, however deep in it: question, choices, passage, label. Files of
any format that `llmstages.data.table` reads, plain text, and folders of both.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from llmstages.data.encodings import decode_bytes
from llmstages.data.opening import UNREADABLE, check_file, inner_suffix, open_bytes
from llmstages.data.table import SUFFIXES, read_rows
from llmstages.duplicates.words import BLOCK_CHARACTERS
from llmstages.errors import UserError

FOLDER_SUFFIXES = (*SUFFIXES, ".txt")
"""Files read in folders, plain or compressed."""


def read_evaluation_rows(paths: Sequence[str]) -> Iterator[list[str]]:
    """The texts of each row of the files at `paths`, and of those in folders among them.

    Raises:
        UserError: a path does not exist, or nothing can be read there.
    """
    for name in paths:
        path = Path(name).expanduser()
        for file in _files_in(path) if path.is_dir() else [path]:
            check_file(file)
            try:
                yield from _rows_of_file(file)
            except UNREADABLE as error:
                raise UserError(f"{file}: broken or cut-off data ({error})") from error


def _files_in(folder: Path) -> list[Path]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if inner_suffix(path.name) in FOLDER_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        known = ", ".join(FOLDER_SUFFIXES)
        raise UserError(f"{folder}: no evaluation file in this folder (known are {known})")
    return files


def _rows_of_file(path: Path) -> Iterator[list[str]]:
    with open_bytes(path) as stream:
        if stream.read(4) == b"PK\x03\x04":
            raise UserError(f"{path}: a ZIP archive: unpack it and name the folder")
    table = read_rows(path, bad_rows="skip")
    if table.format == "lines":
        # Prose is told apart by blank lines; without any, each line is an item.
        with open_bytes(path) as stream:
            text, _ = decode_bytes(stream.read())
        paragraphs = re.split(r"\n\s*\n", text.strip())
        for paragraph in paragraphs if len(paragraphs) > 1 else text.splitlines():
            if paragraph.strip():
                yield [paragraph]
        return
    for row in table.rows:
        yield list(_strings(row.values))


def _strings(value: object) -> Iterator[str]:
    """Every string in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


def row_blocks(rows: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Rows by the block, for hashing many texts at once."""
    block: list[list[str]] = []
    size = 0
    for row in rows:
        block.append(row)
        size += sum(map(len, row))
        if size >= BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block

"""Step 1, read: inputs -> raw documents.

Inputs are dealt out in tasks: a large one by itself, small ones together. A task writes its
documents in parts of bounded size and then a record of them; a task with a record is not done
again, and one whose inputs did not change is found again by its name.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmstages.collect.engine import Engine
from llmstages.collect.sources import read_input
from llmstages.collect.sources.records import Input, Note, RawDocument, Skipped
from llmstages.collect.work import complete, read_json, step_key, write_json
from llmstages.config.collect_groups import SourceConfig
from llmstages.errors import UserError
from llmstages.text.unicode import well_formed

TASK_BYTES = 16_000_000
"""Small inputs are read together, about so many bytes on disk: a task takes seconds."""
TASK_INPUTS = 512
"""And about so many of them."""
PART_BYTES = (4_000_000, 64_000_000)
"""Least and most text in one part of the result: the next step works on whole parts. The size is
the first of these, doubled until there are fewer than twice `PARTS` of them: many, so that all
workers end at about the same time, and seldom another when an input is added."""
PARTS = 32
ROWS_BYTES = 4_000_000
"""Text written at once."""
LONGEST_CHARACTERS = 16 * 1024 * 1024
"""A longer text is cut into several documents, so that each fits into memory many times."""
PARALLEL_BYTES = 4_000_000
"""Below this much input, starting worker processes takes longer than reading."""

RAW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("metadata", pa.string()),
        ("whole", pa.uint64()),  # the text that this is a piece of; null: it is whole
        ("piece", pa.int64()),
    ]
)


@dataclass
class Reading:
    """What a task, or all of them, brought."""

    parts: list[str] = field(default_factory=list)
    """File names, with the bytes of text in each."""
    part_bytes: list[int] = field(default_factory=list)
    documents: int = 0
    source_bytes: dict[str, int] = field(default_factory=dict)
    """Text by source."""
    skipped: dict[str, dict[str, int]] = field(default_factory=dict)
    """Records that gave no document: source -> reason -> count."""
    notes: list[Note] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        """Add the record of one task."""
        self.parts += record["parts"]
        self.part_bytes += record["part_bytes"]
        self.documents += record["documents"]
        self.notes += [Note(**note) for note in record["notes"]]
        for source, size in record["source_bytes"].items():
            self.source_bytes[source] = self.source_bytes.get(source, 0) + size
        for source, reasons in record["skipped"].items():
            counts = self.skipped.setdefault(source, {})
            for reason, count in reasons.items():
                counts[reason] = counts.get(reason, 0) + count


def read_inputs(
    inputs: Mapping[str, Sequence[Input]],
    sources: Mapping[str, SourceConfig],
    bad_rows: str,
    directory: Path,
    engine: Engine,
    advance: Callable[[int], None],
) -> Reading:
    """Write the raw documents of all inputs into `directory`.

    Raises:
        UserError: an input cannot be read.
    """
    total = sum(entry.bytes for entries in inputs.values() for entry in entries)
    part_bytes = part_size(total)
    tasks = {task_name(task, part_bytes): task for task in deal(inputs)}
    todo = [name for name in tasks if not (directory / f"{name}.json").exists()]
    for name in todo:
        write_json(directory / f"{name}.task", [(s, asdict(entry)) for s, entry in tasks[name]])
    size = sum(entry.bytes for name in todo for _, entry in tasks[name])

    def run(name: str) -> str:
        return run_task(name, directory, sources, bad_rows, part_bytes)

    for report in engine.run(run, todo, parallel=size > PARALLEL_BYTES):
        documents, error = json.loads(report)
        advance(documents)
        if error:
            raise UserError(error)
    reading = Reading()
    for name in sorted(tasks):
        reading.add(read_json(directory / f"{name}.json"))
    remove_others(directory, set(tasks))
    for name in tasks:
        (directory / f"{name}.task").unlink(missing_ok=True)
    reading.notes.sort(key=lambda note: (note.text, note.locator))
    return reading


def part_size(total: int) -> int:
    """Text in one part, for so much input."""
    size = PART_BYTES[0]
    while size < PART_BYTES[1] and total >= 2 * PARTS * size:
        size *= 2
    return size


def deal(inputs: Mapping[str, Sequence[Input]]) -> list[list[tuple[str, Input]]]:
    """Tasks of (source, input), largest first, so that no worker ends long after the others.

    A task ends at an input whose name says so, by a hash, the likelier the larger it is. So an
    input that is added changes the task that it falls into and no other.
    """
    tasks: list[list[tuple[str, Input]]] = []
    for source in sorted(inputs):
        task: list[tuple[str, Input]] = []
        for entry in inputs[source]:
            task.append((source, entry))
            if _ends_task(entry):
                tasks.append(task)
                task = []
        if task:
            tasks.append(task)
    return sorted(tasks, key=lambda task: -sum(entry.bytes for _, entry in task))


def _ends_task(entry: Input) -> bool:
    share = entry.bytes / TASK_BYTES + 1 / TASK_INPUTS
    digest = hashlib.blake2b(entry.locator.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "little") < share * 2**32


def task_name(task: Sequence[tuple[str, Input]], part_bytes: int) -> str:
    """A task's name: equal for equal content under equal names, cut into parts of equal size."""
    return step_key([(source, entry.locator, entry.sha256) for source, entry in task], part_bytes)


def remove_others(directory: Path, names: set[str]) -> None:
    """Remove what tasks left that are not needed any more."""
    for path in directory.iterdir():
        if path.name.split(".")[0].split("-")[0] not in names:
            path.unlink(missing_ok=True)  # a process that outlived a killed run may be at it


def run_task(
    name: str,
    directory: Path,
    sources: Mapping[str, SourceConfig],
    bad_rows: str,
    part_bytes: int,
) -> str:
    """Read the inputs of one task. Exceptions lose their type in a worker: errors are reported."""
    inputs = [(source, Input(**entry)) for source, entry in read_json(directory / f"{name}.task")]
    parts = PartsWriter(directory, name, part_bytes)
    reading = Reading()
    try:
        with parts:
            for source, entry in inputs:
                for found in read_input(entry, sources[source], bad_rows):
                    if isinstance(found, Note):
                        reading.notes.append(found)
                    elif isinstance(found, Skipped):
                        reasons = reading.skipped.setdefault(source, {})
                        reasons[found.reason] = reasons.get(found.reason, 0) + found.count
                    else:
                        reading.documents += 1
                        found.metadata.setdefault("file", entry.locator)
                        size = parts.add(source, found)
                        reading.source_bytes[source] = reading.source_bytes.get(source, 0) + size
    except UserError as error:
        return json.dumps([0, str(error)])
    reading.parts, reading.part_bytes = parts.names, parts.sizes
    write_json(directory / f"{name}.json", asdict(reading))
    return json.dumps([reading.documents, None])


class PartsWriter:
    """Writes raw documents as `<task>-00000.parquet`, `<task>-00001.parquet`, ..."""

    def __init__(self, directory: Path, task: str, part_bytes: int) -> None:
        self.names: list[str] = []
        self.sizes: list[int] = []
        self._directory = directory
        self._task = task
        self._most_bytes = part_bytes
        self._rows: list[dict[str, Any]] = []
        self._rows_bytes = 0
        self._part_bytes = 0
        self._staging: Any = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "PartsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            self._close()
        elif self._writer is not None:
            self._writer.close()
            self._staging.__exit__(kind, *_)

    def add(self, source: str, document: RawDocument) -> int:
        """Add a document; returns its size in bytes."""
        size = 0
        metadata = well_formed(json.dumps(document.metadata, ensure_ascii=False))
        for ordinal, piece, number in pieces(document):
            text = well_formed(piece)
            self._rows.append(
                {
                    "id": document_id(source, document.locator, ordinal),
                    "text": text,
                    "source": source,
                    "url": document.url and well_formed(document.url),
                    "metadata": metadata,
                    "whole": None if number is None else whole_text(source, document),
                    "piece": number,
                }
            )
            piece_bytes = len(text.encode("utf-8"))
            size += piece_bytes
            self._rows_bytes += piece_bytes
            if self._rows_bytes >= ROWS_BYTES or len(self._rows) >= 10_000:
                self._flush()
        return size

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            name = f"{self._task}-{len(self.names):05d}.parquet"
            self.names.append(name)
            self._staging = complete(self._directory / name)
            self._writer = pq.ParquetWriter(
                self._staging.__enter__(), RAW_SCHEMA, compression="lz4"
            )
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=RAW_SCHEMA))
        self._part_bytes += self._rows_bytes
        self._rows, self._rows_bytes = [], 0
        if self._part_bytes >= self._most_bytes:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._staging.__exit__(None, None, None)
            self.sizes.append(self._part_bytes)
            self._writer, self._part_bytes = None, 0


def pieces(document: RawDocument) -> Iterator[tuple[int | str, str, int | None]]:
    """The document itself, or the pieces of one that is too long, cut after lines or words.

    With each the ordinal of its id, and its number among the pieces of the text, if it is one.
    """
    text = document.text
    if len(text) <= LONGEST_CHARACTERS:
        yield document.ordinal, text, document.piece
        return
    start, number = 0, 0
    while start < len(text):
        end = start + LONGEST_CHARACTERS
        if end < len(text):
            for mark in ("\n\n", "\n", " "):
                place = text.rfind(mark, start + LONGEST_CHARACTERS // 2, end)
                if place >= 0:
                    end = place + len(mark)
                    break
        yield f"{document.ordinal}.{number}", text[start:end], number
        start, number = end, number + 1


def whole_text(source: str, document: RawDocument) -> int:
    """A number for the text that a document, or what it is cut into, is a piece of."""
    ordinal = document.ordinal if document.piece is None else "all"
    return int(document_id(source, document.locator, ordinal)[:16], 16)


def document_id(source: str, locator: str, ordinal: int | str) -> str:
    """A document's name for good: 32 hexadecimal digits, the same wherever the source lies."""
    key = f"{source}\0{locator}\0{ordinal}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=16).hexdigest()

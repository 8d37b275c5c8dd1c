"""The corpus directory: the one reader and writer of documents, drop ledger and manifest.

    corpora/<name>/
      documents/{train,validation}/<source>-00000.parquet  id, text, source, url, language, ...
      dropped/<source>-00000.parquet                       id, text, source, rule, value, ...
      tokenizer/  tokens/                                  made from the documents
      manifest.json                                        written last: what it is made of
      collect.json                                         how fast and on what machine

Rows are sorted by (source, id). The manifest holds neither times nor absolute paths: equal input
and settings give an equal file, and `Corpus.manifest_hash` is the hash of that file.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from llmstages.data.json_files import as_dataclass, parse_json, read_object
from llmstages.errors import UserError

FORMAT_VERSION = 2
MANIFEST_FILE = "manifest.json"

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")

DOCUMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("language", pa.string()),
        ("metadata", pa.string()),  # a JSON object
    ]
)
DROPPED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("duplicate_of", pa.string()),  # id of the document kept instead, for duplicates
        ("url", pa.string()),
        ("metadata", pa.string()),  # a JSON object
    ]
)
REQUIRED_COLUMNS = {"id", "text", "source"}
BATCH_ROWS = 256
"""Rows read at once."""
DOCUMENTS_HASHED = pa.schema([("id", pa.string()), ("text", pa.large_string())])
"""What of a document is in the manifest's hash."""
HASHED_ROWS = 1024
"""Rows whose ids, then texts, are hashed; part of what `documents_sha256` means."""


@dataclass(frozen=True)
class Document:
    """One text of a corpus; columns that were not asked for keep their defaults."""

    id: str = ""
    text: str = ""
    source: str = ""
    url: str | None = None
    language: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DroppedDocument:
    """One text that a rule left out, with what the rule measured."""

    id: str
    text: str
    source: str
    rule: str
    value: float | None
    threshold: float | None
    duplicate_of: str | None
    url: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """Size of a set of documents; bytes are of UTF-8 text."""

    documents: int = 0
    words: int = 0
    bytes: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.documents + other.documents, self.words + other.words, self.bytes + other.bytes
        )


@dataclass(frozen=True)
class InputRecord:
    """One file or package that was read: its name within the source, size and hash."""

    locator: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SourceManifest:
    """What one source brought and what became of it."""

    name: str
    kind: str
    license: str | None
    weight: float | None
    priority: int
    published_tokens: float | None
    published_epochs: float | None
    inputs: list[InputRecord]
    skipped: dict[str, int]
    """Records that gave no document, by reason."""
    extracted: Counts
    """Before cleaning."""
    dropped: dict[str, Counts]
    """After cleaning, by rule."""
    decontaminated: Counts
    """Documents with evaluation text, and what was cut out of them or dropped with them."""
    train: Counts
    validation: Counts
    documents_sha256: str
    """Hash of the ids and texts kept, in order."""


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`."""

    format_version: int
    recipe: str
    sources: list[SourceManifest]
    config: dict[str, Any]
    """The resolved settings that shape the documents and the tokenizer; no paths."""
    versions: dict[str, str]

    def to_bytes(self) -> bytes:
        """The file's content, equal for equal manifests."""
        return (
            json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        ).encode("utf-8")

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest. Raises `UserError` when it is missing, broken or of another format."""
        try:
            values = read_object(path)
            if (version := values.get("format_version")) == FORMAT_VERSION:
                manifest = as_dataclass(cls, values)
                manifest.check_names()
                return manifest
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: not a readable corpus manifest ({error}): collect the corpus again"
            ) from error
        raise UserError(
            f"{path}: corpus format {version}, this version reads {FORMAT_VERSION}: "
            "collect the corpus again"
        )

    def check_names(self) -> None:
        """Raise `ValueError` for a source whose name is no part of a file name."""
        for source in self.sources:
            if not source.name or set(source.name) & set("/\\\0*?["):
                raise ValueError(f"a source is named {source.name!r}")

    def write(self, directory: Path) -> None:
        """Write `manifest.json`, which makes the directory a finished corpus."""
        staging = directory / (MANIFEST_FILE + ".tmp")
        staging.write_bytes(self.to_bytes())
        staging.rename(directory / MANIFEST_FILE)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the training text drawn from each source: its weight, or its size in bytes."""
        weights = {
            source.name: source.train.bytes if source.weight is None else source.weight
            for source in self.sources
        }
        total = sum(weights.values()) or 1
        return {name: weight / total for name, weight in weights.items()}

    @property
    def train(self) -> Counts:
        """All training documents."""
        return sum((source.train for source in self.sources), Counts())

    @property
    def validation(self) -> Counts:
        """All validation documents."""
        return sum((source.validation for source in self.sources), Counts())


class Corpus:
    """A corpus on disk."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Wrap a directory whose documents are complete; `open` is the way in for readers."""
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def open(cls, directory: Path) -> "Corpus":
        """Open a finished corpus; `~` is the home. Raises `UserError` for what is none."""
        directory = Path(os.path.expanduser(directory))
        if not directory.is_dir():
            raise UserError(f"{directory}: no such corpus directory{_nearest_corpus(directory)}")
        path = directory / MANIFEST_FILE
        if not path.exists():
            raise UserError(
                f"{directory}: not a corpus, it has no {MANIFEST_FILE}: "
                "make one with `llmstages collect`"
            )
        return cls(directory, Manifest.read(path))

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.directory.resolve().name

    @property
    def manifest_hash(self) -> str:
        """sha256 (hex) of the manifest: names the content wherever the directory lies."""
        return hashlib.sha256(self.manifest.to_bytes()).hexdigest()

    @property
    def sources(self) -> list[str]:
        """Names of the sources, sorted."""
        return [source.name for source in self.manifest.sources]

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each source that was given one."""
        return {
            source.name: source.weight
            for source in self.manifest.sources
            if source.weight is not None
        }

    @property
    def tokenizer_dir(self) -> Path:
        """Where the tokenizer trained on this corpus is."""
        return self.directory / "tokenizer"

    def counts(self, split: Split) -> Counts:
        """Documents, words and bytes of a split."""
        return self.manifest.train if split == "train" else self.manifest.validation

    def documents(
        self, split: Split, source: str | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[Document]:
        """The documents of a split in order, of all sources or of one; few are in memory at once.

        `columns` names the fields to read; the others keep their defaults.
        """
        for row in self._rows(Path("documents") / split, source, columns):
            yield Document(**row)

    def dropped(self, source: str | None = None) -> Iterator[DroppedDocument]:
        """The drop ledger in order."""
        for row in self._rows(Path("dropped"), source, None):
            yield DroppedDocument(**row)

    def documents_sha256(self, source: str) -> str:
        """Hash of a source's documents as they are on disk now: `SourceManifest.documents_sha256`
        when nothing was changed since."""
        folders: dict[str, Path] = {
            "dropped": self.directory / "dropped",
            **{split: self.directory / "documents" / split for split in SPLITS},
        }
        parts = {name: part_paths(folder, source) for name, folder in folders.items()}
        buckets = sorted({path.name for paths in parts.values() for path in paths})
        hashes = []
        for bucket in buckets:
            found = {}
            for name, folder in folders.items():
                rows = DOCUMENTS_HASHED.empty_table()
                if folder / bucket in parts[name]:
                    rows = pq.read_table(
                        folder / bucket, columns=DOCUMENTS_HASHED.names, partitioning=None
                    )
                found[name] = rows_sha256(rows)
            hashes.append(found)
        return sha256_of_parts(hashes)

    def find(self, prefix: str) -> tuple[Split, Document] | DroppedDocument | None:
        """The document whose id begins so, kept (with its split) or dropped; None without any.

        Rows are sorted by id, so few of them are read, however large the corpus is.
        """
        for split in SPLITS:
            for row in self._rows_of(Path("documents") / split, prefix):
                return split, Document(**row)
        for row in self._rows_of(Path("dropped"), prefix):
            return DroppedDocument(**row)
        return None

    def _rows_of(self, folder: Path, prefix: str) -> Iterator[dict[str, Any]]:
        wanted = [("id", ">=", prefix), ("id", "<", prefix + "\uffff")]
        for name in self.sources:
            for path in part_paths(self.directory / folder, name):
                with _broken_part(path):
                    _check_schema(pq.read_schema(path), folder)
                    table = pq.read_table(path, filters=wanted, partitioning=None)
                    rows = [_row(row) for row in table.to_pylist()]
                yield from rows

    def _rows(
        self, folder: Path, source: str | None, columns: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        for name in self.sources if source is None else [source]:
            for path in part_paths(self.directory / folder, name):
                with _broken_part(path), pq.ParquetFile(path) as file:
                    _check_schema(file.schema_arrow, folder)
                    wanted = list(columns) if columns is not None else None
                    for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
                        for column in REQUIRED_COLUMNS.intersection(batch.schema.names):
                            if batch[column].null_count:
                                raise ValueError(f"a row without {column}")
                        yield from map(_row, batch.to_pylist())


def rows_sha256(table: pa.Table) -> str:
    """Hash of the ids and texts of a part, in order."""
    digest = hashlib.sha256()
    rows = table.select(DOCUMENTS_HASHED.names).combine_chunks()
    for batch in rows.to_batches(max_chunksize=HASHED_ROWS):
        for column in batch.columns:
            for value in column.to_pylist():
                digest.update(value.encode() + b"\0")
    return digest.hexdigest()


def sha256_of_parts(hashes: Iterable[Mapping[str, str]]) -> str:
    """One hash of those of all parts, each by split, or `dropped`."""
    digest = hashlib.sha256()
    for found in hashes:
        digest.update(json.dumps(dict(found), sort_keys=True).encode())
    return digest.hexdigest()


@contextmanager
def _broken_part(path: Path) -> Iterator[None]:
    """Tell of a Parquet part that cannot be read which one it is."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: broken documents ({reason}): collect the corpus again") from error


def _check_schema(found: pa.Schema, folder: Path) -> None:
    """Raise `ValueError` unless a part has the columns that collecting writes."""
    expected = DROPPED_SCHEMA if folder.name == "dropped" else DOCUMENT_SCHEMA
    if not found.equals(expected):
        raise ValueError(f"its columns are {', '.join(found.names)}, or of other types")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a part with its metadata, a JSON object or nothing, as a dict."""
    if "metadata" in row:
        try:
            value = parse_json(row["metadata"] or "{}")
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ValueError(f"metadata that are no JSON object: {row['metadata']!r:.60}")
        row["metadata"] = value
    return row


def part_paths(directory: Path, source: str) -> list[Path]:
    """The Parquet parts of a source, in order."""
    return sorted(directory.glob(f"{source}-[0-9][0-9][0-9][0-9][0-9].parquet"))


def _nearest_corpus(directory: Path) -> str:
    """`: did you mean ...?` when a directory beside it has nearly that name, or what to do."""
    parent = directory.parent
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    near = get_close_matches(directory.name, names, n=1)
    if near:
        return f": did you mean {parent / near[0]}?"
    return ": make one with `llmstages collect`"

"""Token shards: a corpus turned into ids once, to be memory-mapped by every run that reads it.

`corpora/<name>/tokens/<tokenizer hash>/` holds, for each split and source, `<split>-<source>.bin`
(ids, little-endian uint16 or uint32, every document followed by the end token) and
`<split>-<source>.documents.parquet` (id, start, words, bytes of each document, in order).
`index.json`, written last, describes them all; a directory without it is not read.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmstages.data.corpus import SPLITS, Corpus, Document, Split
from llmstages.data.encoding import EncodeGroups, encoder
from llmstages.data.json_files import as_dataclass, read_object
from llmstages.errors import UserError
from llmstages.text.tokenizer import Tokenizer

FORMAT_VERSION = 1
DTYPES = ("<u2", "<u4")
VERIFIED_BYTES = 2**29
"""Of tokens that are read through before training; so many take seconds at most. Larger ones are
checked by `inspect RUN prove=true` alone."""
GROUP_CHARACTERS = 2_000_000
"""Text that one thread tokenizes at once: enough for a new word to be rare, some 100 MB of work."""
ROW_GROUP_DOCUMENTS = 2**20
"""Rows of a group in the list of documents, Arrow's own choice for a table written at once."""
DOCUMENTS_SCHEMA = pa.schema(
    [("id", pa.string()), ("start", pa.int64()), ("words", pa.int64()), ("bytes", pa.int64())]
)


@dataclass(frozen=True)
class ShardInfo:
    """What `index.json` says of one shard."""

    split: str
    source: str
    tokens: int
    """Ids in the file, end tokens included."""
    documents: int
    words: int
    bytes: int
    """UTF-8 bytes of the text."""
    weight: float | None
    """Share asked for in a mixture; null: in proportion to its tokens."""
    sha256: str | None = None
    """Of the `.bin`; null in shards of an older version."""


@dataclass(frozen=True)
class TokenIndex:
    """The contents of `index.json`."""

    format_version: int
    tokenizer_hash: str
    dtype: str
    end_id: int
    shards: list[ShardInfo]


class Shard:
    """One split of one source: a memory-mapped array of ids and where its documents start."""

    def __init__(
        self,
        directory: Path,
        info: ShardInfo,
        dtype: np.dtype[Any],
        vocab_size: int | None = None,
    ) -> None:
        self.info = info
        self.stem = shard_stem(info.split, info.source)
        self.path = directory / f"{self.stem}.bin"
        self.vocab_size = vocab_size
        remedy = f"delete {directory} and it will be made again"
        if not self.path.is_file():
            raise UserError(f"{self.path}: missing: {remedy}")
        expected, found = info.tokens * dtype.itemsize, self.path.stat().st_size
        if found != expected:
            raise UserError(
                f"{self.path}: {found:,} bytes, the index says {info.tokens:,} tokens, "
                f"{expected:,} bytes: {remedy}"
            )
        self.ids: NDArray[np.unsignedinteger[Any]] = (
            np.memmap(self.path, dtype=dtype, mode="r") if info.tokens else np.zeros(0, dtype=dtype)
        )
        path = directory / f"{self.stem}.documents.parquet"
        try:
            documents = pq.read_table(path, columns=["id", "start"]).cast(
                pa.schema([("id", pa.string()), ("start", pa.int64())])
            )
            self.starts: NDArray[np.int64] = documents["start"].to_numpy()
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: no list of documents ({error}): {remedy}") from error
        self.document_ids: pa.ChunkedArray = documents["id"]
        first, last = (self.starts[0], self.starts[-1]) if len(self.starts) else (0, 0)
        in_order = self.starts.dtype == np.int64 and bool((np.diff(self.starts) > 0).all())
        if not in_order or (info.tokens and (first != 0 or last >= info.tokens)):
            raise UserError(f"{path}: its starts are not those of {self.path.name}: {remedy}")

    def part(self, begin: int, end: int) -> NDArray[np.int64]:
        """The ids from one position to another. Raises `UserError` for what is no token's."""
        ids = np.asarray(self.ids[begin:end], dtype=np.int64)
        if self.vocab_size is not None and ids.size and ids.max() >= self.vocab_size:
            raise UserError(
                f"{self.path}: id {ids.max():,} near token {begin:,}, the tokenizer has "
                f"{self.vocab_size:,}: delete {self.path.parent} and it will be made again"
            )
        return ids

    def document_at(self, position: int) -> str:
        """Source and id of the document that holds the token at `position`."""
        row = int(np.searchsorted(self.starts, position, side="right")) - 1
        return f"{self.info.source}/{self.document_ids[row].as_py()}"


@dataclass(frozen=True)
class TokenShards:
    """All shards of a corpus for one tokenizer."""

    directory: Path
    shards: tuple[Shard, ...]

    def of_split(self, split: str) -> list[Shard]:
        """The shards of `train` or `validation` that hold any token, ordered by source."""
        return [shard for shard in self.shards if shard.info.split == split and shard.info.tokens]


def verify_shards(shards: Sequence[Shard]) -> None:
    """Compare files of ids with their hashes, together up to `VERIFIED_BYTES`.

    Raises `UserError` naming one that was changed since it was written.
    """
    if sum(shard.ids.nbytes for shard in shards) > VERIFIED_BYTES:
        return
    for shard in shards:
        known = shard.info.sha256
        if known is not None and hashlib.sha256(shard.ids.data).hexdigest() != known:
            raise UserError(
                f"{shard.path}: changed since it was written: delete {shard.path.parent} and it "
                "will be made again"
            )


def tokens_sha256(shards: Iterable[Shard]) -> str | None:
    """One hash of those of all files of ids; None where an older version kept none."""
    hashes = {shard.stem: shard.info.sha256 for shard in shards if shard.info.tokens}
    if None in hashes.values():
        return None
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def shard_stem(split: str, source: str) -> str:
    """File name of a shard, without its ending."""
    return f"{split}-{source}"


def token_shards_dir(corpus: Corpus, tokenizer: Tokenizer) -> Path:
    """Where the shards of a corpus for a tokenizer are, or will be."""
    return corpus.directory / "tokens" / tokenizer.hash[:16]


def open_token_shards(directory: Path, vocab_size: int | None = None) -> TokenShards:
    """Open the shards in `corpora/<name>/tokens/<hash>/`; `UserError` when they are incomplete.

    vocab_size: larger ids are refused when they are read.
    """
    path = directory / "index.json"
    remedy = f"delete {directory} and it will be made again"
    try:
        contents = read_object(path)
        if (version := contents.get("format_version")) != FORMAT_VERSION:
            raise ValueError(f"format {version}, this version reads {FORMAT_VERSION}")
        index = as_dataclass(TokenIndex, contents)
        if index.dtype not in DTYPES:
            raise ValueError(f"dtype {index.dtype!r} is none of {', '.join(DTYPES)}")
        if any({"/", "\0"} & set(shard_stem(s.split, s.source)) for s in index.shards):
            raise ValueError("a source has a path for its name")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable token index ({error}): {remedy}") from error
    dtype = np.dtype(index.dtype)
    return TokenShards(
        directory, tuple(Shard(directory, info, dtype, vocab_size) for info in index.shards)
    )


def write_token_shards(
    corpus: Corpus, tokenizer: Tokenizer, advance: Callable[[float], None] | None = None
) -> TokenShards:
    """Tokenize a corpus, or open what an earlier call wrote for the same tokenizer.

    Everything is written to a directory beside the final one and renamed when complete.
    `advance(documents)` is called as work goes on.
    """
    directory = token_shards_dir(corpus, tokenizer)
    if (directory / "index.json").exists():
        return open_token_shards(directory, tokenizer.vocab_size)
    staging = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    num_bytes = sum(corpus.counts(split).bytes for split in SPLITS)
    with encoder(tokenizer, num_bytes) as encode:
        infos = [
            write_shard(staging, corpus, split, source, tokenizer.id_dtype, encode, advance)
            for split in SPLITS
            for source in corpus.sources
        ]
    index = {
        "format_version": FORMAT_VERSION,
        "tokenizer_hash": tokenizer.hash,
        "dtype": tokenizer.id_dtype.str,
        "end_id": tokenizer.end_id,
        "shards": [asdict(info) for info in infos],
    }
    (staging / "index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)  # an earlier, torn directory
    staging.rename(directory)
    return open_token_shards(directory, tokenizer.vocab_size)


def write_shard(
    directory: Path,
    corpus: Corpus,
    split: Split,
    source: str,
    dtype: np.dtype[Any],
    encode: EncodeGroups,
    advance: Callable[[float], None] | None,
) -> ShardInfo:
    """Write one `.bin` and its list of documents."""
    stem = shard_stem(split, source)
    tokens = words = num_bytes = num_documents = 0
    digest = hashlib.sha256()
    with (
        (directory / f"{stem}.bin").open("wb") as file,
        DocumentTable(directory / f"{stem}.documents.parquet") as table,
    ):
        groups = in_groups(corpus.documents(split, source, ("id", "text")))
        for group, encoded in encode(groups):
            _, offsets, ids = encoded["ids"].buffers()
            ends = np.frombuffer(offsets, np.int64)[: len(group) + 1]
            data = memoryview(ids)[: ends[-1]]
            file.write(data)
            digest.update(data)
            table.append(
                [document.id for document in group],
                tokens + ends[:-1] // dtype.itemsize,
                np.array(encoded["words"]),  # copies, so that the ids can go
                np.array(encoded["bytes"]),
            )
            tokens += int(ends[-1]) // dtype.itemsize
            words += pc.sum(encoded["words"]).as_py()
            num_bytes += pc.sum(encoded["bytes"]).as_py()
            num_documents += len(group)
            if advance is not None:
                advance(len(group))
    return ShardInfo(
        split=split,
        source=source,
        tokens=tokens,
        documents=num_documents,
        words=words,
        bytes=num_bytes,
        weight=corpus.weights.get(source),
        sha256=digest.hexdigest(),
    )


class DocumentTable:
    """Writes `<shard>.documents.parquet`, a row group at a time."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, DOCUMENTS_SCHEMA)
        self._waiting = DOCUMENTS_SCHEMA.empty_table()
        self._num_written = 0

    def append(self, *columns: Sequence[str] | NDArray[np.int64]) -> None:
        """Add documents, given as the columns of the schema."""
        rows = pa.table(columns, schema=DOCUMENTS_SCHEMA)
        self._waiting = pa.concat_tables([self._waiting, rows])
        while self._waiting.num_rows >= ROW_GROUP_DOCUMENTS:
            self._write(self._waiting[:ROW_GROUP_DOCUMENTS])
            self._waiting = self._waiting[ROW_GROUP_DOCUMENTS:]

    def _write(self, rows: pa.Table) -> None:
        # In one piece: the pages of the file do not depend on how the documents were grouped.
        self._writer.write_table(rows.combine_chunks(), ROW_GROUP_DOCUMENTS)
        self._num_written += rows.num_rows

    def __enter__(self) -> "DocumentTable":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and (self._waiting.num_rows or not self._num_written):
            self._write(self._waiting)
        self._writer.close()


def in_groups(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Neighbouring documents, together at most `GROUP_CHARACTERS`; longer ones alone."""
    group: list[Document] = []
    size = 0
    for document in documents:
        if group and size + len(document.text) > GROUP_CHARACTERS:
            yield group
            group, size = [], 0
        group.append(document)
        size += len(document.text)
    if group:
        yield group

"""Token shards: a corpus turned into ids once, to be memory-mapped by every run that reads it.

`corpora/<name>/tokens/<tokenizer hash>/` holds, for each split and source, `<split>-<source>.bin`
(ids, little-endian uint16 or uint32, every document followed by the end token) and
`<split>-<source>.documents.parquet` (id, start, words, bytes of each document, in order).
`index.json`, written last, describes them all; a directory without it is not read.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmstages.data.corpus import SPLITS, Corpus, Document, Split
from llmstages.errors import UserError
from llmstages.text.tokenizer import Tokenizer

FORMAT_VERSION = 1
BATCH_DOCUMENTS = 256
"""Documents tokenized at once: enough to keep all cores busy, little enough to hold in memory."""


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


class Shard:
    """One split of one source: a memory-mapped array of ids and where its documents start."""

    def __init__(self, directory: Path, info: ShardInfo, dtype: np.dtype[Any]) -> None:
        self.info = info
        self.stem = shard_stem(info.split, info.source)
        self.ids: NDArray[np.unsignedinteger[Any]] = (
            np.memmap(directory / f"{self.stem}.bin", dtype=dtype, mode="r")
            if info.tokens
            else np.zeros(0, dtype=dtype)
        )
        if len(self.ids) != info.tokens:
            raise UserError(
                f"{directory / self.stem}.bin: {len(self.ids)} tokens, the index says "
                f"{info.tokens}: delete {directory} and it will be made again"
            )
        documents = pq.read_table(
            directory / f"{self.stem}.documents.parquet", columns=["id", "start"]
        )
        self.starts: NDArray[np.int64] = documents["start"].to_numpy()
        self.document_ids: list[str] = documents["id"].to_pylist()

    def document_at(self, position: int) -> str:
        """Source and id of the document that holds the token at `position`."""
        row = int(np.searchsorted(self.starts, position, side="right")) - 1
        return f"{self.info.source}/{self.document_ids[row]}"


@dataclass(frozen=True)
class TokenShards:
    """All shards of a corpus for one tokenizer."""

    directory: Path
    shards: tuple[Shard, ...]

    def of_split(self, split: str) -> list[Shard]:
        """The shards of `train` or `validation` that hold any token, ordered by source."""
        return [shard for shard in self.shards if shard.info.split == split and shard.info.tokens]


def shard_stem(split: str, source: str) -> str:
    """File name of a shard, without its ending."""
    return f"{split}-{source}"


def token_shards_dir(corpus: Corpus, tokenizer: Tokenizer) -> Path:
    """Where the shards of a corpus for a tokenizer are, or will be."""
    return corpus.directory / "tokens" / tokenizer.hash[:16]


def open_token_shards(directory: Path) -> TokenShards:
    """Open the shards in `corpora/<name>/tokens/<hash>/`; `UserError` when they are incomplete."""
    index_path = directory / "index.json"
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        if index["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{index_path}: format {index['format_version']}, this version reads "
                f"{FORMAT_VERSION}: delete {directory} and it will be made again"
            )
        dtype = np.dtype(index["dtype"])
        infos = [ShardInfo(**entry) for entry in index["shards"]]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{index_path}: not a readable token index ({error}): delete {directory} "
            "and it will be made again"
        ) from error
    return TokenShards(directory, tuple(Shard(directory, info, dtype) for info in infos))


def write_token_shards(
    corpus: Corpus, tokenizer: Tokenizer, advance: Callable[[float], None] | None = None
) -> TokenShards:
    """Tokenize a corpus, or open what an earlier call wrote for the same tokenizer.

    Everything is written to a directory beside the final one and renamed when complete.
    `advance(documents)` is called as work goes on.
    """
    directory = token_shards_dir(corpus, tokenizer)
    if (directory / "index.json").exists():
        return open_token_shards(directory)
    staging = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    infos = [
        write_shard(staging, corpus, tokenizer, split, source, dtype, advance)
        for split in SPLITS
        for source in corpus.sources
    ]
    index = {
        "format_version": FORMAT_VERSION,
        "tokenizer_hash": tokenizer.hash,
        "dtype": dtype.str,
        "end_id": tokenizer.end_id,
        "shards": [asdict(info) for info in infos],
    }
    (staging / "index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)  # an earlier, torn directory
    staging.rename(directory)
    return open_token_shards(directory)


def write_shard(
    directory: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    split: Split,
    source: str,
    dtype: np.dtype[Any],
    advance: Callable[[float], None] | None,
) -> ShardInfo:
    """Write one `.bin` and its list of documents."""
    stem = shard_stem(split, source)
    ids: list[str] = []
    starts: list[int] = []
    words: list[int] = []
    sizes: list[int] = []
    position = 0
    with (directory / f"{stem}.bin").open("wb") as file:
        for documents in in_groups(corpus.documents(split, source), BATCH_DOCUMENTS):
            encoded = tokenizer.encode_batch([document.text for document in documents])
            for document, tokens in zip(documents, encoded, strict=True):
                array = np.array([*tokens, tokenizer.end_id], dtype=dtype)
                file.write(array.tobytes())
                ids.append(document.id)
                starts.append(position)
                words.append(len(document.text.split()))
                sizes.append(len(document.text.encode("utf-8")))
                position += len(array)
            if advance is not None:
                advance(len(documents))
    pq.write_table(
        pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "start": pa.array(starts, pa.int64()),
                "words": pa.array(words, pa.int64()),
                "bytes": pa.array(sizes, pa.int64()),
            }
        ),
        directory / f"{stem}.documents.parquet",
    )
    return ShardInfo(
        split=split,
        source=source,
        tokens=position,
        documents=len(ids),
        words=sum(words),
        bytes=sum(sizes),
        weight=corpus.weights.get(source),
    )


def in_groups(documents: Iterator[Document], size: int) -> Iterator[list[Document]]:
    """Lists of up to `size` documents."""
    while group := list(islice(documents, size)):
        yield group

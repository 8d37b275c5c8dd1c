"""Token shards: the corpus's own text, complete, written once for each tokenizer."""

import json
import shutil
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.data import encoding
from llmstages.data import shards as shards_module
from llmstages.data.corpus import Corpus
from llmstages.data.shards import open_token_shards, verify_shards, write_token_shards
from llmstages.errors import UserError
from llmstages.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture
def corpus(tiny_corpus):
    return Corpus.open(tiny_corpus)


@pytest.fixture
def tokenizer(tiny_corpus):
    return Tokenizer.load(tiny_corpus / "tokenizer")


@pytest.fixture
def copied(tiny_corpus, tmp_path):
    return Corpus.open(shutil.copytree(tiny_corpus, tmp_path / "corpus"))


def test_shards_hold_every_document_and_its_end(corpus, tokenizer):
    shards = write_token_shards(corpus, tokenizer)
    assert [(s.info.split, s.info.source) for s in shards.shards] == [
        ("train", "texts"),
        ("train", "topics"),
        ("validation", "texts"),
        ("validation", "topics"),
    ]
    for shard in shards.shards:
        documents = list(corpus.documents(shard.info.split, shard.info.source))
        assert shard.document_ids.to_pylist() == [document.id for document in documents]
        bounds = [*shard.starts.tolist(), len(shard.ids)]
        for document, begin, end in zip(documents, bounds, bounds[1:], strict=False):
            ids = shard.ids[begin:end].tolist()
            assert ids[-1] == tokenizer.end_id
            assert tokenizer.end_id not in ids[:-1]
            assert tokenizer.decode(ids[:-1]) == document.text
        info = shard.info
        assert (info.tokens, info.documents) == (len(shard.ids), len(documents))
        assert info.words == sum(len(document.text.split()) for document in documents)
        assert info.bytes == sum(len(document.text.encode()) for document in documents)
        assert info.weight == {"texts": 0.25, "topics": 0.75}[info.source]
        assert shard.ids.dtype == np.uint16


@pytest.mark.parametrize(
    ("group_characters", "min_bytes_for_processes"), [(1, 10**9), (10**7, 10**9), (3000, 0)]
)
def test_files_do_not_depend_on_how_the_work_is_cut(
    copied, tokenizer, monkeypatch, group_characters, min_bytes_for_processes
):
    """Byte for byte what one document after the other gives, written at once."""
    monkeypatch.setattr(encoding, "MIN_BYTES_FOR_PROCESSES", min_bytes_for_processes)
    monkeypatch.setattr(encoding, "num_cores", lambda: 2)
    shutil.rmtree(copied.directory / "tokens")
    monkeypatch.setattr(shards_module, "GROUP_CHARACTERS", group_characters)
    monkeypatch.setattr(shards_module, "ROW_GROUP_DOCUMENTS", 7)
    advanced = []
    shards = write_token_shards(copied, tokenizer, advanced.append)
    for shard in shards.shards:
        documents = list(copied.documents(shard.info.split, shard.info.source))
        ids = [[*tokenizer.encode(document.text), tokenizer.end_id] for document in documents]
        lengths = [len(document) for document in ids]
        path = shards.directory / f"{shard.stem}.bin"
        assert path.read_bytes() == np.array(list(chain(*ids)), "<u2").tobytes()
        table = pa.table(
            {
                "id": pa.array([document.id for document in documents], pa.string()),
                "start": pa.array(np.cumsum([0, *lengths])[:-1], pa.int64()),
                "words": pa.array([len(document.text.split()) for document in documents]),
                "bytes": pa.array([len(document.text.encode()) for document in documents]),
            }
        )
        whole = copied.directory / "whole.parquet"
        pq.write_table(table, whole, row_group_size=7)
        written = shards.directory / f"{shard.stem}.documents.parquet"
        assert written.read_bytes() == whole.read_bytes()
    assert sum(advanced) == sum(shard.info.documents for shard in shards.shards)


def test_the_document_at_a_position(corpus, tokenizer):
    shard = write_token_shards(corpus, tokenizer).of_split("train")[0]
    second = int(shard.starts[1])
    assert shard.document_at(0) == shard.document_at(second - 1)
    assert shard.document_at(0) == f"texts/{shard.document_ids[0].as_py()}"
    assert shard.document_at(second) == f"texts/{shard.document_ids[1].as_py()}"
    assert shard.document_at(len(shard.ids) - 1) == f"texts/{shard.document_ids[-1].as_py()}"


def test_shards_are_reused(corpus, tokenizer, monkeypatch):
    first = write_token_shards(corpus, tokenizer)
    before = {p: p.stat().st_mtime_ns for p in first.directory.iterdir()}
    monkeypatch.setattr(Corpus, "documents", None)  # reading again would fail
    again = write_token_shards(corpus, tokenizer)
    assert {p: p.stat().st_mtime_ns for p in again.directory.iterdir()} == before


def test_another_tokenizer_has_shards_of_its_own(copied, tokenizer):
    other = train_tokenizer(
        (document.text for document in copied.documents("train")),
        TokenizerConfig(kind="char", vocab_size=400),
    )
    one, two = write_token_shards(copied, tokenizer), write_token_shards(copied, other)
    assert one.directory.name == tokenizer.hash[:16] != two.directory.name
    assert sum(s.info.tokens for s in two.shards) > sum(s.info.tokens for s in one.shards)
    assert sum(s.info.bytes for s in two.shards) == sum(s.info.bytes for s in one.shards)
    assert copied.manifest_hash == Corpus.open(copied.directory).manifest_hash


def test_torn_shards_are_made_again(copied, tokenizer, monkeypatch):
    directory = write_token_shards(copied, tokenizer).directory
    (directory / "index.json").unlink()
    whole = Corpus.documents
    calls = []

    def documents(self, *args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError("no space left")
        return whole(self, *args)

    monkeypatch.setattr(Corpus, "documents", documents)
    with pytest.raises(OSError, match="no space"):
        write_token_shards(copied, tokenizer)
    assert not (directory / "index.json").exists()
    monkeypatch.undo()
    write_token_shards(copied, tokenizer)
    assert not list(directory.parent.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["truncate", "index", "version"])
def test_damage_names_the_file_and_the_remedy(copied, tokenizer, damage):
    directory = write_token_shards(copied, tokenizer).directory
    index_path, bin_path = directory / "index.json", directory / "train-texts.bin"
    if damage == "truncate":
        bin_path.write_bytes(bin_path.read_bytes()[:-2])
    elif damage == "index":
        index_path.write_text("{", encoding="utf-8")
    else:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        index_path.write_text(json.dumps({**index, "format_version": 9}), encoding="utf-8")
    with pytest.raises(UserError, match=f"delete {directory}") as refused:
        open_token_shards(directory)
    damaged = bin_path if damage == "truncate" else index_path
    assert str(refused.value).startswith(f"{damaged}: ")


def test_ids_that_were_changed_are_refused(copied, tokenizer):
    shards = write_token_shards(copied, tokenizer)
    verify_shards(shards.shards)
    path = shards.directory / "train-texts.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train-texts\.bin: changed since it was written: delete"):
        verify_shards(open_token_shards(shards.directory).shards)

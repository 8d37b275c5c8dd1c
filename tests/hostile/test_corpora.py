"""Corpora whose files were changed: no id beyond the vocabulary is read, no document is garbage."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmstages.data.corpus import DOCUMENT_SCHEMA, Corpus
from llmstages.data.shards import open_token_shards, token_shards_dir, write_token_shards
from llmstages.errors import UserError
from llmstages.text.tokenizer import Tokenizer


@pytest.fixture
def corpus(tiny_corpus: Path, tmp_path: Path) -> Corpus:
    """A copy with token shards, to damage."""
    shutil.copytree(tiny_corpus, tmp_path / "corpora" / "tiny")
    found = Corpus.open(tmp_path / "corpora" / "tiny")
    write_token_shards(found, Tokenizer.load(found.tokenizer_dir))
    return found


def tokens_of(corpus: Corpus) -> Path:
    return token_shards_dir(corpus, Tokenizer.load(corpus.tokenizer_dir))


def test_ids_beyond_the_vocabulary(
    corpus: Corpus, pretrain_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are too many to be compared with their hash."""
    from llmstages.stages import pretrain

    monkeypatch.setattr("llmstages.data.shards.VERIFIED_BYTES", -1)
    for path in tokens_of(corpus).glob("train-*.bin"):
        ids = np.fromfile(path, dtype="<u2")
        ids[::7] = 512
        ids.tofile(path)
    config = pretrain_config(tmp_path / "runs", data=str(corpus.directory))
    with pytest.raises(UserError, match=r"\.bin: id 512 near token .*, the tokenizer has 512"):
        pretrain.run(config)


def test_documents_that_start_elsewhere(corpus: Corpus) -> None:
    path = next(tokens_of(corpus).glob("train-*.documents.parquet"))
    documents = pq.read_table(path)
    starts = documents["start"].to_numpy()
    for wrong in (starts + 10**9, -starts - 1, starts[::-1], np.zeros_like(starts)):
        changed = documents.set_column(1, "start", pa.array(wrong, pa.int64()))
        pq.write_table(changed, path)
        with pytest.raises(UserError, match=r"documents\.parquet: its starts are not those of"):
            open_token_shards(tokens_of(corpus))


@pytest.mark.parametrize(
    "values",
    [
        {"dtype": "O"},
        {"dtype": "<f8"},
        {"dtype": 3},
        {"shards": {}},
        {"shards": [{}]},
        {"format_version": "1"},
        {"end_id": "x"},
    ],
)
def test_an_index_of_wrong_values(corpus: Corpus, values: dict[str, Any]) -> None:
    path = tokens_of(corpus) / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(UserError, match=r"index\.json: .*delete .* and it will be made again"):
        open_token_shards(path.parent)


@pytest.mark.parametrize("source", ["../../x", "a/b", "*", "", "a\0b"])
def test_a_source_is_no_path(corpus: Corpus, source: str) -> None:
    path = corpus.directory / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sources"][0]["name"] = source
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json: .*a source is named"):
        Corpus.open(corpus.directory)


@pytest.mark.parametrize("place", ["weight", "train", "dropped", "inputs", "skipped"])
@pytest.mark.parametrize("value", ["x", [3], {"a": []}, True])
def test_a_manifest_of_wrong_types(corpus: Corpus, place: str, value: Any) -> None:
    path = corpus.directory / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sources"][0][place] = value
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=rf"manifest\.json: .*{place}"):
        Corpus.open(corpus.directory)


ROW: dict[str, Any] = {
    **{"id": "1", "text": "a", "source": "texts", "url": None, "language": None, "metadata": "{}"}
}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pa.table({"id": ["1"]}), "its columns are id"),
        (pa.Table.from_pylist([ROW | {"text": 3}]), "or of other types"),
        (pa.Table.from_pylist([ROW | {"text": None}], DOCUMENT_SCHEMA), "a row without text"),
        (pa.Table.from_pylist([ROW | {"metadata": "["}], DOCUMENT_SCHEMA), "metadata"),
        (pa.Table.from_pylist([ROW | {"metadata": "[" * 9999}], DOCUMENT_SCHEMA), "metadata"),
        (
            pa.Table.from_arrays(
                [
                    pa.array(["1"]),
                    pa.array([b"\xff\xfe"]).cast(pa.large_binary()).view(pa.large_string()),
                    *(pa.array([v], pa.string()) for v in ("texts", None, None, "{}")),
                ],
                schema=DOCUMENT_SCHEMA,
            ),
            "broken documents",
        ),
    ],
)
def test_parts_of_other_columns(corpus: Corpus, cli: Any, table: pa.Table, said: str) -> None:
    path = next((corpus.directory / "documents" / "train").glob("texts-*.parquet"))
    pq.write_table(table, path)
    with pytest.raises(UserError, match=said):
        list(corpus.documents("train"))
    status, _, err = cli("inspect", corpus.directory, "num_examples=100")
    assert status == 2
    assert "error: " in err


def test_a_part_that_is_garbage(corpus: Corpus) -> None:
    path = next((corpus.directory / "documents" / "train").glob("texts-*.parquet"))
    data = path.read_bytes()
    for damaged in (b"", b"PAR1", data[:-100], data[:100] + bytes(1000) + data[1100:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{path}: broken documents"):
            list(corpus.documents("train"))

"""The corpus directory: golden manifest, reading back what was written, refusals."""

from pathlib import Path

import pyarrow as pa
import pytest

from llmstages.data.corpus import (
    DOCUMENT_SCHEMA,
    DROPPED_SCHEMA,
    Corpus,
    Counts,
    Document,
    InputRecord,
    Manifest,
    PartWriter,
    SourceManifest,
)
from llmstages.errors import UserError

GOLDEN_HASH = "ec773b31c43e1319fbfb8700a4c9dac91a35cadb10265f0e6f5a7fce93c342a0"


def manifest() -> Manifest:
    """Two sources, one with a weight."""

    def source(name: str, weight: float | None) -> SourceManifest:
        return SourceManifest(
            name=name,
            kind="files",
            license=None,
            weight=weight,
            inputs=[InputRecord("a.txt", 12, "00")],
            extracted=Counts(3, 6, 30),
            dropped={"empty": 1},
            train=Counts(1, 2, 10),
            validation=Counts(1, 2, 10),
            documents_sha256="11",
        )

    return Manifest(1, "한국어", [source("books", 0.5), source("web", None)], {"seed": 0}, {})


def test_manifest_has_its_golden_hash(tmp_path: Path) -> None:
    """Whoever changes the format changes FORMAT_VERSION and this hash."""
    assert Corpus(tmp_path, manifest()).manifest_hash == GOLDEN_HASH


def test_manifest_is_read_back_equal(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    corpus = Corpus.open(tmp_path)
    assert corpus.manifest == manifest()
    assert corpus.sources == ["books", "web"]
    assert corpus.weights == {"books": 0.5}
    assert corpus.counts("train") == Counts(2, 4, 20)
    assert not list(tmp_path.glob("*.tmp"))


def test_documents_come_back_in_order_with_only_the_columns_asked_for(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, manifest())
    for source in ("web", "books"):
        with PartWriter(tmp_path / "documents" / "train", source, DOCUMENT_SCHEMA) as writer:
            rows = [
                {
                    "id": f"{source}{index}",
                    "text": f"text {index}",
                    "source": source,
                    "url": None,
                    "language": "en",
                    "metadata": '{"line": "3"}',
                }
                for index in range(2)
            ]
            writer.write(pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA))
    documents = list(corpus.documents("train"))
    assert [document.id for document in documents] == ["books0", "books1", "web0", "web1"]
    assert documents[0] == Document("books0", "text 0", "books", None, "en", metadata={"line": "3"})
    assert list(corpus.documents("train", "web", columns=["text"])) == [
        Document(text="text 0"),
        Document(text="text 1"),
    ]
    assert list(corpus.documents("validation")) == []


def test_parts_are_split_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmstages.data.corpus.PART_BYTES", 1)
    row = dict.fromkeys(DROPPED_SCHEMA.names) | {"id": "x", "text": "t", "source": "web"}
    with PartWriter(tmp_path / "dropped", "web", DROPPED_SCHEMA) as writer:
        for _ in range(2):
            writer.write(pa.Table.from_pylist([row | {"rule": "empty"}], schema=DROPPED_SCHEMA))
    names = sorted(path.name for path in (tmp_path / "dropped").iterdir())
    assert names == ["web-00000.parquet", "web-00001.parquet"]
    assert [entry.rule for entry in Corpus(tmp_path, manifest()).dropped()] == ["empty"] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a corpus, it has no manifest.json"),
        ("{", "not a readable corpus manifest"),
        ('{"format_version": 99}', "corpus format 99, this version reads 1"),
        ('{"format_version": 1}', "not a readable corpus manifest"),
    ],
)
def test_what_is_no_corpus_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Corpus.open(tmp_path)


def test_a_wrong_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "novels").mkdir()
    with pytest.raises(UserError, match=r"did you mean .*novels\?"):
        Corpus.open(tmp_path / "novel")

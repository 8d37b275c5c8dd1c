"""The corpus directory: golden manifest, reading back what was written, refusals."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmstages.data.corpus import (
    DOCUMENT_SCHEMA,
    DROPPED_SCHEMA,
    Corpus,
    Counts,
    Document,
    DroppedDocument,
    InputRecord,
    Manifest,
    SourceManifest,
)
from llmstages.errors import UserError

GOLDEN_HASH = "8b82a6e97bc8e0bbee2e67fa2031148d828839081471d21891b52bd718439a7e"


def manifest() -> Manifest:
    """Two sources, one with a weight."""

    def source(name: str, weight: float | None) -> SourceManifest:
        return SourceManifest(
            name=name,
            kind="files",
            license=None,
            weight=weight,
            priority=0,
            published_tokens=None,
            published_epochs=None,
            inputs=[InputRecord("a.txt", 12, "00")],
            skipped={"redirect": 2},
            extracted=Counts(3, 6, 30),
            dropped={"empty": Counts(1, 0, 1)},
            decontaminated=Counts(1, 20, 100),
            train=Counts(1, 2, 10),
            validation=Counts(1, 2, 10),
            documents_sha256="11",
        )

    return Manifest(2, "한국어", [source("books", 0.5), source("web", None)], {"seed": 0}, {})


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


def write_part(
    directory: Path, folder: str, source: str, part: int, rows: list[dict[str, object]]
) -> None:
    """One Parquet part; columns that are not given are null."""
    schema = DROPPED_SCHEMA if folder == "dropped" else DOCUMENT_SCHEMA
    path = directory / folder / f"{source}-{part:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    full = [
        dict.fromkeys(schema.names) | {"source": source, "metadata": "{}"} | row for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(full, schema=schema), path)


def test_documents_come_back_in_order_with_only_the_columns_asked_for(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, manifest())
    for source in ("web", "books"):
        for part in (1, 0):
            row = {
                "id": f"{source}{part}",
                "text": f"text {part}",
                "language": "en",
                "metadata": '{"line": "3"}',
            }
            write_part(tmp_path, "documents/train", source, part, [row])
    documents = list(corpus.documents("train"))
    assert [document.id for document in documents] == ["books0", "books1", "web0", "web1"]
    assert documents[0] == Document("books0", "text 0", "books", None, "en", metadata={"line": "3"})
    assert list(corpus.documents("train", "web", columns=["text"])) == [
        Document(text="text 0"),
        Document(text="text 1"),
    ]
    assert list(corpus.documents("validation")) == []


def test_a_document_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, manifest())
    write_part(
        *(tmp_path, "documents/train", "books", 0),
        [{"id": name, "text": name} for name in ("0a1", "0a2", "ff")],
    )
    write_part(tmp_path, "documents/validation", "web", 3, [{"id": "b7-end", "text": "x"}])
    write_part(tmp_path, "dropped", "web", 0, [{"id": "c0", "text": "y", "rule": "empty"}])
    assert corpus.find("0a2") == ("train", Document("0a2", "0a2", "books"))
    assert corpus.find("b7") == ("validation", Document("b7-end", "x", "web"))
    assert corpus.find("c") == DroppedDocument("c0", "y", "web", "empty", None, None, None)
    assert corpus.find("0b") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a corpus, it has no manifest.json"),
        ("{", "not a readable corpus manifest"),
        ('{"format_version": 99}', "corpus format 99, this version reads 2"),
        ('{"format_version": 2}', "not a readable corpus manifest"),
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

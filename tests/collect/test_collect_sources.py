"""Finding and reading files, and the documentation of Python."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmstages.collect.sources import (
    Listing,
    Note,
    RawDocument,
    Skipped,
    list_inputs,
    read_input,
)
from llmstages.collect.sources.python_docs import iter_docstrings, module_document
from llmstages.config.collect_groups import FetchConfig, SourceConfig
from llmstages.errors import UserError

PARAGRAPH = "Grüße aus Köln, schöne Straßen und alte Häuser überall. " * 5


def listed(source: SourceConfig) -> Listing:
    """The inputs of a source that fetches nothing."""
    return list_inputs({"s": source}, FetchConfig(), Path("unused"), lambda pages: None)


def read(source: SourceConfig, bad_rows: str = "skip") -> tuple[list[RawDocument], list[str]]:
    """All documents of a source, and what was said; each kind skipped as `skipped: reason`."""
    listing = listed(source)
    found = [item for entry in listing.inputs["s"] for item in read_input(entry, source, bad_rows)]
    documents = [item for item in found if isinstance(item, RawDocument)]
    said = [f"skipped: {item.reason}" for item in found if isinstance(item, Skipped)]
    notes = listing.notes + [item for item in found if isinstance(item, Note)]
    return documents, said + [f"{note.locator}: {note.text}" for note in notes]


def files(*paths: Path, **settings: str) -> SourceConfig:
    """A source of these paths."""
    return SourceConfig(paths=[str(path) for path in paths], **settings)  # type: ignore[arg-type]


def test_every_format_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("plain")
    (tmp_path / "b.md.gz").write_bytes(gzip.compress(b"# packed"))
    with pa.CompressedOutputStream(str(tmp_path / "c.txt.zst"), "zstd") as stream:
        stream.write(b"zstandard")
    (tmp_path / "d.jsonl").write_text('{"text": "one", "url": "http://x"}\n{"text": "two"}\n')
    (tmp_path / "e.csv").write_text("title,text\nT,three\n")
    pq.write_table(pa.table({"content": ["four"]}), tmp_path / "f.parquet")
    (tmp_path / "g.html").write_text("<html><body><p>five</p><p>six</p></body></html>")
    (tmp_path / "h").write_text("no suffix")
    (tmp_path / "i.json").write_text('[{"body": "seven"}]')
    (tmp_path / "x.png").write_bytes(b"\x89PNG\x00\x01")
    (tmp_path / "y.xml").write_text("<a/>")
    (tmp_path / ".hidden.txt").write_text("no")
    documents, notes = read(files(tmp_path))
    assert {document.locator: document.text for document in documents} == {
        "deep/a.txt": "plain",
        "b.md.gz": "# packed",
        "c.txt.zst": "zstandard",
        "d.jsonl": "two",
        "e.csv": "three",
        "f.parquet": "four",
        "g.html": "five\n\nsix",
        "h": "no suffix",
        "i.json": "seven",
    }
    first = next(document for document in documents if document.text == "one")
    assert (first.ordinal, first.url) == (0, "http://x")
    assert first.metadata == {"file": "d.jsonl", "line": "1"}
    assert len(notes) == 1
    assert "2 files" in notes[0]
    assert ".png" in notes[0]


@pytest.mark.parametrize(
    ("codec", "said"),
    [("latin-1", "latin-1"), ("utf-16", "utf-16"), ("utf-8-sig", "utf-8-sig"), ("utf-8", None)],
)
def test_encodings_are_found_and_said(tmp_path: Path, codec: str, said: str | None) -> None:
    (tmp_path / "a.txt").write_bytes(PARAGRAPH.encode(codec))
    documents, notes = read(files(tmp_path / "a.txt"))
    assert documents[0].text == PARAGRAPH
    assert notes == ([] if said is None else [f"a.txt: read as {said}"])


def test_a_page_is_read_in_the_encoding_it_declares(tmp_path: Path) -> None:
    page = f'<html><head><meta charset="iso-8859-2"></head><body><p>Łódź</p>{PARAGRAPH}</body>'
    (tmp_path / "a.htm").write_bytes(page.encode("iso-8859-2"))
    documents, notes = read(files(tmp_path))
    assert "Łódź" in documents[0].text
    assert notes == ["a.htm: read as iso8859-2"]


def test_the_main_text_of_a_page_leaves_the_menu_out(tmp_path: Path) -> None:
    story = "".join(
        f"<p>Sentence {i} of the story goes on and on for a while.</p>" for i in range(9)
    )
    (tmp_path / "a.html").write_text(
        "<html><body><nav><ul><li><a href='/'>Home</a></li><li><a href='/b'>Buy now</a></li></ul>"
        f"</nav><article><h1>Title</h1>{story}</article><footer>All rights</footer></body></html>"
    )
    text = read(files(tmp_path))[0][0].text
    assert "Sentence 8" in text
    assert "Buy now" not in text


def test_globs_and_paths_given_twice(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text(name)
    documents, _ = read(SourceConfig(paths=[str(tmp_path / "*.txt"), str(tmp_path / "a.txt")]))
    assert [document.locator for document in documents] == ["a.txt", "b.txt"]


def test_equal_names_get_distinct_locators(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder)
    documents, _ = read(files(tmp_path / "x", tmp_path / "y"))
    assert [document.locator for document in documents] == ["x/a.txt", "y/a.txt"]


def test_bad_rows_are_skipped_and_counted_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": 5}\n{"text": \n{"text": "two"}\n')
    documents, notes = read(files(path))
    assert [document.text for document in documents] == ["one", "two"]
    assert notes == [
        "skipped: bad row",
        "a.jsonl: 2 bad rows skipped, the first on line 2: no text in 'text'",
    ]
    path.write_text('{"text": "one"}\n{"text": "two"}\n{"text": \n')
    with pytest.raises(UserError, match=r"a\.jsonl:3: broken JSON"):
        read(files(path), bad_rows="refuse")


def test_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "novels.txt").write_text("x")
    (tmp_path / "t.jsonl").write_text('{"foo": "a", "bar": "b"}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 4)
    for source, message in [
        (files(tmp_path / "novel.txt"), r"did you mean .*novels\.txt\?"),
        (files(tmp_path / "*.rst"), "matches no file"),
        (files(tmp_path / "empty"), "no text in this directory"),
        (files(tmp_path / "binary"), "not a text file"),
        (files(tmp_path / "t.jsonl"), r"t\.jsonl: no text column found, its columns are: foo, bar"),
        (files(tmp_path / "t.jsonl", text_column="baz"), "no column 'baz'"),
        (SourceConfig(), "has no paths"),
    ]:
        with pytest.raises(UserError, match=message):
            read(source, bad_rows="refuse")
    found, notes = read(files(tmp_path / "t.jsonl", tmp_path / "novels.txt"))[:2]
    assert [document.text for document in found] == ["x"]
    assert "no text column found" in str(notes)


def test_docstrings_in_order_under_their_signatures() -> None:
    code = '''"""Module."""
import nothing_that_exists
class A(B):
    """A class."""
    def m(self, x: int = 1, *rest):
        """A method.

            indented
        back
        """
    def _private(self):
        """No."""
    class Inner:
        """Inner."""
async def f(**options):
    """A function."""
    def g():
        """Not reached."""
def undocumented(): pass
'''
    assert module_document(code.encode(), "p.q") == "\n\n".join(
        [
            "Module.",
            *("class p.q.A(B)", "A class."),
            *("p.q.A.m(self, x: int=1, *rest)", "A method.\n\n    indented\nback"),
            *("p.q.A.Inner", "Inner."),
            *("p.q.f(**options)", "A function."),
        ]
    )
    assert list(iter_docstrings(b'"""torn', "m")) == []


def test_the_standard_library_and_its_chapters_are_read() -> None:
    topics = {d.locator: d.text for d in read(SourceConfig(kind="python_topics"))[0]}
    assert 'The "assert" statement' in topics["topics/assert"]
    documents, _ = read(SourceConfig(kind="python_stdlib"))
    library = {document.locator: document.text for document in documents}
    assert "json.dumps(obj, *, skipkeys=False" in library["json"]
    assert not any(".test." in name or name.startswith("test.") for name in library)
    assert sum(map(len, library.values())) > 1_000_000


def test_packages_are_read_without_being_imported_and_up_to_a_limit() -> None:
    source = SourceConfig(kind="python_packages", max_package_bytes=20_000)
    inputs = listed(source).inputs["s"]
    entry = next(entry for entry in inputs if entry.path == "rich")
    found = [item for item in read_input(entry, source, "skip") if isinstance(item, RawDocument)]
    assert found[0].locator == "rich/README"
    assert found[1].metadata["package"] == "rich"
    assert found[1].metadata["license"]
    assert 10_000 < sum(len(document.text) for document in found) <= 20_000
    again = [item for item in read_input(entry, source, "skip") if isinstance(item, RawDocument)]
    assert found == again
    assert not any(entry.path == "llmstages" for entry in inputs)

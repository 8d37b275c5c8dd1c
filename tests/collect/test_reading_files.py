"""Files of every format and of every kind of damage, in bounded memory."""

import bz2
import gzip
import io
import json
import lzma
import os
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmstages.collect.sources import tables, text
from llmstages.collect.sources.files import read_file
from llmstages.collect.sources.formats import find_format
from llmstages.collect.sources.listing import list_files
from llmstages.collect.sources.records import Note, RawDocument, Skipped
from llmstages.config.collect_groups import SourceConfig
from llmstages.data import parquet_rows
from llmstages.data.rows import BadRows
from llmstages.errors import UserError


def read(
    path: Path, bad_rows: str = "skip", **settings: Any
) -> tuple[list[RawDocument], dict[str, int], list[str]]:
    """Documents, what was skipped, and what was said."""
    source = SourceConfig(paths=[str(path)], **settings)
    inputs, found = list_files("s", source.paths, source.format)
    for entry in inputs:
        found += read_file(entry, source, bad_rows)  # type: ignore[arg-type]
    skipped: Counter[str] = Counter()
    for item in found:
        if isinstance(item, Skipped):
            skipped[item.reason] += item.count
    return (
        [item for item in found if isinstance(item, RawDocument)],
        dict(skipped),
        [f"{item.locator}: {item.text}" for item in found if isinstance(item, Note)],
    )


def texts(path: Path, **settings: Any) -> list[str]:
    return [document.text for document in read(path, **settings)[0]]


class TestText:
    @pytest.mark.parametrize(
        ("whole", "pieces"),
        [
            ("a" * 100, ["a" * 100]),
            (
                "a" * 70 + "\n\n" + "b" * 20 + "\n" + "c" * 60,
                ["a" * 70 + "\n\n", "b" * 20 + "\n" + "c" * 60],
            ),
            (
                "a" * 70 + "\n" + "b" * 10 + " " + "c" * 60,
                ["a" * 70 + "\n", "b" * 10 + " " + "c" * 60],
            ),
            ("a" * 90 + " " + "b" * 60, ["a" * 90 + " ", "b" * 60]),
            ("a" * 250, ["a" * 100, "a" * 100, "a" * 50]),
            # A cut that leaves a small piece is none.
            ("a\n\n" + "b" * 80 + " " + "c" * 80, ["a\n\n" + "b" * 80 + " ", "c" * 80]),
        ],
    )
    def test_cut_where_it_reads_best(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: str, pieces: list[str]
    ) -> None:
        monkeypatch.setattr(text, "DOCUMENT_CHARACTERS", 100)
        (tmp_path / "a.txt").write_text(whole)
        documents, _, notes = read(tmp_path / "a.txt")
        assert [document.text for document in documents] == pieces
        assert [document.ordinal for document in documents] == list(range(len(pieces)))
        assert len(notes) == (len(pieces) > 1)
        assert all(f"cut into {len(pieces)} documents" in note for note in notes)

    def test_nothing_is_lost_at_cuts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text, "DOCUMENT_CHARACTERS", 1000)
        whole = "".join(f"Zeile {n} für Köln 😀\r\n" + "\r\n" * (n % 7 == 0) for n in range(2000))
        for codec in ("utf-8", "utf-16", "cp1252"):
            said = whole.replace("😀", ":)") if codec == "cp1252" else whole
            (tmp_path / "a.txt").write_bytes(said.encode(codec))
            documents = read(tmp_path / "a.txt")[0]
            assert "".join(document.text for document in documents) == said
            assert max(len(document.text) for document in documents) <= 1000

    def test_later_bytes_that_do_not_fit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(text, "ENCODING_BYTES", 100)
        (tmp_path / "a.txt").write_bytes(b"plain " * 50 + b"caf\xe9")
        assert texts(tmp_path / "a.txt") == ["plain " * 50 + "caf\ufffd"]

    def test_nul_and_control_characters_are_kept(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"one\x00two\x1b three\n" * 3)
        assert texts(tmp_path / "a.txt") == ["one\x00two\x1b three\n" * 3]

    @pytest.mark.parametrize("data", [b"", gzip.compress(b""), bz2.compress(b"")])
    def test_empty(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "a.txt").write_bytes(data)
        assert read(tmp_path / "a.txt") == ([], {"empty file": 1}, ["a.txt: empty file"])

    def test_gutenberg(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text(
            "The Project Gutenberg eBook of Emma, by Jane Austen\n\nTitle: Emma\n\n"
            "Author: Jane Austen\n\n*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***\n\n"
            "Emma Woodhouse, handsome, clever, and rich.\n\n"
            "*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***\n\nlicence\n"
        )
        (document,) = read(tmp_path / "a.txt")[0]
        assert document.text.strip() == "Emma Woodhouse, handsome, clever, and rich."
        assert document.metadata["title"] == "Emma"
        assert document.metadata["file"] == "a.txt"

    def test_a_page_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text, "PAGE_BYTES", 2**20)
        (tmp_path / "a.html").write_bytes(b"<p>" + b"x" * 2**20)
        documents, skipped, _ = read(tmp_path / "a.html")
        assert (documents, skipped) == ([], {"broken or cut-off data": 1})

    def test_the_title_of_a_page_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "a.html").write_text(
            "<html><head><title>Tides</title></head><body><p>"
            + "The moon pulls the water of the seas. " * 20
            + "</p></body></html>"
        )
        assert read(tmp_path / "a.html")[0][0].metadata == {"file": "a.html", "title": "Tides"}


class TestTables:
    def test_metadata_as_in_dolma(self, tmp_path: Path) -> None:
        row = {
            "id": "http://x.org/1",
            "text": "one",
            "source": "common-crawl",
            "created": "2020-03-29T09:04:10Z",
            "metadata": {"url": "http://x.org/2", "title": "T", "language": "en", "length": 3},
        }
        plain = {"id": "http://x.org/3", "text": "two", "metadata": {}}
        (tmp_path / "a.json.gz").write_bytes(
            gzip.compress(f"{json.dumps(row)}\n{json.dumps(plain)}\n".encode())
        )
        first, second = read(tmp_path)[0]
        assert first.url == "http://x.org/2"
        assert first.metadata == {
            **{"file": "a.json.gz", "line": "1", "title": "T", "language": "en"},
            **{"date": "2020-03-29T09:04:10Z", "id": "http://x.org/1"},
        }
        assert (second.url, second.metadata) == (
            "http://x.org/3",
            {"file": "a.json.gz", "line": "2"},
        )

    def test_a_line_too_long_is_a_bad_row(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tables, "LIMITS", replace(tables.LIMITS, line_characters=5000))
        rows = [json.dumps({"text": word}) for word in ("one", "x" * 5000, "y" * 20_000, "two")]
        (tmp_path / "a.jsonl").write_text("\n".join(rows) + "\n")
        documents, skipped, notes = read(tmp_path / "a.jsonl")
        assert [document.text for document in documents] == ["one", "two"]
        assert [document.metadata["line"] for document in documents] == ["1", "4"]
        assert skipped == {"bad row": 2}
        assert "first on line 2: a line of more than 5,000 characters" in notes[0]

    def test_a_quote_that_is_never_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tables, "LIMITS", replace(tables.LIMITS, field_characters=2000))
        rows = [f"{number},some words" for number in range(1000)]
        rows[10] = '10,"open'
        (tmp_path / "a.csv").write_text("id,text\n" + "\n".join(rows) + "\n")
        documents, skipped, notes = read(tmp_path / "a.csv")
        assert 800 < len(documents) < 900  # what the open field swallowed is lost
        assert documents[-1].metadata["id"] == "999"
        assert skipped == {"bad row": 1}
        assert "first on line 12: broken quoting (more than 2,000 characters" in notes[0]

    def test_a_json_list_too_long_names_the_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tables, "LIMITS", replace(tables.LIMITS, json_characters=1000))
        (tmp_path / "a.json").write_text(json.dumps([{"text": "x" * 100}] * 20))
        documents, skipped, notes = read(tmp_path / "a.json")
        assert (documents, skipped) == ([], {"broken or cut-off data": 1})
        assert "convert it to JSON Lines" in notes[0]

    @pytest.mark.parametrize(
        "bad",
        ['{"text": "\\ud800"}', '{"text": "a\\u0000"}', '{"text": ' + "[" * 100_000, '{"text": 7}'],
    )
    def test_rows_that_no_text_may_hold(self, tmp_path: Path, bad: str) -> None:
        (tmp_path / "a.jsonl").write_text(f'{{"text": "one"}}\n{bad}\n{{"text": "two"}}\n')
        documents, skipped, _ = read(tmp_path / "a.jsonl")
        assert [document.text for document in documents] == ["one", "two"]
        assert skipped == {"bad row": 1}

    @pytest.mark.parametrize(
        ("whole", "skipped", "said"),
        [
            ("[1, 2, NaN]", {"bad row": 3}, "first on record 1: an object is expected, found 1"),
            ("[]", {}, "no rows in it"),
            ("[{}]", {}, "no rows in it"),
            ("7", {"broken or cut-off data": 1}, "a list of objects is expected, found 7"),
        ],
    )
    def test_json_without_rows(
        self, tmp_path: Path, whole: str, skipped: dict[str, int], said: str
    ) -> None:
        (tmp_path / "a.json").write_text(whole)
        documents, counted, notes = read(tmp_path / "a.json")
        assert (documents, counted) == ([], skipped)
        assert said in notes[0]

    def test_deep_nesting_in_one_value(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text("[" * 100_000)
        assert read(tmp_path / "a.json")[1] == {"broken or cut-off data": 1}

    def test_rows_before_broken_json_are_kept(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text('[{"text": "one"},\n{"text": "two"},\n{"text": \n')
        documents, skipped, notes = read(tmp_path / "a.json")
        assert [document.text for document in documents] == ["one", "two"]
        assert skipped == {"broken or cut-off data": 1}
        assert notes[0].startswith("a.json: broken or cut-off data: line 4: broken JSON")

    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
    def test_rows_before_a_cut_are_kept(self, tmp_path: Path, pack: Any) -> None:
        rows = "".join(json.dumps({"text": f"row {n} {n * n}"}) + "\n" for n in range(3000))
        (tmp_path / "a.jsonl").write_bytes(pack(rows.encode()) + pack(rows.encode())[:-30])
        documents, skipped, _ = read(tmp_path / "a.jsonl")
        assert len(documents) >= 3000
        assert [document.ordinal for document in documents] == list(range(len(documents)))
        assert skipped["broken or cut-off data"] == 1
        with pytest.raises(UserError, match=r"a\.jsonl: broken or cut-off data"):
            read(tmp_path / "a.jsonl", bad_rows="refuse")

    def test_parquet_reads_what_it_needs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parquet_rows, "BATCH_BYTES", 1000)
        rows = [
            {"text": f"{n} " * 50, "blob": "x" * 99, "meta": {"url": f"u{n}"}} for n in range(50)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        documents = read(tmp_path / "a.parquet")[0]
        assert [document.text for document in documents] == [row["text"] for row in rows]
        assert documents[7].url == "u7"
        data = (tmp_path / "a.parquet").read_bytes()
        (tmp_path / "a.parquet").write_bytes(data[:-100])
        assert read(tmp_path / "a.parquet")[1] == {"broken or cut-off data": 1}

    def test_a_row_group_is_not_read_at_once(self, tmp_path: Path) -> None:
        rows = [os.urandom(5000).hex() for _ in range(2000)]
        table = pa.table({"text": rows})
        pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, write_batch_size=64)

        class Counted(io.FileIO):
            largest = 0

            def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
                data = super().read(-1 if size is None else size)
                self.largest = max(self.largest, len(data))
                return data

        bad = BadRows("a.parquet", "skip")
        with Counted(tmp_path / "a.parquet") as file:
            assert sum(1 for _ in parquet_rows.parquet_rows(file, bad)) == 2000  # type: ignore[arg-type]
            assert 0 < file.largest < 4_000_000  # of 20 MB


class TestBroken:
    def test_a_text_cut_off_is_no_document(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(os.urandom(3000).hex().encode())[:-20])
        (tmp_path / "b.txt").write_text("sound")
        documents, skipped, notes = read(tmp_path)
        assert [document.text for document in documents] == ["sound"]
        assert skipped == {"broken or cut-off data": 1}
        assert notes[0].startswith("a.txt.gz: broken or cut-off data: ")

    def test_pieces_before_a_cut_are_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(text, "DOCUMENT_CHARACTERS", 1000)
        monkeypatch.setattr(text, "ENCODING_BYTES", 1000)
        words = " ".join(str(n * n) for n in range(20_000))
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(words.encode())[:-2000])
        documents, skipped, _ = read(tmp_path / "a.txt.gz")
        assert len(documents) > 50
        assert words.startswith("".join(document.text for document in documents))
        assert skipped == {"broken or cut-off data": 1}

    def test_records_of_a_web_archive_are_broken_one_by_one(self, tmp_path: Path) -> None:
        records = [
            gzip.compress(
                b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: <urn:uuid:%d>\r\n"
                b"WARC-Target-URI: http://x.org/%d\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
                b"Content-Type: text/plain\r\nContent-Length: 12\r\n\r\nwords no. %02d\r\n\r\n"
                % (number, number, number)
            )
            for number in range(3)
        ]
        whole = b"".join(records)
        records[0] = records[0][:30] + bytes(8) + records[0][38:]
        for name, data, found in [
            ("a.warc.wet.gz", whole, 3),
            ("b.warc.wet.gz", b"".join(records), 2),
            ("c.warc.wet.xz", lzma.compress(gzip.decompress(whole)), 3),
        ]:
            (tmp_path / name).write_bytes(data)
            assert len(read(tmp_path / name)[0]) == found

    @pytest.mark.parametrize(
        "name", ["a.pdf", "a.epub", "a.warc.gz", "a.zip", "a.tar", "a.parquet"]
    )
    @pytest.mark.parametrize("data", [b"no such thing", b"\x1f\x8b\x08 broken", b"PK\x03\x04 no"])
    def test_what_a_name_promises(self, tmp_path: Path, name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        documents, skipped, _ = read(tmp_path / name)
        assert documents == []
        assert sum(skipped.values()) >= 1


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "head", "format"),
        [
            ("a.txt", b"", "text"),
            ("a.py.gz", b"", "text"),
            ("a.xhtml", b"", "html"),
            ("a.json.gz", b"", "table"),
            ("CC-MAIN-1.warc.wet.gz", b"", "warc"),
            ("CC-MAIN-1.warc.wat.gz", b"WARC/1.0\r\n", None),
            ("a.tgz", b"", "archive"),
            ("a", b"WARC/1.0\r\n", "warc"),
            ("a", b"filedesc://x 0.0.0.0 2001 text/plain 76\n", "warc"),
            ("a", b"%PDF-1.4\n", "pdf"),
            ("a.bin", b"PAR1\x15", "table"),
            ("a", b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/epub+zip", "epub"),
            ("a", b"PK\x03\x04" + bytes(26) + b"one.txt", "archive"),
            ("a.docx", b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", None),
            ("a", b"name.txt".ljust(257, b"\0") + b"ustar\x0000", "archive"),
            ("inbox", b"From a@b.c Thu Aug 22 12:36:23 2002\nReturn-Path: <a@b.c>\n", "mail"),
            ("1.", b"Message-ID: <1.2@x>\nDate: Mon, 14 May 2001\n", "mail"),
            ("a", b"From time to time, she wrote.\nReally: yes.\n", "text"),
            ("d.xml-p1p2.bz2", b'<mediawiki xmlns="http://www.mediawiki.org/">', "wikipedia"),
            (
                "d.xml",
                '<?xml version="1.0"?><mediawiki xml:lang="en">'.encode("utf-16"),
                "wikipedia",
            ),
            (
                "a.xml",
                b'<?xml version="1.0"?>\n<!DOCTYPE article PUBLIC "-//NLM//DTD JATS">',
                "jats",
            ),
            ("a.nxml", b'<article article-type="research-article" xml:lang="en"><front>', "jats"),
            ("a.xml", b'<!DOCTYPE article PUBLIC "-//OASIS//DTD DocBook XML V4.2//EN">', None),
            ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg">', None),
            ("a", b"<!doctype html><p>hello", "html"),
            ("a", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), None),
            ("a", b"", None),
        ],
    )
    def test_by_name_and_first_bytes(self, name: str, head: bytes, format: str | None) -> None:
        assert find_format(name, head, maybe_text="." not in name) == format

    def test_the_user_knows_better(self, tmp_path: Path) -> None:
        (tmp_path / "a.xml").write_text("<p>hello</p> and more")
        (tmp_path / "b.dat").write_text('{"text": "one"}\n')
        (tmp_path / "c.txt").write_text("plain")
        assert texts(tmp_path / "a.xml", format="text") == ["<p>hello</p> and more"]
        assert texts(tmp_path / "b.dat", format="table") == ["one"]
        assert texts(tmp_path / "*.dat", format="table") == ["one"]
        assert texts(tmp_path, format="text") == ["plain"]  # of a folder what is of that format

    @pytest.mark.parametrize("packing", ["bz2", "xz"])
    def test_folders_hold_packed_files(self, tmp_path: Path, packing: str) -> None:
        pack = {"bz2": bz2.compress, "xz": lzma.compress}[packing]
        (tmp_path / f"a.txt.{packing}").write_bytes(pack(b"one"))
        (tmp_path / f"b.{packing}").write_bytes(pack(b"two"))
        assert texts(tmp_path) == ["one", "two"]


class TestListing:
    def test_only_regular_files_are_opened(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.txt")
        (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
        (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
        (tmp_path / "a.txt").write_text("one")
        (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(tmp_path)  # names of sockets must be short
            try:
                server.bind("s.txt")
            finally:
                os.chdir(here)
            documents, _, notes = read(tmp_path)
        assert [document.text for document in documents] == ["one"]
        assert notes == [
            "s: left aside, no readable text: 4 files (2 broken links, 2 no regular files)"
        ]
        for name, message in [
            ("pipe.txt", "neither a file nor a folder"),
            ("gone.txt", r"a link to .*nowhere\.txt, which does not exist"),
        ]:
            with pytest.raises(UserError, match=message):
                read(tmp_path / name)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_files_that_may_not_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("one")
        (tmp_path / "b.txt").write_text("two")
        (tmp_path / "b.txt").chmod(0)
        assert read(tmp_path)[2] == ["s: left aside, no readable text: 1 file (1 unreadable)"]
        with pytest.raises(UserError, match=r"b\.txt: cannot be read: Permission denied"):
            read(tmp_path / "b.txt")

    def test_names_that_are_no_unicode(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("one")
        with open(os.path.join(os.fsencode(tmp_path), b"b\xff.txt"), "w") as file:
            file.write("two")
        documents, _, notes = read(tmp_path)
        assert [document.text for document in documents] == ["one"]
        assert "1 names that are no Unicode" in notes[0]

    def test_names_and_folders_of_a_double_star(self, tmp_path: Path) -> None:
        (tmp_path / "x" / "y").mkdir(parents=True)
        (tmp_path / "x" / "a.txt").write_text("one")
        (tmp_path / "x" / "y" / "b.txt").write_text("two")
        inputs, _ = list_files("s", [str(tmp_path / "**")])
        assert [entry.locator for entry in inputs] == ["a.txt", "b.txt"]

    def test_many_files_in_order(self, tmp_path: Path) -> None:
        for number in range(500):
            (tmp_path / f"{number:03d}.txt").write_text(str(number))
        inputs, _ = list_files("s", [str(tmp_path)])
        assert [entry.locator for entry in inputs] == [f"{n:03d}.txt" for n in range(500)]
        assert len({entry.sha256 for entry in inputs}) == 500
        assert inputs[17].bytes == 2

    def test_a_url_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("one")
        inputs, _ = list_files("s", [f"file://{tmp_path / 'a.txt'}"])
        assert [entry.locator for entry in inputs] == ["a.txt"]


def test_memory_stays_bounded_for_a_long_line(tmp_path: Path) -> None:
    """100 MB in one line, read in pieces: never more than a few pieces at once."""
    import tracemalloc

    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"abcdefghi " * 1_000_000, 1) * 10)
    source = SourceConfig(paths=[str(path)])
    (entry,), _ = list_files("s", source.paths)
    tracemalloc.start()
    size = 0
    for found in read_file(entry, source, "skip"):
        size += len(found.text) if isinstance(found, RawDocument) else 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 100_000_000
    assert peak < 100_000_000


@pytest.mark.skipif("LLMSTAGES_DATA" not in os.environ, reason="LLMSTAGES_DATA names no real data")
class TestRealData:
    def folder(self, name: str) -> Path:
        return Path(os.environ["LLMSTAGES_DATA"]) / name

    def test_dolma(self) -> None:
        documents, skipped, _ = read(self.folder("cc_text_jsonl/*.json*.gz"))
        assert (len(documents), skipped) == (30, {})
        assert all(document.url and document.metadata["date"] for document in documents)

    def test_c4(self) -> None:
        assert len(read(self.folder("web_text_demo/c4_demo.jsonl"))[0]) == 300

    def test_dumps_without_xml_in_their_names(self) -> None:
        inputs, _ = list_files("s", [str(self.folder("wikipedia_dumps"))])
        path = next(entry.path for entry in inputs if "p000000010" in entry.path)
        with io.BytesIO(bz2.decompress(Path(path).read_bytes())) as stream:
            assert find_format(path, stream.read(8192)) == "wikipedia"

    def test_novels(self) -> None:
        inputs, notes = list_files("s", [str(self.folder("english_novels"))])
        assert len(inputs) == 71
        assert notes == []

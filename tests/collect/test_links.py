"""Lists of links, and corpora of the pages behind them."""

import bz2
import gzip
import http.server
import json
import lzma
import os
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from llmstages.collect.fetch.cache import Fetched, PageCache
from llmstages.collect.fetch.failures import NEVER, NEXT_RUN
from llmstages.collect.sources.links import LinkTable, find_links, list_links, read_links
from llmstages.collect.sources.records import Input, Note, RawDocument, Skipped
from llmstages.config.collect_groups import FetchConfig, SourceConfig
from llmstages.errors import UserError

SENTENCE = "The quick brown fox jumps over the lazy dog, and nobody minds at all. "


def found(
    *paths: Path, min_score: int = 3, **settings: object
) -> tuple[list[str], dict[str, int], list[str]]:
    """Links, reasons and notes."""
    fetch = FetchConfig(**settings)  # type: ignore[arg-type]
    urls, skipped, notes = find_links([str(path) for path in paths], min_score, fetch)
    reasons = {item.reason: item.count for item in skipped}
    assert len(reasons) == len(skipped)
    return urls, reasons, [note.text for note in notes]


def submissions(*records: dict[str, object]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


POSTS = submissions(
    {"url": "http://a.example/1", "score": 3, "is_self": False},
    {"url": "http://a.example/2", "score": 2, "is_self": False},
    {"url": "HTTPS://A.example:443/1?utm_source=x#top", "score": 9, "is_self": False},
    {"url": "http://a.example/3?x=1&amp;y=2", "score": "7"},
    {"url": "http://www.reddit.com/r/science/comments/1", "score": 9, "is_self": True},
    {"url": "/r/science/comments/2", "score": 9},
    {"url": "http://old.reddit.com/r/science", "score": 9},
    {"url": "https://v.redd.it/abc", "score": 9},
    {"url": "https://i.imgur.com/abc", "score": 9},
    {"url": "https://a.example/photo.JPG?width=640", "score": 9},
    {"url": "https://a.example/paper.pdf", "score": 9},
    {"url": "https://a.example/wiki/File:Map.png", "score": 9},
    {"url": "https://a.example/photo.jpg/about", "score": 9},
    {"url": "http://www.bad.example/", "score": 9},
    {"url": "http://[broken/", "score": 9},
    {"url": "ftp://a.example/", "score": 9},
    {"url": "http://a.example/4", "score": None},
    {"score": 5},
)
LINKS = [
    "http://a.example/3?x=1&y=2",
    "https://a.example/1",
    "https://a.example/photo.jpg/about",
    "https://a.example/wiki/File:Map.png",
]
REASONS = {
    "score below 3": 1,
    "duplicate link": 1,
    "not an outbound link": 4,
    "media file": 2,
    "document or archive": 1,
    "blocked domain": 1,
    "broken URL": 2,
    "no score": 1,
    "no URL": 1,
}


@pytest.mark.parametrize("packing", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_pushshift_submissions(tmp_path: Path, packing: str) -> None:
    pack = {
        "": bytes,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    }[packing]
    path = tmp_path / f"RS_2011-01{packing}"
    path.write_bytes(pack(POSTS + b"\n{broken\n[1]\n"))
    expected = REASONS | {"broken line": 2}
    assert found(path, blocked=["bad.example"]) == (LINKS, expected, [])
    assert found(tmp_path, blocked=["bad.example"]) == (LINKS, expected, [])
    assert found(tmp_path / "RS_*", blocked=["bad.example"]) == (LINKS, expected, [])


def test_csv_submissions(tmp_path: Path) -> None:
    path = tmp_path / "science.csv"
    path.write_text(
        "\ufeffscore,Title,is_self,URL\n"
        '5,"two\nlines, ""quoted""",False,http://a.example/b\n'
        "2,low,False,http://a.example/c\n"
        "9,text,True,http://www.reddit.com/r/x\n"
        "\n"
        "9,short\n"
        "9,big,False,http://a.example/" + "x" * 200_000 + "\n"
        "9,last,False,http://a.example/a\n",
        encoding="utf-8",
    )
    reasons = {"score below 3": 1, "not an outbound link": 1, "no URL": 1, "broken line": 1}
    assert found(path) == (["http://a.example/a", "http://a.example/b"], reasons, [])
    assert found(path, min_score=6)[0] == ["http://a.example/a"]
    tabs = tmp_path / "list.tsv"
    tabs.write_text("url\ttitle\nhttp://a.example/\ta, b\n")
    assert found(tabs) == (["http://a.example/"], {}, [])


def test_plain_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(
        "# a comment\n\nhttp://b.example/x?a=1&amp;b=2\nhttp://a.example\n no url\n"
        "http://reddit.com/\nhttp://Ünï.example/\nhttp://a.example/\n\xa0\n",
        encoding="utf-8",
    )
    path.write_bytes(path.read_bytes() + b"http://caf\xe9.example/\nhttp://a.example/z")
    urls, reasons, notes = found(path)
    assert urls == [
        *("http://a.example/", "http://a.example/z", "http://b.example/x?a=1&amp;b=2"),
        "http://xn--n-nga1b.example/",
    ]
    assert reasons == {"broken URL": 2, "duplicate link": 1, "not an outbound link": 1}
    assert notes == []


def test_both_schemes_are_one_page_whatever_their_order(tmp_path: Path) -> None:
    lines = ["http://a.example/", "https://a.example/", "http://a.example:8080/"]
    for number, order in enumerate([lines, lines[::-1]]):
        path = tmp_path / f"{number}.txt"
        path.write_text("\n".join(order))
        urls, reasons, _ = found(path)
        assert urls == ["http://a.example:8080/", "https://a.example/"]
        assert reasons == {"duplicate link": 1}


def test_folders_leave_other_files_aside(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt.gz").write_bytes(gzip.compress(b"http://a.example/"))
    (tmp_path / "b.csv").write_text("url\nhttp://b.example/\n")
    (tmp_path / "LICENSE").write_text("http://license.example/")
    (tmp_path / "c.txt").write_text("nothing but\nwords\n")
    urls, reasons, notes = found(tmp_path, tmp_path / "b.csv")
    assert urls == ["http://a.example/", "http://b.example/"]
    assert reasons == {"broken URL": 2}
    assert notes == ["1 files left aside: no lists", "no link in it"]


def test_cut_off_file_gives_what_it_holds(tmp_path: Path) -> None:
    lines = b"".join(
        b"http://a.example/%d/%s\n" % (n, os.urandom(8).hex().encode()) for n in range(5000)
    )
    path = tmp_path / "cut.txt.xz"
    path.write_bytes(lzma.compress(lines)[:20_000])
    urls, _, notes = found(path)
    assert 500 < len(urls) < 4500
    assert len(notes) == 1
    assert notes[0].startswith("broken or cut-off data")


def test_endless_line_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl.gz"
    with gzip.open(path, "wb") as file:
        file.write(submissions({"url": "http://a.example/"}) + b'{"url": "')
        for _ in range(50):
            file.write(bytes(1_000_000))
        file.write(b'"}\n' + submissions({"url": "http://b.example/"}))
    tracemalloc.start()
    urls, reasons, _ = found(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert urls == ["http://a.example/", "http://b.example/"]
    assert reasons == {"line too long": 1}
    assert peak < 20_000_000


def test_mistakes_are_said(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("http://a.example/")
    for path, message in (
        (tmp_path / "lost.txt", "no such file"),
        (tmp_path / "*.lost", "no file matches"),
    ):
        with pytest.raises(UserError, match=message):
            found(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no list of links in this directory"):
        found(tmp_path / "empty")
    with pytest.raises(UserError, match="neither a domain nor a file"):
        found(tmp_path / "list.txt", blocked=["no domain"])


def test_table_of_links_spills_and_sorts() -> None:
    table = LinkTable()
    urls = [f"http://a.example/{number * 7919 % 5000}" for number in range(5000)]
    for url in urls * 2:
        table.add(url)
    assert len(table) == 5000
    assert list(table) == sorted(urls)
    shards = {shard: list(group) for shard, group in table.shards()}
    assert sorted(shards) == [f"{number:02x}" for number in range(256)]
    assert sorted(url for group in shards.values() for url in group) == sorted(urls)
    assert all(group == sorted(group) for group in shards.values())
    table.close()


# ------------------------------------------------------------------------------- pages


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL under which it is served."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


QUICK = FetchConfig(delay_seconds=0.0, retries=0, allow_hosts=["127.0.0.1"])


def collect(
    list_path: Path, cache_dir: Path
) -> tuple[list[Input], list[RawDocument], dict[str, int], list[str]]:
    """Inputs, documents, reasons and notes of a list."""
    source = SourceConfig(kind="links", paths=[str(list_path)])
    inputs, said = list_links("web", source, QUICK, cache_dir, lambda pages: None)
    items = [*said, *(item for entry in inputs for item in read_links(entry))]
    reasons = {item.reason: item.count for item in items if isinstance(item, Skipped)}
    documents = [item for item in items if isinstance(item, RawDocument)]
    return inputs, documents, reasons, [item.text for item in items if isinstance(item, Note)]


def page(title: str, text: str) -> str:
    return (
        f"<html><head><title>{title}</title></head><body><article><h1>{title}</h1>"
        f"<p>{text}</p></article></body></html>"
    )


def test_pages_become_documents(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, root = site
    (folder / "a.html").write_text(page("Foxes", SENTENCE * 5), encoding="utf-8")
    (folder / "note.txt").write_text("Grüße aus Köln. " * 5, encoding="latin-1")
    (folder / "empty.html").write_text("")
    (folder / "data.json").write_text("{}")
    links = tmp_path / "list.txt"
    links.write_text(
        "\n".join(
            f"{root}/{name}" for name in ("a.html", "note.txt", "empty.html", "data.json", "gone")
        )
    )
    done: list[int] = []
    source = SourceConfig(kind="links", paths=[str(links)])
    list_links("web", source, QUICK, tmp_path / "cache", done.append)
    assert sum(done) == 5
    inputs, documents, reasons, notes = collect(links, tmp_path / "cache")
    assert {document.url for document in documents} == {f"{root}/a.html", f"{root}/note.txt"}
    by_url = {document.url: document for document in documents}
    html = by_url[f"{root}/a.html"]
    assert SENTENCE.strip() in html.text
    assert "<p>" not in html.text
    assert (html.locator, html.ordinal) == (html.url, 0)
    assert by_url[f"{root}/note.txt"].text == "Grüße aus Köln. " * 5
    assert reasons == {
        "HTTP 4xx": 1,
        "not HTML: script, style or JSON": 1,
        "empty page": 1,
    }
    assert notes == []
    assert all(entry.locator.startswith("links/") for entry in inputs)
    assert sum(entry.bytes for entry in inputs) > 0


def test_equal_pages_give_equal_inputs(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, root = site
    for number in range(20):
        (folder / f"{number}.html").write_text(page(f"Page {number}", f"{number} {SENTENCE * 3}"))
    links = tmp_path / "list.txt"
    links.write_text("\n".join(f"{root}/{number}.html" for number in range(20)))
    again = tmp_path / "again.txt"
    again.write_text("\n".join(f"{root}/{number}.html#x" for number in reversed(range(20))))

    def identity(inputs: list[Input]) -> list[tuple[str, int, str]]:
        return [(entry.locator, entry.bytes, entry.sha256) for entry in inputs]

    first, documents, _, _ = collect(links, tmp_path / "one")
    assert len(documents) == 20
    assert [entry.locator for entry in first] == sorted({entry.locator for entry in first})
    second, same, _, _ = collect(again, tmp_path / "two")
    assert identity(second) == identity(first)
    assert same == documents
    # One page changes: its shard does, the others do not.
    (folder / "7.html").write_text(page("Page 7", "Changed. " + SENTENCE * 3))
    third, changed, _, _ = collect(links, tmp_path / "three")
    assert len(set(identity(third)) - set(identity(first))) == 1
    assert len([document for document in changed if document not in documents]) == 1


def test_lists_share_a_cache_and_read_their_own_pages(
    site: tuple[Path, str], tmp_path: Path
) -> None:
    folder, root = site
    for name in "abc":
        (folder / f"{name}.html").write_text(page(name, f"{name} {SENTENCE * 3}"))
    names = {"one": "ab", "two": "bc"}
    kept = {}
    for name, pages in names.items():
        path = tmp_path / f"{name}.txt"
        path.write_text("\n".join(f"{root}/{letter}.html" for letter in pages))
        kept[name], _, _, _ = collect(path, tmp_path / "cache")
    for name, pages in names.items():
        urls = {
            item.url
            for entry in kept[name]
            for item in read_links(entry)
            if isinstance(item, RawDocument)
        }
        assert urls == {f"{root}/{letter}.html" for letter in pages}


def test_what_may_come_later_is_said(tmp_path: Path) -> None:
    links = tmp_path / "list.txt"
    links.write_text("http://127.0.0.1:1/\nhttp://10.0.0.1/\n")
    inputs, documents, reasons, notes = collect(links, tmp_path / "cache")
    assert documents == []
    assert len(inputs) == 2
    assert reasons == {"no connection": 1, "private address": 1}
    assert notes == ["1 pages may be had in another run (1 no connection)"]


def test_source_without_links_is_refused(tmp_path: Path) -> None:
    links = tmp_path / "list.txt"
    links.write_text("http://reddit.com/\n")
    with pytest.raises(UserError, match=r"source web: no links in .*1 not an outbound link"):
        collect(links, tmp_path / "cache")


def test_pages_that_changed_or_were_damaged_meanwhile_are_counted(tmp_path: Path) -> None:
    cache = PageCache(tmp_path / "cache")

    def put(
        url: str, body: bytes, media_type: str = "text/plain", charset: str | None = None
    ) -> None:
        with cache.writer(url) as writer:
            writer.write(body)
            writer.commit(Fetched(url, url, 200, media_type, charset))

    urls = [
        f"http://a.example/{name}"
        for name in ("changed", "damaged", "lost", "bytes", "untyped", "utf16", "cp1251")
    ]
    for url in urls:
        put(url, b"Some text.")
    put(urls[3], b"PK\0\0binary")
    put(urls[4], b"no mark-up", "")
    put(urls[5], "Привет".encode("utf-16"), charset="utf-16")
    put(urls[6], "Привет".encode("cp1251"), charset="windows-1251")
    links = tmp_path / "list.txt"
    links.write_text("\n".join(urls))
    source = SourceConfig(kind="links", paths=[str(links)])
    inputs, said = list_links("web", source, QUICK, tmp_path / "cache", lambda pages: None)
    assert said == []
    put(urls[0], b"Other text.")
    damaged = cache.path(urls[1])
    data = bytearray(damaged.read_bytes())
    data[12] ^= 255
    damaged.write_bytes(data)
    cache.path(urls[2]).unlink()
    items = [item for entry in inputs for item in read_links(entry)]
    texts = {item.url: item.text for item in items if isinstance(item, RawDocument)}
    assert texts == {urls[5]: "Привет", urls[6]: "Привет"}
    reasons = sorted(item.reason for item in items if isinstance(item, Skipped))
    assert reasons == [
        *("not HTML: other media type",) * 2,
        *("page changed in the cache while it was read",) * 2,
        "page damaged in the cache",
    ]


def test_real_submissions() -> None:
    """The figures of SOURCE.md: 14,999 posts, 14,079 of them links, spelled in 13,872 ways."""
    if "LLMSTAGES_DATA" not in os.environ:
        pytest.skip("LLMSTAGES_DATA is not set")
    data = Path(os.environ["LLMSTAGES_DATA"])
    urls, reasons, _ = found(data / "linklists" / "reddit_top")
    assert len(urls) + sum(reasons.values()) == 14_999
    assert len(urls) == 12_689
    assert reasons == {
        "not an outbound link": 920 + 49,
        "media file": 1007,
        "document or archive": 95,
        "duplicate link": 239,
    }
    easylist = data / "cc_text_jsonl" / "easylist.txt.gz"
    assert found(data / "linklists" / "reddit_top", blocked=[str(easylist)])[0] == urls


def test_one_reason_for_now_and_for_good_is_counted_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = Counter({("HTTP 4xx", NEVER): 3, ("HTTP 4xx", NEXT_RUN): 2})
    monkeypatch.setattr("llmstages.collect.sources.links._shards", lambda *_: ([], failures))
    monkeypatch.setattr("llmstages.collect.fetch.crawl.fetch_pages", lambda *_: None)
    (tmp_path / "links.txt").write_text("http://a.example/\n")
    source = SourceConfig(kind="links", paths=[str(tmp_path / "links.txt")])
    _, others = list_links("web", source, FetchConfig(), tmp_path, lambda _: None)
    assert Skipped("HTTP 4xx", 5) in others
    assert Note("web", "2 pages may be had in another run (2 HTTP 4xx)") in others

"""Remote paths, against a server on this machine."""

import functools
import gzip
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmstages.collect.sources.files import read_file
from llmstages.collect.sources.listing import list_files
from llmstages.collect.sources.opening import is_remote
from llmstages.collect.sources.records import Found, Note, RawDocument, Skipped
from llmstages.config.collect_groups import SourceConfig
from llmstages.errors import UserError


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/cut"):
            self.send_response(200)
            self.send_header("Content-Length", "10000000")
            self.end_headers()
            self.wfile.write(b'{"text": "one"}\n' * 100_000)
            self.close_connection = True
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if self.path.startswith("/cut"):
            self.send_response(200)
            self.end_headers()
        else:
            super().do_HEAD()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """URL of a server of `tmp_path`."""
    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def read(*urls: str, bad_rows: str = "skip") -> list[Found]:
    source = SourceConfig(paths=list(urls))
    inputs, _ = list_files("s", source.paths)
    return [found for entry in inputs for found in read_file(entry, source, bad_rows)]


def test_every_kind_of_file(tmp_path: Path, served: str) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "two"}\n'))
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("d.txt", "three")
    found = read(f"{served}/a.txt", f"{served}/b.jsonl.gz", f"{served}/c.zip?download=1")
    assert [(item.locator, item.text) for item in found if isinstance(item, RawDocument)] == [
        ("a.txt", "one"),
        ("b.jsonl.gz", "two"),
        ("c.zip/d.txt", "three"),
    ]


def test_the_hash_changes_with_the_file(tmp_path: Path, served: str) -> None:
    (tmp_path / "a.txt").write_text("one")
    ((first,), _), ((again,), _) = (list_files("s", [f"{served}/a.txt"]) for _ in range(2))
    assert first == again
    assert (first.bytes, len(first.sha256)) == (3, 64)
    (tmp_path / "a.txt").write_text("four")
    (changed,), _ = list_files("s", [f"{served}/a.txt"])
    assert changed.bytes == 4
    assert changed.sha256 != first.sha256


def test_equal_names_get_their_paths(tmp_path: Path, served: str) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder)
    inputs, _ = list_files("s", [f"{served}/x/a.txt", f"{served}/y/a.txt", str(tmp_path / "x")])
    assert [entry.locator for entry in inputs] == [
        "a.txt",
        f"{served}/x/a.txt",
        f"{served}/y/a.txt",
    ]


def test_a_connection_that_is_cut(served: str) -> None:
    found = read(f"{served}/cut.jsonl")
    texts = [item.text for item in found if isinstance(item, RawDocument)]
    assert 50_000 < len(texts) <= 100_000
    assert set(texts) == {"one"}
    assert Skipped("broken or cut-off data") in found
    assert any(isinstance(item, Note) for item in found)
    with pytest.raises(UserError, match=r"cut\.jsonl: broken or cut-off data"):
        read(f"{served}/cut.jsonl", bad_rows="refuse")


def test_what_cannot_be_reached_is_said_in_one_line(served: str) -> None:
    for url, message in [
        (f"{served}/missing.txt", r"missing\.txt: no such file on the server"),
        ("http://127.0.0.1:9/a.txt", r"127\.0\.0\.1:9/a\.txt: cannot be read"),
        ("s3://bucket/a.txt", r"s3:// needs another package: .*s3fs"),
        ("nonsense://x/a.txt", r"nonsense:// is not known"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            read(url)
        assert "\n" not in str(caught.value)


def test_globs_where_the_server_can_list() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/r/a.txt": b"one", "/r/b.txt": b"two", "/r/c.png": b"\x89PNG"})
    try:
        found = read("memory://r/*")
        assert [item.text for item in found if isinstance(item, RawDocument)] == ["one", "two"]
        with pytest.raises(UserError, match="matches no file"):
            read("memory://r/*.md")
        with pytest.raises(UserError, match="no text among the 1 files that it matches"):
            read("memory://r/*.png")
        with pytest.raises(UserError, match=r"a remote folder: name its files, as in memory://r/"):
            read("memory://r")
    finally:
        memory.rm("/r", recursive=True)


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("http://x/a.txt", True),
        ("S3://bucket/a", True),
        ("file:///tmp/a.txt", False),
        ("/tmp/a.txt", False),
        ("C://a", False),
        ("a:b", False),
    ],
)
def test_which_paths_are_remote(path: str, remote: bool) -> None:
    assert is_remote(path) == remote

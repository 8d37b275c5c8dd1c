"""Packed files are opened by their first bytes, read to the last member, and stopped as bombs."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pyarrow as pa
import pytest

from llmstages.data import opening
from llmstages.data.opening import (
    UNREADABLE,
    DecompressionBomb,
    inner_name,
    inner_suffix,
    open_bytes,
    unpacked,
    with_head,
)
from llmstages.errors import UserError

TEXT = b"".join(b"line %d of a text\n" % number for number in range(20_000))


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(data)
        return bytes(sink.getvalue())

    return pack


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": by_arrow("zstd"),
    "lz4": by_arrow("lz4"),
}


class Pipe(io.RawIOBase):
    """Bytes that come a few at a time and cannot be had again."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        return self.data.readinto(memoryview(buffer)[:1000])


def pipe(data: bytes) -> IO[bytes]:
    return io.BufferedReader(Pipe(data))  # type: ignore[return-value]


def read_until_error(stream: IO[bytes]) -> tuple[bytes, Exception]:
    data = b""
    while True:
        try:
            piece = stream.read1(4096)  # type: ignore[attr-defined]
        except UNREADABLE as error:
            return data, error
        assert piece, "no error came"
        data += piece


@pytest.mark.parametrize("packing", PACKERS)
class TestPacked:
    def test_members_one_after_another(self, tmp_path: Path, packing: str) -> None:
        pack = PACKERS[packing]
        path = tmp_path / "named-otherwise.txt"
        path.write_bytes(pack(TEXT) + pack(b"") + pack(b"the end"))
        with open_bytes(path) as stream:
            assert stream.read() == TEXT + b"the end"

    def test_from_a_pipe(self, packing: str) -> None:
        assert unpacked(pipe(PACKERS[packing](TEXT))).read() == TEXT

    def test_what_is_sound_comes_before_the_error(self, packing: str) -> None:
        pack = PACKERS[packing]
        cut = pack(TEXT) + pack(TEXT)[:-20]
        data, _ = read_until_error(unpacked(io.BytesIO(cut)))
        assert data[: len(TEXT)] == TEXT
        assert (TEXT + TEXT).startswith(data)

    def test_the_error_comes_again(self, packing: str) -> None:
        stream = unpacked(io.BytesIO(PACKERS[packing](TEXT)[:-20]))
        _, error = read_until_error(stream)
        for _ in range(2):
            with pytest.raises(type(error)):
                stream.read()

    def test_a_bomb(self, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "BOMB_BYTES", 2**20)
        zeros = PACKERS[packing](bytes(2**24))
        data, error = read_until_error(unpacked(io.BytesIO(zeros)))
        assert isinstance(error, DecompressionBomb)
        assert "decompression bomb" in str(error)
        assert 2**19 < len(data) < 2**24

    def test_what_packs_well_is_no_bomb(
        self, packing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(opening, "BOMB_BYTES", 2**16)
        assert unpacked(io.BytesIO(PACKERS[packing](TEXT))).read() == TEXT


def test_plain_files_and_text_that_looks_packed(tmp_path: Path) -> None:
    for data in (b"", b"x", b"BZhang was here, and wrote", b"\x1f\x8b", TEXT):
        (tmp_path / "a").write_bytes(data)
        with open_bytes(tmp_path / "a") as stream:
            assert stream.read() == data


def test_zeros_after_members(tmp_path: Path) -> None:
    for pack in (gzip.compress, lzma.compress):
        padded = pack(b"one ") + bytes(512) + pack(b"two") + bytes(1024)
        assert unpacked(io.BytesIO(padded)).read() == b"one two"


def test_a_zstandard_file_may_begin_with_a_frame_to_skip() -> None:
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert unpacked(io.BytesIO(skipped + PACKERS["zst"](TEXT))).read() == TEXT


def test_xz_may_not_demand_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**25}]
    large = lzma.compress(b"text", filters=filters)
    assert unpacked(io.BytesIO(large)).read() == b"text"
    monkeypatch.setattr(opening, "XZ_MEMORY_BYTES", 2**24)
    with pytest.raises(lzma.LZMAError, match="Memory usage limit"):
        unpacked(io.BytesIO(large)).read()


def test_broken_checksums_are_errors() -> None:
    packed = bytearray(gzip.compress(TEXT))
    packed[-6] ^= 1
    data, error = read_until_error(unpacked(io.BytesIO(bytes(packed))))
    assert data == TEXT
    assert isinstance(error, (OSError, zlib.error))


def test_closing_closes_what_is_below(tmp_path: Path) -> None:
    for packing, pack in PACKERS.items():
        file = io.BytesIO(pack(TEXT))
        stream = unpacked(file)
        stream.read(100)
        stream.close()
        assert file.closed, packing


@pytest.mark.parametrize("size", [0, 5, 999, 1001, 5000, 10_000])
def test_a_head_is_read_and_comes_again(size: int) -> None:
    data = bytes(range(250)) * 20
    for stream in (io.BytesIO(data), pipe(data)):
        head, again = with_head(stream, size)
        assert head == data[:size]
        assert again.read() == data


def test_a_head_may_end_in_an_error() -> None:
    head, again = with_head(unpacked(io.BytesIO(gzip.compress(TEXT)[:-20])), 10**7)
    assert TEXT.startswith(head)
    data, _ = read_until_error(again)
    assert data == head
    assert len(data) > len(TEXT) - 10_000


@pytest.mark.parametrize(
    ("name", "inner", "suffix"),
    [
        ("a/B.TXT.gz", "b.txt", ".txt"),
        ("a.jsonl.zst", "a.jsonl", ".jsonl"),
        ("dump.xml-p10p20.bz2", "dump.xml-p10p20", ".xml-p10p20"),
        ("maildir/1.", "1.", ""),
        (".hidden", ".hidden", ""),
        ("x.xz", "x", ""),
    ],
)
def test_names_without_packing(name: str, inner: str, suffix: str) -> None:
    assert (inner_name(name), inner_suffix(name)) == (inner, suffix)


def test_what_cannot_be_opened_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        open_bytes(tmp_path / "missing")

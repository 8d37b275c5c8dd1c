"""Opening files for reading unpacked bytes: gzip, bzip2, xz, Zstandard and LZ4.

How a file is packed is known by its first bytes, whatever its name. Concatenated members are read
to the last. Errors in packed data come when they are reached, after everything before them has been
handed out, and come again with every further read. A decompression bomb is such an error.
"""

import gzip
import io
import lzma
import os
import re
import zlib
from bz2 import BZ2File
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, cast

from llmstages.errors import UserError

UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What reading broken or cut-off data raises."""
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".lz4")

# A bomb is what unpacks to more than a gibibyte *and* to more than 200 times its size. Books and
# web pages shrink 3 to 10 times, tables 10 to 50, logs that repeat themselves up to 100 times; a
# bomb of zeros 1,000 times in gzip and more than 10,000 times in the other formats.
BOMB_BYTES = 2**30
BOMB_RATIO = 200
# xz -9, its strongest setting, needs 65 MiB to unpack; a file may demand 4 GiB.
XZ_MEMORY_BYTES = 2**28

BUFFER_BYTES = 2**16
_MAGIC_BYTES = 10
_MAGIC = (
    ("gzip", re.compile(rb"\x1f\x8b\x08")),
    ("bz2", re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)")),
    ("xz", re.compile(rb"\xfd7zXZ\x00")),
    ("zstd", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")),  # or a frame to skip
    ("lz4", re.compile(rb"\x04\x22\x4d\x18")),
)


class DecompressionBomb(OSError):
    """A stream unpacks to so much more than its size that it is no text."""


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, unpacked when it is packed.

    Raises:
        UserError: the file cannot be opened.
    """
    try:
        stream = path.open("rb")
        try:
            return unpacked(stream)
        except BaseException:
            stream.close()
            raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def unpacked(stream: IO[bytes]) -> IO[bytes]:
    """The unpacked bytes of a stream of packed ones; closing it closes `stream`.

    A stream that is not packed in any known way is handed out as it is.
    """
    head, stream = with_head(stream, _MAGIC_BYTES)
    found = packing(head)
    if found is None:
        return stream
    packed = _Counted(stream)
    inner: Any
    if found == "gzip":
        inner = gzip.GzipFile(fileobj=packed, mode="rb")
    elif found == "bz2":
        inner = BZ2File(packed)
    elif found == "xz":
        inner = io.BufferedReader(_Xz(packed), BUFFER_BYTES)
    else:
        import pyarrow as pa

        source = pa.PythonFile(packed, mode="r")
        inner = io.BufferedReader(pa.CompressedInputStream(source, found), BUFFER_BYTES)
    return guarded(inner, lambda: packed.num_bytes, packed)


def packing(head: bytes) -> str | None:
    """How the bytes that begin so are packed: gzip, bz2, xz, zstd, lz4; None when they are not."""
    return next((name for name, magic in _MAGIC if magic.match(head)), None)


def guarded(stream: Any, packed_bytes: Callable[[], int], below: Any = None) -> IO[bytes]:
    """`stream`, ended by `DecompressionBomb` when it is one; its errors come again on each read.

    `packed_bytes()` says how many packed bytes have been read so far. `below` is closed with it.
    """
    return io.BufferedReader(_Guarded(stream, packed_bytes, below), BUFFER_BYTES)


def is_bomb(packed_bytes: int, unpacked_bytes: int) -> bool:
    """Whether so much out of so little is no text."""
    return unpacked_bytes > BOMB_BYTES and unpacked_bytes > BOMB_RATIO * packed_bytes


def with_head(stream: IO[bytes], size: int) -> tuple[bytes, IO[bytes]]:
    """The next `size` bytes (fewer at the end), and a stream that still begins with them."""
    start = stream.tell() if stream.seekable() else None
    read = getattr(stream, "read1", stream.read)
    pieces: list[bytes] = []
    missing = size
    ended = False
    try:
        while missing and not ended:
            pieces.append(read(min(missing, BUFFER_BYTES)))
            missing -= len(pieces[-1])
            ended = not pieces[-1]
    except UNREADABLE:
        if not pieces:
            raise  # else it comes again, once the head has been read
    head = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if start is not None:
        stream.seek(start)
        return head, stream
    if ended:
        stream.close()
        return head, io.BytesIO(head)
    return head, cast(IO[bytes], io.BufferedReader(_Chained(head, stream)))


def check_file(path: Path) -> None:
    """Raise a `UserError` unless `path` is a file that is not empty."""
    try:
        if path.is_dir():
            inside = sorted(child.name for child in path.iterdir() if child.is_file())[:3]
            hint = f": name one of its files, such as {', '.join(inside)}" if inside else ""
            raise UserError(f"{path}: a directory where a file is expected{hint}")
        if not path.exists():
            raise UserError(f"{path}: no such file: {_nearest(path)}")
        if not path.is_file():
            raise UserError(f"{path}: no regular file, and only these are read")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _nearest(path: Path) -> str:
    """What may have been meant by a path that leads nowhere."""
    if not path.parent.is_dir():
        return f"there is no directory {path.parent} either"
    near = get_close_matches(path.name, [child.name for child in path.parent.iterdir()], n=1)
    return f"did you mean {path.parent / near[0]}?" if near else "check the path"


def inner_name(name: str) -> str:
    """A file's name in lower case without the suffixes that say how it is packed."""
    name = name.rpartition("/")[2].lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    return name


def inner_suffix(name: str) -> str:
    """The suffix that tells the format: that before `.gz` and its like."""
    suffix = os.path.splitext(inner_name(name))[1]
    return "" if suffix == "." else suffix


class _Stream(io.RawIOBase):
    """A readable stream on top of another, which it closes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
        super().close()


class _Chained(_Stream):
    """Bytes already read, then the rest of their stream."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.head = memoryview(head)
        self.read1 = getattr(stream, "read1", stream.read)

    def readinto(self, buffer: Any) -> int:
        data = self.head[: len(buffer)] if self.head else self.read1(len(buffer))
        self.head = self.head[len(data) :] if self.head else self.head
        buffer[: len(data)] = data
        return len(data)


class _Counted(_Stream):
    """Counts the bytes read."""

    num_bytes = 0

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        self.num_bytes += len(data)
        return len(data)


class _Guarded(_Stream):
    """Counts what comes out and remembers the error that ended it."""

    def __init__(self, stream: Any, packed_bytes: Callable[[], int], below: Any) -> None:
        super().__init__(stream)
        self.packed_bytes = packed_bytes
        self.below = below
        self.num_bytes = 0
        self.error: Exception | None = None

    def readinto(self, buffer: Any) -> int:
        if self.error is not None:
            raise self.error
        try:
            # At most one read below: an error there must not take sound bytes with it.
            data = self.stream.read1(len(buffer))
            self.num_bytes += len(data)
            if is_bomb(self.packed_bytes(), self.num_bytes):
                raise DecompressionBomb(
                    f"decompression bomb: {self.num_bytes:,} bytes out of {self.packed_bytes():,}"
                )
        except Exception as error:
            # Each library has errors of its own.
            self.error = error if isinstance(error, UNREADABLE) else OSError(str(error) or "broken")
            raise self.error from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        super().close()
        if self.below is not None:  # gzip and bz2 leave open what they were given
            self.below.close()


class _Xz(_Stream):
    """The streams of an xz file, unpacked in bounded memory, which `lzma.open` does not promise."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)

    def readinto(self, buffer: Any) -> int:
        while True:
            packed = b""
            if self.decompressor.eof:
                # Zeros may stand between streams and after the last one.
                rest = self.decompressor.unused_data.lstrip(b"\0")
                while not rest:
                    if not (rest := self.stream.read(BUFFER_BYTES)):
                        return 0
                    rest = rest.lstrip(b"\0")
                self.decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
                packed = rest
            elif self.decompressor.needs_input:
                packed = self.stream.read(BUFFER_BYTES)
                if not packed:
                    raise EOFError("cut off before the end of the xz stream")
            data = self.decompressor.decompress(packed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

"""Zip and tar archives: each member is read as the file it is; none is written to disk by its name.

Archives come from anywhere, so nothing they say is believed: members that name places outside,
links and devices are left out; what unpacks to far more than its size ends the reading; archives in
archives are read to a depth of `MAX_DEPTH`. A tar is read once from its start to its end.
"""

import re
import stat
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from llmstages.collect.sources.records import BrokenInput, Found, Note, Skipped
from llmstages.data.opening import guarded, is_bomb

MAX_DEPTH = 2
MAX_CONTENTS_BYTES = 24 * 2**20
"""A zip's table of contents is in memory while it is read: about 100 bytes of it a member, each of
which takes 600 bytes of memory."""
MAX_HEADER_BYTES = 2**16
"""Longest name and attributes in a tar; they are in memory. Linux ends names at 4,096 bytes."""
NUM_NOTES = 10
"""Notes on members that are handed on; an archive may have a million broken ones."""
UNSAFE_NAME = "member with an unsafe name"
NO_FILE = "member that is a link or device"
ENCRYPTED = "encrypted member"
UNREADABLE_MEMBER = "member that cannot be unpacked"
TOO_DEEP = "archive nested too deep"
BROKEN_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, NotImplementedError, RecursionError)
"""What the standard library raises on broken archives, besides what broken data raise."""

_HEADER_TYPES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)

ReadMember = Callable[[IO[bytes], str, str], Iterator[Found]]
"""Reads one member from its stream, its name within the archive and its locator."""


def read_zip(file: IO[bytes], locator: str, read_member: ReadMember) -> Iterator[Found]:
    """What the members of a zip archive hold; `file` can be read back and forth."""
    size = file.seek(0, 2)
    _check_contents(file, size)
    members = _Members(locator, read_member)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        packed_bytes = sum(entry.compress_size for entry in entries)
        unpacked_bytes = sum(entry.file_size for entry in entries)
        if packed_bytes > size:
            raise BrokenInput("decompression bomb: members that overlap")
        if is_bomb(size, unpacked_bytes):
            raise BrokenInput(f"decompression bomb: {unpacked_bytes:,} bytes out of {size:,}")
        for entry in entries:
            mode = entry.external_attr >> 16
            if entry.is_dir():
                continue
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                members.skip(NO_FILE)
            elif entry.flag_bits & 0x1:
                members.skip(ENCRYPTED)
            else:
                try:
                    stream = archive.open(entry)
                except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
                    members.skip(UNREADABLE_MEMBER)
                    continue
                with stream:
                    yield from members.read(stream, entry.filename, entry.compress_size)
    yield from members.finish()


def read_tar(stream: IO[bytes], locator: str, read_member: ReadMember) -> Iterator[Found]:
    """What the members of a tar archive hold, in one pass over its unpacked bytes."""
    members = _Members(locator, read_member)
    end = _End(stream)
    with tarfile.open(fileobj=cast(IO[bytes], end), mode="r|", tarinfo=_Entry) as archive:
        while (entry := archive.next()) is not None:
            cast(Any, archive).members.clear()  # else every member is remembered
            if entry.isdir():
                continue
            if entry.size < 0:
                raise BrokenInput("a member of negative size")
            if not entry.isreg() or entry.issparse():
                members.skip(NO_FILE)
            else:
                inner = archive.extractfile(entry)
                assert inner is not None  # it is a regular file
                yield from members.read(inner, entry.name, entry.size)
    yield from members.finish()


class _Members:
    """What is common to both: names, counting, and the notes on members."""

    def __init__(self, locator: str, read_member: ReadMember) -> None:
        self.locator = locator
        self.read_member = read_member
        self.skipped: Counter[str] = Counter()
        self.seen: set[int] = set()
        self.num_notes = 0

    def skip(self, reason: str) -> None:
        """Count a member that is not read."""
        self.skipped[reason] += 1

    def read(self, stream: IO[bytes], name: str, packed_bytes: int) -> Iterator[Found]:
        """What one member holds."""
        name = name.replace("\\", "/").encode("utf-8", "backslashreplace").decode()
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name):
            self.skip(UNSAFE_NAME)
            return
        if any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in parts):
            return  # hidden, as in a folder
        name = "/".join(part for part in parts if part not in ("", "."))
        locator = f"{self.locator}/{name}"
        # A name may come twice, and a document's name must not. Hashes need the least memory.
        number = 1
        while hash(locator) in self.seen:
            number += 1
            locator = f"{self.locator}/{name}#{number}"
        self.seen.add(hash(locator))
        for found in self.read_member(guarded(stream, lambda: packed_bytes), name, locator):
            if isinstance(found, Note):
                self.num_notes += 1
                if self.num_notes > NUM_NOTES:
                    continue
            yield found

    def finish(self) -> Iterator[Found]:
        """What was not read."""
        for reason, count in self.skipped.items():
            yield Skipped(reason, count)
        if self.num_notes > NUM_NOTES:
            yield Note(self.locator, f"{self.num_notes - NUM_NOTES:,} further notes on its members")


class _Entry(tarfile.TarInfo):
    """A member whose header needs bounded memory: `tarfile` reads names of any length."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0:
            raise tarfile.ReadError("a member of negative size")
        if self.type in _HEADER_TYPES and self.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of more than {MAX_HEADER_BYTES:,} bytes")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse file in the old format of GNU tar")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


class _End:
    """The end of a stream is an error when a member should go on: `tarfile` would seek for ever."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.num_empty = 0

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.num_empty = 0 if data else self.num_empty + 1
        if self.num_empty > 2:
            raise EOFError("cut off within a member")
        return data


def _check_contents(file: IO[bytes], size: int) -> None:
    """Refuse a table of contents that would fill the memory."""
    file.seek(max(0, size - 65_557 - 76))  # the record at the end, a comment, zip64's two records
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 16:
        return  # no zip; the library says so
    (contents_bytes,) = struct.unpack_from("<I", tail, end + 12)
    end64 = tail.rfind(b"PK\x06\x06", 0, end)
    if contents_bytes == 2**32 - 1 and end64 >= 0:
        (contents_bytes,) = struct.unpack_from("<Q", tail, end64 + 40)
    if contents_bytes > MAX_CONTENTS_BYTES:
        raise BrokenInput(
            "a zip of more than about 250,000 members: unpack it, or pack it as .tar, which is "
            "read as it streams"
        )

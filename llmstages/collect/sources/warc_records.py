"""Records of WARC and ARC files, sound or damaged.

Promises: a record is handed out only whole. A damaged part is reported once, as `Lost`, and reading
goes on with the next record after it, in packed files with the next gzip member. Memory is bounded
by a few times `MAX_BLOCK_BYTES`, however large the file or a record.

FastWARC and warcio were tried first. FastWARC is faster, but passes over cut members and wrong
lengths in silence and reads no ARC; warcio ends at the first damage. All three are far quicker than
the extraction of text that follows.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from llmstages.collect.sources.http_message import parse_response
from llmstages.collect.sources.records import BrokenInput

MAX_PAYLOAD_BYTES = 20_000_000
"""Largest page that is read; a larger one is no page but a data set or a trap."""
MAX_BLOCK_BYTES = MAX_PAYLOAD_BYTES + 100_000
"""Largest record block held in memory: a payload and its HTTP header."""
MAX_HEADER_BYTES = 65_536

_PLAIN_PIECE_BYTES = 1 << 18
_PACKED_PIECE_BYTES = 1 << 14  # deflate grows a thousandfold at most, so 16 MB unpacked
_GZIP = b"\x1f\x8b\x08"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_LZ4 = b"\x04\x22\x4d\x18"
_WARC_START = re.compile(rb"^WARC/\d\.\d+[ \t]*\r?\n", re.MULTILINE)
# URL, IP address, date, media type, in version 2 five more fields, length. A URL may hold spaces.
_ARC_START = re.compile(
    rb"^[a-z][a-z0-9+.-]{0,20}:[^\r\n]{0,16000} \S{1,100} (?:\d{8,20}|null|-) \S{1,200}"
    rb"(?: \S{1,1000} \S{1,1000} \S{1,1000} \S{1,1000} \S{1,1000})? \S{1,100}\r?\n",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Record:
    """One record of an archive."""

    kind: str
    """`response`, `resource`, `conversion`, `request`, ...; an ARC record is a response."""
    fields: dict[str, str]
    """The record's header; names are in lower case, of repeated ones the first counts."""
    block: bytes | None
    """What follows the header; None when it is larger than `MAX_BLOCK_BYTES`."""
    wrong_length: bool = False
    """The length in the header was wrong; the block ends where the next record begins."""


@dataclass(frozen=True)
class Lost:
    """A part of the file that cannot be read, of one record or more."""


def read_records(stream: IO[bytes]) -> Iterator[Record | Lost]:
    """The records of an archive, from its bytes as they are on disk.

    Raises:
        BrokenInput: the rest cannot be read; what was handed out is sound. What the stream raises
            passes through, after the records before it.
    """
    window = _Window(_unpack(stream))
    while True:
        line = window.first_line() or b""
        yield from _segment(window, _ARC_START if _ARC_START.match(line) else _WARC_START)
        if not window.next_segment():
            return
        yield Lost()


def _segment(window: "_Window", start: re.Pattern[bytes]) -> Iterator[Record | Lost]:
    """Records up to the end of the file, or to a part that cannot be unpacked."""
    while (line := window.first_line()) is not None:
        if not start.match(line):
            yield Lost()
            window.skip_to_start(start)
            continue
        window.line()
        if start is _ARC_START:
            fields = _arc_fields(line)
            kind = "warcinfo" if line.startswith(b"filedesc:") else "response"
        else:
            fields = _warc_fields(window)
            kind = fields.get("warc-type", "unknown").lower()
        declared = fields.get("content-length", "")
        length = int(declared) if declared.isascii() and declared.isdigit() else None
        if length is not None and length > MAX_BLOCK_BYTES:
            if window.skip(length) == length:
                yield Record(kind, fields, None)
            elif not window.damaged:
                raise _cut_off()
            continue
        block = window.take(length or 0)
        if len(block) == length and window.ends_a_record(start):
            yield Record(kind, fields, block)
            continue
        # The length is wrong, and the next record's first line tells where this one ends; or this
        # is the last record, and either it is cut off or something foreign follows it.
        window.put_back(block)
        to_next = window.take_to_start(start)
        if to_next is not None:
            yield Record(kind, fields, to_next, wrong_length=True)
            continue
        if window.damaged:
            return  # the caller says so
        rest = window.take(MAX_BLOCK_BYTES)
        if len(block) == length:
            yield Record(kind, fields, block)
            yield Lost()
        elif length is None or _is_whole_response(rest):
            yield Record(kind, fields, rest.rstrip(b"\r\n"), wrong_length=True)
        else:
            raise _cut_off()


def _cut_off() -> BrokenInput:
    return BrokenInput("the file ends in the middle of a record")


def _is_whole_response(block: bytes) -> bool:
    """Whether a block holds as much as its HTTP header announces."""
    response = parse_response(block)
    length = response.fields.get("content-length", "") if response else ""
    return response is not None and length.isdigit() and len(response.body) >= int(length)


def _warc_fields(window: "_Window") -> dict[str, str]:
    """The named fields of a WARC record, up to the empty line."""
    fields: dict[str, str] = {}
    name = ""
    size = 0
    while (line := window.line()).strip() and size < MAX_HEADER_BYTES:
        size += len(line)
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text[0] in " \t" and name in fields:  # a folded line
            fields[name] += " " + text.strip()
            continue
        name, colon, value = text.partition(":")
        name = name.strip().lower()
        if colon:
            fields.setdefault(name, value.strip())
    if not line and not window.damaged:
        raise _cut_off()
    return fields


def _arc_fields(line: bytes) -> dict[str, str]:
    """The header line of an ARC record under the names of WARC."""
    text = line.decode("utf-8", "replace").strip()
    fields = text.rsplit(" ", 9)
    if len(fields) < 10 or not re.fullmatch(r"\d{8,20}|null|-", fields[2]):
        fields = text.rsplit(" ", 4)
    url, _, date, media_type = fields[:4]
    named = {"warc-target-uri": url, "arc-media-type": media_type, "content-length": fields[-1]}
    if digits := re.fullmatch(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)\d*", date):
        named["warc-date"] = "{}-{}-{}T{}:{}:{}Z".format(*digits.groups())
    return named


class _Window:
    """Looks ahead in unpacked bytes. It ends at a break until `next_segment` is called."""

    def __init__(self, pieces: Iterator[bytes | None]) -> None:
        self._pieces = pieces
        self._data = b""
        self._at = 0
        self._ended = False
        self._error: Exception | None = None
        self.damaged = False
        """The window ends at a break or an error, not at the end of the file."""

    def _fill(self) -> bool:
        """Adds a piece; False at the end of the segment."""
        if self._ended:
            return False
        piece: bytes | None = None
        try:
            piece = next(self._pieces, b"")
        except Exception as error:  # raised by `next_segment`, after the records before it
            self._error = error
        if not piece:
            self._ended = True
            self.damaged = piece is None
            return False
        self._data = self._data[self._at :] + piece
        self._at = 0
        return True

    def next_segment(self) -> bool:
        """Passes over a break; False at the end of the file. Raises what the stream raised."""
        if self._error is not None:
            raise self._error
        damaged = self.damaged
        self._data, self._at, self._ended, self.damaged = b"", 0, False, False
        return damaged

    def line(self) -> bytes:
        """Takes the next line, or as much of it as a header may have."""
        while (end := self._data.find(b"\n", self._at)) < 0:
            if len(self._data) - self._at > MAX_HEADER_BYTES or not self._fill():
                end = len(self._data) - 1
                break
        end = min(end + 1, self._at + MAX_HEADER_BYTES)
        line = self._data[self._at : end]
        self._at = end
        return line

    def first_line(self) -> bytes | None:
        """The next line that is not empty, left in place; None at the end of the segment."""
        while line := self.line():
            if line.strip(b"\r\n\t \0"):
                self._at -= len(line)
                return line
        return None

    def ends_a_record(self, start: re.Pattern[bytes]) -> bool:
        """Whether a record may end here: the next begins, nothing is left, or WARC's end mark."""
        mark = self.take(4)
        self.put_back(mark)
        line = self.first_line()
        return line is None or start.match(line) is not None or mark == b"\r\n\r\n"

    def take(self, size: int) -> bytes:
        """Takes `size` bytes, fewer at the end of the segment."""
        pieces = []
        while size and (self._at < len(self._data) or self._fill()):
            pieces.append(self._data[self._at : self._at + size])
            self._at += len(pieces[-1])
            size -= len(pieces[-1])
        return b"".join(pieces)

    def skip(self, size: int) -> int:
        """Passes over `size` bytes without holding them; how many there were."""
        left = size
        while left and (self._at < len(self._data) or self._fill()):
            step = min(left, len(self._data) - self._at)
            self._at += step
            left -= step
        return size - left

    def put_back(self, data: bytes) -> None:
        """Undoes a `take`."""
        self._data, self._at = data + self._data[self._at :], 0

    def take_to_start(self, start: re.Pattern[bytes]) -> bytes | None:
        """Takes what comes before the next record; None when no record begins near."""
        searched = 0
        while not (found := start.search(self._data, self._at + searched)):
            searched = self._last_line() - self._at
            if len(self._data) - self._at > MAX_BLOCK_BYTES or not self._fill():
                return None
        block = self._data[self._at : found.start()]
        self._at = found.start()
        return block.rstrip(b"\r\n")

    def skip_to_start(self, start: re.Pattern[bytes]) -> None:
        """Passes over what comes before the next record, or over the rest of the segment."""
        while not (found := start.search(self._data, self._at)):
            self._at = self._last_line()
            if not self._fill():
                self._at = len(self._data)
                return
        self._at = found.start()

    def _last_line(self) -> int:
        """Where the first half of a record's first line may begin."""
        after_newline = self._data.rfind(b"\n", self._at) + 1
        return max(after_newline, len(self._data) - MAX_HEADER_BYTES, self._at)


def _unpack(stream: IO[bytes]) -> Iterator[bytes | None]:
    """The unpacked bytes in pieces; None stands for a part that cannot be unpacked."""
    head = stream.read(4)
    if head.startswith(_GZIP):
        yield from _gunzip(stream, head)
    elif head in (_ZSTANDARD, _LZ4):
        yield from _unpack_frames(stream, head)
    else:
        while head:
            yield head
            head = stream.read(_PLAIN_PIECE_BYTES)


def _gunzip(stream: IO[bytes], packed: bytes) -> Iterator[bytes | None]:
    """The members of a gzip file; after a broken one, the next that begins with a record."""
    while packed := packed or stream.read(_PACKED_PIECE_BYTES).lstrip(b"\0"):
        member = zlib.decompressobj(wbits=31)
        tail = b""  # the end of what the member was given
        try:
            while not member.eof:
                packed = packed or stream.read(_PACKED_PIECE_BYTES)
                if not packed:
                    raise BrokenInput("the gzip data is cut off")
                tail = (tail + packed)[-4 * _PACKED_PIECE_BYTES :]
                if piece := member.decompress(packed):
                    yield piece
                packed = b""
            packed = member.unused_data.lstrip(b"\0")
        except zlib.error:
            yield None
            # Damage may be noticed late, within the bytes of the next member.
            packed = _next_member(stream, tail[1:])
            if not packed:
                raise BrokenInput("broken gzip data, and no record can be found after it") from None


def _next_member(stream: IO[bytes], packed: bytes) -> bytes:
    """The packed bytes from the next member that begins with a record; empty if there is none."""
    while True:
        packed = packed[max(packed.find(_GZIP), 0) :]
        enough = len(packed) >= _PACKED_PIECE_BYTES
        if not enough and (more := stream.read(_PACKED_PIECE_BYTES)):
            packed += more
            continue
        if len(packed) < len(_GZIP):
            return b""
        try:
            begins = zlib.decompressobj(wbits=31).decompress(packed[:4096], 4096)
        except zlib.error:
            begins = b""
        if _WARC_START.match(begins) or _ARC_START.match(begins):
            return packed
        packed = packed[1:] if _GZIP in packed[1:] else packed[-2:]


class _WithHead:
    """A stream whose first bytes were read and are put back."""

    closed = False

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int) -> bytes:
        head, self._head = self._head, b""
        return head or self._stream.read(size)


def _unpack_frames(stream: IO[bytes], head: bytes) -> Iterator[bytes]:
    """The frames of a Zstandard or LZ4 file."""
    import pyarrow as pa

    packed = pa.PythonFile(_WithHead(head, stream), mode="r")
    unpacked = pa.CompressedInputStream(packed, "zstd" if head == _ZSTANDARD else "lz4")
    while piece := unpacked.read(_PLAIN_PIECE_BYTES):
        yield piece

"""An HTTP response as crawlers keep it: its header, and its body as it was meant.

Crawlers differ in what they undo before they write, and headers say what was sent, not what was
written. So a chunked or packed body is undone when it looks like one and left alone when it does
not; of a cut body the beginning is kept.
"""

import re
import zlib
from dataclasses import dataclass

_MAX_HEAD_BYTES = 65_536
_END = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:+-]+)", re.IGNORECASE)


class TooLarge(ValueError):
    """A body unpacks to more than the limit."""


@dataclass(frozen=True)
class Response:
    """A parsed response."""

    status: int | None
    """None when the status line is not one."""
    fields: dict[str, str]
    """Header fields; names are in lower case, repeated ones are joined by commas."""
    body: bytes
    """As it was written: `payload` undoes chunks and packing."""

    @property
    def media_type(self) -> str:
        """As in "text/html", without parameters; empty when it is not said."""
        return media_type_and_charset(self.fields.get("content-type", ""))[0]

    @property
    def charset(self) -> str | None:
        return media_type_and_charset(self.fields.get("content-type", ""))[1]

    def payload(self, max_bytes: int) -> bytes:
        """The body without chunks and packing. Raises `TooLarge`."""
        data = self.body
        if "chunked" in self.fields.get("transfer-encoding", "").lower():
            data = _joined_chunks(data)
        for name in reversed(self.fields.get("content-encoding", "").lower().split(",")):
            data = _unpacked(data, name.strip(), max_bytes)
        if len(data) > max_bytes:
            raise TooLarge
        return data


def media_type_and_charset(content_type: str) -> tuple[str, str | None]:
    """The two parts of a `Content-Type` that matter."""
    charset = _CHARSET.search(content_type)
    # Servers that say it twice join the two by a comma.
    media_type = re.split(r"[;,]", content_type, maxsplit=1)[0].strip().lower()
    return media_type, charset.group(1) if charset else None


def parse_response(block: bytes) -> Response | None:
    """A response from a record's block; None when the block is no HTTP."""
    if not block.startswith((b"HTTP/", b"http/", b"ICY ")):
        return None
    end = _END.search(block, 0, _MAX_HEAD_BYTES)
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    head = head[:_MAX_HEAD_BYTES]
    status_line, *lines = head.decode("utf-8", "replace").splitlines()
    status = re.match(r"\S+\s+(\d{3})\b", status_line)
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if colon:
            fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
    return Response(int(status.group(1)) if status else None, fields, body)


def _joined_chunks(data: bytes) -> bytes:
    """The chunks' contents; from the first thing that is no chunk on, the data as it is."""
    joined = bytearray()
    at = 0
    while found := _CHUNK.match(data, at):
        size = int(found.group(1), 16)
        if not size:
            return bytes(joined)
        end = found.end() + size
        if end < len(data) and data[end] not in b"\r\n":
            break
        joined += data[found.end() : end]
        at = end + (2 if data[end : end + 2] == b"\r\n" else 1)
    return bytes(joined) + data[at:]


def _unpacked(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """The data of a content encoding; left alone when it is text already, empty when neither."""
    if encoding in ("gzip", "x-gzip"):
        unpacked = _inflated(data, 31, max_bytes)
    elif encoding == "deflate":  # with zlib's header, as it should be, or without, as it often is
        unpacked = _inflated(data, 15, max_bytes) or _inflated(data, -15, max_bytes)
    elif encoding in ("br", "zstd"):
        unpacked = _unpacked_by_arrow(data, "brotli" if encoding == "br" else encoding, max_bytes)
    else:
        return data
    if not unpacked and not _BINARY.search(data[:1024]):
        return data
    return unpacked


def _inflated(data: bytes, wbits: int, max_bytes: int) -> bytes:
    """Of a cut or damaged body what comes before the damage."""
    unpacker = zlib.decompressobj(wbits=wbits)
    pieces = []
    size = 0
    try:
        for at in range(0, len(data), 16_384):
            pieces.append(unpacker.decompress(data[at : at + 16_384], max_bytes + 1 - size))
            size += len(pieces[-1])
            if size > max_bytes:
                raise TooLarge
    except zlib.error:
        pass
    return b"".join(pieces)


def _unpacked_by_arrow(data: bytes, codec: str, max_bytes: int) -> bytes:
    import pyarrow as pa

    pieces = []
    size = 0
    unpacked = pa.CompressedInputStream(pa.BufferReader(data), codec)
    try:
        while piece := unpacked.read(4096):  # of a cut body the last piece is lost
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise TooLarge
    except OSError:
        pass
    return b"".join(pieces)

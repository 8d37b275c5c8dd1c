"""Unpacking a page piece by piece, so that a small bomb never becomes large in memory."""

import zlib
from collections.abc import Iterator

PIECE_BYTES = 256 * 1024
"""Most bytes handed out at once."""
ENCODINGS = ("gzip", "deflate")
"""What servers are told we read."""


class BrokenPacking(ValueError):
    """The data is not packed as its header says."""


class Unpacker:
    """Unpacks a stream of `gzip`, `deflate` or unpacked data."""

    def __init__(self, encoding: str) -> None:
        """Raises `BrokenPacking` for an encoding that was not asked for."""
        encoding = encoding.strip().lower().removeprefix("x-")
        if encoding not in ("", "identity", *ENCODINGS):
            raise BrokenPacking(encoding)
        self.encoding = encoding
        self.stream = zlib.decompressobj(31) if encoding == "gzip" else None
        self.fed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The unpacked data in pieces; whoever stops asking is sent no more."""
        if self.encoding in ("", "identity"):
            if data:
                yield data
            return
        if self.stream is None:
            # "deflate" means a zlib stream, but some servers send it without its header.
            if not data:
                return
            self.stream = zlib.decompressobj(15 if data[0] & 15 == 8 else -15)
        self.fed = self.fed or bool(data)
        more = bool(data)
        while more:
            if self.stream.eof:
                if self.encoding != "gzip" or data[:2] != b"\x1f\x8b":
                    return  # padding after the end
                self.stream = zlib.decompressobj(31)  # a further member
            try:
                piece = self.stream.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise BrokenPacking(str(error)) from error
            data = self.stream.unconsumed_tail or self.stream.unused_data
            # A full piece may leave more behind although all input has been taken in.
            more = bool(data) or (len(piece) == PIECE_BYTES and not self.stream.eof)
            if piece:
                yield piece

    def finish(self) -> None:
        """Raises `BrokenPacking` when the stream was cut off."""
        if self.fed and self.stream is not None and not self.stream.eof:
            raise BrokenPacking("cut off")

"""Reading a file, whatever it is: its format is found out and the reader of that format called.

Broken data end the reading of a file, or of one member of an archive, never that of a source: with
`bad_rows=skip` they are counted and said, with `bad_rows=refuse` they are a `UserError`. What was
handed out before is sound.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import IO

from llmstages.collect.sources.archives import (
    BROKEN_ARCHIVE,
    MAX_DEPTH,
    TOO_DEEP,
    read_tar,
    read_zip,
)
from llmstages.collect.sources.formats import (
    READABLE,
    SNIFF_BYTES,
    find_format,
    is_tar,
    is_zip,
    needs_head,
)
from llmstages.collect.sources.listing import kinds_of
from llmstages.collect.sources.opening import as_seekable, open_raw
from llmstages.collect.sources.records import BrokenInput, Found, Input, Note, Skipped
from llmstages.collect.sources.tables import NoTextColumn, read_table
from llmstages.collect.sources.text import read_page, read_text
from llmstages.config.collect_groups import SourceConfig
from llmstages.data.opening import UNREADABLE, inner_suffix, packing, unpacked, with_head
from llmstages.errors import UserError

BROKEN_DATA = "broken or cut-off data"
EMPTY = "empty file"
NO_TEXT_COLUMN = "no text column"
PACKED_BYTES = 2**20
"""So much of a packed file is enough to unpack its first bytes; bzip2's blocks are the largest."""


def read_file(entry: Input, source: SourceConfig, bad_rows: str) -> Iterator[Found]:
    """The documents of one file, in order, what was skipped and what is to be said.

    Raises:
        UserError: the file cannot be opened, or has no text column; with `bad_rows="refuse"`, it is
            broken or has a bad row.
    """
    reader = _Reader(entry.path, source, bad_rows)
    with open_raw(entry.path) as raw:
        yield from reader.read(raw, entry.locator)


@dataclass(frozen=True)
class _Reader:
    """What is the same for a file and for the members of an archive."""

    path: str
    """Names the file in messages."""
    source: SourceConfig
    bad_rows: str

    def read(self, raw: IO[bytes], locator: str) -> Iterator[Found]:
        """What a file holds that lies on its own."""
        format = self.source.format
        try:
            packed, raw = with_head(raw, PACKED_BYTES)
            head = _unpacked_head(packed, is_known=bool(format) or not needs_head(locator))
            if not head:
                yield Skipped(EMPTY)
                yield Note(locator, EMPTY)
                return
            format = format or find_format(locator, head)
            if format is None:
                raise UserError(
                    f"{self.path}: not a text file: readable are {READABLE}, plain or packed"
                )
            yield from self._dispatch(raw, head, format, locator, depth=0)
        except NoTextColumn as error:
            yield from self._without_text(error, locator, depth=0)
        except (BrokenInput, *UNREADABLE, *BROKEN_ARCHIVE) as error:
            yield from self._broken(error, locator)

    def read_member(
        self, raw: IO[bytes], name: str, locator: str, depth: int, aside: Counter[str]
    ) -> Iterator[Found]:
        """What a member of an archive holds; `aside` counts those that are not read."""
        try:
            packed, raw = with_head(raw, PACKED_BYTES)
            head = _unpacked_head(packed, is_known=not needs_head(name))
            if not head:
                yield Skipped(EMPTY)
                return
            format = find_format(name, head, maybe_text=not inner_suffix(name))
            wanted = self.source.format in (None, "archive", format)
            if format is None or not (wanted or format == "archive"):
                aside[inner_suffix(name) or "no suffix"] += 1
                return
            yield from self._dispatch(raw, head, format, locator, depth)
        except NoTextColumn as error:
            yield from self._without_text(error, locator, depth)
        except (BrokenInput, *UNREADABLE, *BROKEN_ARCHIVE) as error:
            yield from self._broken(error, locator)

    def _without_text(self, error: NoTextColumn, locator: str, depth: int) -> Iterator[Found]:
        if self.bad_rows == "refuse":
            raise error
        yield Skipped(NO_TEXT_COLUMN)
        yield Note(locator, str(error).removeprefix(f"{self._path(locator, depth)}: "))

    def _dispatch(
        self, raw: IO[bytes], head: bytes, format: str, locator: str, depth: int
    ) -> Iterator[Found]:
        """Call the reader of a format; `head` are the first unpacked bytes."""
        if format == "archive" or is_tar(head) or (is_zip(head) and format != "epub"):
            yield from self._read_archive(raw, locator, depth)
            return
        if format == "warc":
            from llmstages.collect.sources.warc import read_warc

            # It takes the packed bytes: each record is packed on its own, and one may be broken.
            as_packed = packing(with_head(raw, SNIFF_BYTES)[0]) not in ("bz2", "xz")
            yield from read_warc(raw if as_packed else unpacked(raw), locator)
            return
        stream = unpacked(raw)
        if format == "text":
            yield from read_text(stream, locator)
        elif format == "html":
            yield from read_page(stream, locator)
        elif format == "table":
            path = self._path(locator, depth)
            yield from read_table(stream, locator, path, self.source, self.bad_rows)
        elif format == "wikipedia":
            from llmstages.collect.sources.wikipedia import read_wikipedia

            yield from read_wikipedia(stream, locator)
        elif format == "epub":
            from llmstages.collect.sources.books import read_epub

            yield from read_epub(stream, locator)
        elif format == "pdf":
            from llmstages.collect.sources.articles import read_pdf

            yield from read_pdf(stream, locator)
        elif format == "jats":
            from llmstages.collect.sources.articles import read_jats

            yield from read_jats(stream, locator)
        else:
            from llmstages.collect.sources.mail import read_mail

            yield from read_mail(stream, locator)

    def _read_archive(self, raw: IO[bytes], locator: str, depth: int) -> Iterator[Found]:
        if depth >= MAX_DEPTH:
            yield Skipped(TOO_DEEP)
            return
        aside: Counter[str] = Counter()

        def read_member(stream: IO[bytes], name: str, inner: str) -> Iterator[Found]:
            return self.read_member(stream, name, inner, depth + 1, aside)

        head, stream = with_head(unpacked(raw), SNIFF_BYTES)
        if is_zip(head):
            with as_seekable(stream) as file:
                yield from read_zip(file, locator, read_member)
        elif is_tar(head):
            yield from read_tar(stream, locator, read_member)
        else:
            raise BrokenInput("neither a zip nor a tar archive")
        if aside:
            yield Note(locator, f"left aside, no readable text: {kinds_of(aside)}")

    def _path(self, locator: str, depth: int) -> str:
        """How messages name what is read."""
        return self.path if depth == 0 else f"{self.path}: {locator}"

    def _broken(self, error: Exception, locator: str) -> Iterator[Found]:
        what = " ".join(str(error).split()) or type(error).__name__
        if self.bad_rows == "refuse":
            raise UserError(
                f"{self.path}: {BROKEN_DATA} ({what}): fetch the file again, or leave it out with "
                "bad_rows=skip"
            ) from None
        yield Skipped(BROKEN_DATA)
        yield Note(locator, f"{BROKEN_DATA}: {what}")


def _unpacked_head(packed: bytes, is_known: bool) -> bytes:
    """The first bytes after unpacking, from the first packed ones.

    When they are broken and the format is known without them, its reader says what is wrong.
    """
    try:
        return with_head(unpacked(BytesIO(packed)), SNIFF_BYTES)[0]
    except UNREADABLE:
        if is_known:
            return packed[:SNIFF_BYTES]
        raise

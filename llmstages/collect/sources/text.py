"""Plain text and web pages, read as they stream.

A text of any length needs bounded memory: one that is too long for one document is cut at blank
lines, else at line ends, else at spaces. Nothing is lost or added at a cut.
"""

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

from llmstages.collect.sources.records import BrokenInput, Found, Note, RawDocument
from llmstages.data.encodings import decode_bytes, detect_encoding
from llmstages.data.opening import with_head

DOCUMENT_CHARACTERS = 16 * 2**20
"""Longest document; three times the complete works of Shakespeare."""
ENCODING_BYTES = 8 * 2**20
"""The encoding is judged by the start of a text; later bytes that do not fit become U+FFFD."""
PAGE_BYTES = 64 * 2**20
"""Largest web page; it is parsed as a whole."""
UNSAID_ENCODINGS = ("utf-8", "ascii")
_CUTS = ("\n\n", "\r\n\r\n", "\n", "\r", " ")


def read_text(stream: IO[bytes], locator: str) -> Iterator[Found]:
    """One document, or several when the text is longer than `DOCUMENT_CHARACTERS`."""
    from llmstages.collect.sources.books import is_gutenberg, read_gutenberg

    head, stream = with_head(stream, ENCODING_BYTES)
    encoding = detect_encoding(head)
    del head
    if encoding not in UNSAID_ENCODINGS:
        yield Note(locator, f"read as {encoding}")
    ordinal = 0
    with io.TextIOWrapper(stream, encoding, errors="replace", newline="") as text:
        piece = text.read(DOCUMENT_CHARACTERS + 1)
        if len(piece) <= DOCUMENT_CHARACTERS and is_gutenberg(piece):
            book = read_gutenberg(piece, locator)
            yield replace(book, metadata={"file": locator} | book.metadata)
            return
        while len(piece) > DOCUMENT_CHARACTERS:
            cut = _cut(piece)
            yield RawDocument(
                locator, ordinal, piece[:cut], metadata={"file": locator}, piece=ordinal
            )
            ordinal += 1
            piece = piece[cut:]
            piece += text.read(DOCUMENT_CHARACTERS + 1 - len(piece))
    yield RawDocument(
        locator, ordinal, piece, metadata={"file": locator}, piece=ordinal if ordinal else None
    )
    if ordinal:
        size = DOCUMENT_CHARACTERS // 2**20
        yield Note(locator, f"cut into {ordinal + 1:,} documents of at most {size} Mi characters")


def read_page(stream: IO[bytes], locator: str) -> Iterator[Found]:
    """One document: the main text of a web page, or the book in one of Project Gutenberg."""
    from llmstages.collect.pages.extraction import extract_page
    from llmstages.collect.sources.books import is_gutenberg, read_gutenberg_page

    data = stream.read(PAGE_BYTES + 1)
    if len(data) > PAGE_BYTES:
        raise BrokenInput(f"a page of more than {PAGE_BYTES // 2**20} MB")
    if b"Gutenberg" in data and is_gutenberg(decode_bytes(data)[0]):
        book = read_gutenberg_page(data, locator)
        yield replace(book, metadata={"file": locator} | book.metadata)
        return
    page = extract_page(data)
    if page.encoding not in UNSAID_ENCODINGS:
        yield Note(locator, f"read as {page.encoding}")
    metadata = {"file": locator}
    if page.title:
        metadata["title"] = page.title
    yield RawDocument(locator, 0, page.text, metadata=metadata)


def _cut(text: str) -> int:
    """Where to cut: after the last blank line, line or word that leaves no small piece."""
    for mark in _CUTS:
        start = text.rfind(mark, DOCUMENT_CHARACTERS // 2, DOCUMENT_CHARACTERS)
        if start >= 0:
            return start + len(mark)
    return DOCUMENT_CHARACTERS

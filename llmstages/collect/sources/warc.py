"""Web archives: pages of WARC and ARC files, texts of WET files.

A page is a response of status 200 or a resource, in HTML or plain text. Everything else is counted
by the reason for which it gives no document. Damaged files are read as far as they are sound.
"""

import codecs
import re
from collections.abc import Iterator
from typing import IO

from llmstages.collect.media_types import media_group
from llmstages.collect.sources.http_message import (
    TooLarge,
    media_type_and_charset,
    parse_response,
)
from llmstages.collect.sources.records import Found, Note, RawDocument, Skipped
from llmstages.collect.sources.warc_records import (
    MAX_PAYLOAD_BYTES,
    Lost,
    Record,
    read_records,
)

_TOO_LARGE = f"page larger than {MAX_PAYLOAD_BYTES // 1_000_000} MB"
_HTML_TYPES = frozenset(("text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"))
_UNTOLD_TYPES = frozenset(("", "unk", "no-type", "unknown", "application/octet-stream"))
"""Media types by which a server, or an ARC file, says that it does not know."""
_UNICODE = ("utf-8", "utf-8-sig", "ascii")
_HTML_START = re.compile(
    rb"\s*+(?:<!--.*?-->\s*+)*+<(?:!doctype html|html|head|body)\b", re.I | re.S
)
_REASONS = {
    "request": "record about the crawl",
    "metadata": "record about the crawl",
    "warcinfo": "record about the crawl",
    "revisit": "revisit record",
    "continuation": "continuation of a split record",
}


def read_warc(stream: IO[bytes], locator: str) -> Iterator[Found]:
    """The documents of a WARC, WET or ARC file from its raw bytes, gzip members and all.

    Metadata of a document: `file`, `title`, `date` of the capture, `language` as WET has it,
    `encoding` when it is not UTF-8, `truncated` when the crawler cut the page short.

    Raises:
        BrokenInput: the rest of the file cannot be read.
    """
    ordinal = 0
    said: set[str] = set()
    for record in read_records(stream):
        if isinstance(record, Lost):
            yield Skipped("broken record")
            continue
        found = _read_record(record, locator, ordinal)
        ordinal += isinstance(found, RawDocument)
        for text in _oddities(record, found):
            if text not in said:
                said.add(text)
                yield Note(locator, text)
        yield found


def _oddities(record: Record, found: RawDocument | Skipped) -> Iterator[str]:
    """What the user should know; said once a file."""
    if record.wrong_length:
        yield "records of a wrong length: read up to the next record"
    if isinstance(found, RawDocument):
        if "truncated" in found.metadata:
            yield "pages that the crawler cut short: read as they are"
        if encoding := found.metadata.get("encoding"):
            yield f"read as {encoding}"


def _read_record(record: Record, locator: str, ordinal: int) -> RawDocument | Skipped:
    """The document of a record, or why it has none."""
    if record.kind in _REASONS:
        return Skipped(_REASONS[record.kind])
    if record.kind not in ("response", "resource", "conversion"):
        return Skipped("record of unknown type")
    if record.block is None:
        return Skipped(_TOO_LARGE)
    media_type, charset = media_type_and_charset(record.fields.get("content-type", ""))
    # wget keeps its log, browsers keep screenshots and extracted text, under made-up addresses.
    if record.fields.get("warc-target-uri", "").strip("<>").startswith(("metadata:", "urn:")):
        return Skipped(_REASONS["metadata"])
    payload = record.block
    if record.kind == "response":
        response = parse_response(record.block)
        if response is None:
            if not record.fields.get("warc-target-uri", "").lower().startswith("http"):
                return Skipped("not HTTP")  # looking up a name, as Heritrix does
            return Skipped("broken record")
        if response.status != 200:
            return Skipped("HTTP status not 200")
        media_type, charset = response.media_type, response.charset
        try:
            payload = response.payload(MAX_PAYLOAD_BYTES)
        except TooLarge:
            return Skipped(_TOO_LARGE)
    if len(payload) > MAX_PAYLOAD_BYTES:
        return Skipped(_TOO_LARGE)
    return _document(record, payload, media_type, charset, locator, ordinal)


def _document(
    record: Record,
    payload: bytes,
    media_type: str,
    charset: str | None,
    locator: str,
    ordinal: int,
) -> RawDocument | Skipped:
    from llmstages.collect.pages.extraction import extract_page

    url = record.fields.get("warc-target-uri", "").strip("<>").replace(" ", "%20") or None
    if not payload.strip():
        return Skipped("empty page")
    metadata = {"file": locator}
    if media_type in _HTML_TYPES or (media_type in _UNTOLD_TYPES and _looks_like_html(payload)):
        page = extract_page(payload, charset, url)
        text, encoding = page.text, page.encoding
        if page.title:
            metadata["title"] = page.title
    elif media_type == "text/plain" or (record.kind == "conversion" and not media_type):
        if url and url.endswith("/robots.txt"):
            return Skipped("robots.txt")
        text, encoding = _decode(payload, charset)
    else:
        return Skipped(f"not HTML: {media_group(media_type)}")
    if not text.strip():
        return Skipped("empty page")
    if date := record.fields.get("warc-date"):
        metadata["date"] = date
    if languages := record.fields.get("warc-identified-content-language"):
        metadata["language"] = languages.split(",")[0].strip()
    if encoding not in _UNICODE:
        metadata["encoding"] = encoding
    if truncated := record.fields.get("warc-truncated"):
        metadata["truncated"] = truncated
    return RawDocument(locator, ordinal, text, url, metadata)


def _decode(data: bytes, charset: str | None) -> tuple[str, str]:
    """Plain text in the encoding that the server names, when the bytes fit it."""
    from llmstages.data.encodings import decode_bytes

    text, encoding = decode_bytes(data)
    if charset and encoding not in _UNICODE:
        try:
            codec = codecs.lookup(charset).name
            return data.decode(codec), codec
        except (LookupError, UnicodeDecodeError):
            pass
    return text, encoding


def _looks_like_html(data: bytes) -> bool:
    return _HTML_START.match(data[:4096]) is not None

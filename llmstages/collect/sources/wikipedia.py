"""Wikipedia and other MediaWiki dumps: the articles of a `pages-articles` export.

Memory is bounded by one page, however large the dump: of a page with several revisions the last is
kept, and a page larger than `MAX_PAGE_CHARACTERS` is skipped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO
from urllib.parse import quote
from xml.parsers import expat

from llmstages.collect.sources.records import BrokenInput, Found, RawDocument, Skipped
from llmstages.collect.sources.wikitext import Names, is_disambiguation, wikitext_to_text

MAX_PAGE_CHARACTERS = 10_000_000
"""MediaWiki itself takes no more than 2 MB a page."""
_PIECE_BYTES = 1 << 18
# "#REDIRECT [[...]]" in the language of the wiki; a numbered list has a space after its mark.
_REDIRECT = re.compile(r"\s*#\w[\w ]{0,40}:?\s*\[\[")


@dataclass
class _Page:
    """What the export says of one page; strings as in the XML, empty when absent."""

    title: str = ""
    ns: str = ""
    text: str = ""
    model: str = ""
    timestamp: str = ""
    redirect: bool = False
    too_large: bool = False


@dataclass
class _Site:
    """What the export says of the wiki."""

    base: str = ""
    """Address of the main page."""
    language: str = ""
    namespaces: dict[str, str] = field(default_factory=dict)
    """Names by number."""


def read_wikipedia(stream: IO[bytes], locator: str) -> Iterator[Found]:
    """The articles of a dump, from its unpacked XML in any encoding that XML allows.

    The text begins with the article's first sentence; the title is in the metadata, with `date`
    (of the revision) and `language`.

    Raises:
        BrokenInput: the dump is cut off or is no MediaWiki export; the articles before are sound.
    """
    export = _Export()
    ordinal = 0
    names: Names | None = None
    for page in export.pages(stream):
        if names is None:  # the wiki is described before its pages
            names = Names(export.site.namespaces)
        found = _article(page, export.site, names, locator, ordinal)
        if isinstance(found, RawDocument):
            ordinal += 1
        yield found


def _article(
    page: _Page, site: _Site, names: Names, locator: str, ordinal: int
) -> RawDocument | Skipped:
    """The document of a page, or why it has none."""
    if page.too_large:
        return Skipped(f"page larger than {MAX_PAGE_CHARACTERS // 1_000_000} million characters")
    if page.redirect or _REDIRECT.match(page.text):
        return Skipped("redirect")
    # Old exports have no namespace numbers.
    prefix, colon, _ = page.title.partition(":")
    if page.ns not in ("", "0") or (not page.ns and colon and names.is_namespace(prefix)):
        return Skipped("not an article")
    if page.model not in ("", "wikitext"):
        return Skipped("not wikitext")
    if is_disambiguation(page.text):
        return Skipped("disambiguation page")
    text = wikitext_to_text(page.text, names)
    if not text:
        return Skipped("empty page")
    metadata = {"file": locator, "title": page.title}
    if page.timestamp:
        metadata["date"] = page.timestamp
    if site.language:
        metadata["language"] = site.language
    url = None
    if site.base:
        address = quote(page.title.replace(" ", "_"), safe="/:(),;@!*'")
        url = f"{site.base.rpartition('/')[0]}/{address}"
    return RawDocument(locator, ordinal, text, url, metadata)


class _Export:
    """Parses an export piece by piece. Expat reads no other files and is stopped at a DOCTYPE."""

    def __init__(self) -> None:
        self.site = _Site()
        self._path: list[str] = []
        self._page = _Page()
        self._pieces: list[str] = []
        self._size = 0
        self._key = ""
        self._done: list[_Page] = []

    def pages(self, stream: IO[bytes]) -> Iterator[_Page]:
        """The pages, each as soon as it is complete."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        while True:
            piece = stream.read(_PIECE_BYTES)
            broken = None
            try:
                parser.Parse(piece, not piece)
            except expat.ExpatError as error:
                cut = "the dump is cut off" if not piece else "broken XML"
                broken = BrokenInput(f"{cut} ({error})")
            except BrokenInput as error:
                broken = error
            yield from self._done
            self._done.clear()
            if broken:
                raise broken from None
            if not piece:
                return

    def _refuse_doctype(self, *_: object) -> None:
        raise BrokenInput("no MediaWiki export: it has a document type")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        if not self._path:
            if name != "mediawiki":
                raise BrokenInput(f"no MediaWiki export: its root is <{name[:40]}>")
            self.site.language = attributes.get("xml:lang", "")
        elif name == "page":
            self._page = _Page()
        elif name == "redirect":
            self._page.redirect = True
        elif name == "namespace":
            self._key = attributes.get("key", "")
        self._path.append(name)
        self._pieces.clear()
        self._size = 0

    def _characters(self, text: str) -> None:
        self._size += len(text)
        if self._size <= MAX_PAGE_CHARACTERS:
            self._pieces.append(text)

    def _end(self, name: str) -> None:
        name = self._path.pop()
        parent = self._path[-1] if self._path else ""
        text = "".join(self._pieces)
        self._pieces.clear()
        if parent == "revision":
            if name == "text":
                self._page.text = text
                self._page.too_large = self._size > MAX_PAGE_CHARACTERS
            elif name in ("model", "timestamp"):
                setattr(self._page, name, text)
        elif parent == "page":
            if name in ("title", "ns"):
                setattr(self._page, name, text)
        elif name == "page":
            self._done.append(self._page)
        elif name == "base":
            self.site.base = text
        elif name == "namespace":
            self.site.namespaces[self._key] = text
        self._size = 0

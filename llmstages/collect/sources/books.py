"""Books: Project Gutenberg's files and e-books in the EPUB format, one document a book.

An EPUB is read in the order of its spine. All text of a chapter is kept, footnotes too; tables of
contents are left out. What an archive says of its sizes is not believed: every chapter, and all of
them together, are unpacked up to a limit.
"""

import posixpath
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from llmstages.collect.sources.gutenberg import is_gutenberg, read_gutenberg
from llmstages.collect.sources.markup import XHTML, flow_text, local_name, parse_markup, parse_xml
from llmstages.collect.sources.records import BrokenInput, Found, RawDocument, Skipped

__all__ = ["is_gutenberg", "read_epub", "read_gutenberg", "read_gutenberg_page"]

# The longest novels have 4 MB of text. Pictures make files large, and are never unpacked.
BOOK_BYTES = 512 * 2**20
CHAPTER_BYTES = 16 * 2**20
TEXT_BYTES = 64 * 2**20
# 4 MiB name about 60,000 members; the list of members is in memory while the book is read.
DIRECTORY_BYTES = 4 * 2**20
SPOOLED_BYTES = 16 * 2**20
METADATA_CHARACTERS = 500
# A chapter is a table of contents when this share of its text leads elsewhere.
LINKED_SHARE = 0.7
MIN_LINKS = 4

# Fonts are encrypted in many books that are free to read; these two ways do nothing else.
_FONT_OBFUSCATION = (
    "http://www.idpf.org/2008/embedding",
    "http://ns.adobe.com/pdf/enc#RC",
)
_TEXT_TYPES = ("application/xhtml+xml", "text/html", "text/x-oeb1-document", "text/xml")
_TEXT_SUFFIXES = (".xhtml", ".html", ".htm", ".xml")
_LEFT_OUT_TYPES = frozenset(("toc", "landmarks", "page-list", "loi", "lot", "pagebreak"))
_LEFT_OUT_ROLES = frozenset(("doc-toc", "doc-pagelist", "doc-pagebreak"))


def read_gutenberg_page(
    data: bytes, locator: str, ordinal: int = 0, charset: str | None = None
) -> RawDocument:
    """The book in an HTML page of Project Gutenberg: its main text without header and licence."""
    from llmstages.collect.pages.extraction import extract_page

    return read_gutenberg(extract_page(data, charset).text, locator, ordinal)


def read_epub(stream: IO[bytes], locator: str) -> Iterator[Found]:
    """The text of an e-book (EPUB 2 or 3), and what of it could not be read."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOLED_BYTES) as file:
        if not _copy(stream, file):
            yield Skipped("e-book over 512 MiB")
            return
        _check_directory(file)
        try:
            with zipfile.ZipFile(file) as archive:
                yield from _read_archive(archive, locator)
        except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
            if isinstance(error, BrokenInput):
                raise
            raise BrokenInput(f"no readable e-book ({error})") from None


def _copy(stream: IO[bytes], file: IO[bytes]) -> bool:
    """Copy the stream to where it can be read back and forth; False when it is too long."""
    total = 0
    while block := stream.read(2**20):
        total += len(block)
        if total > BOOK_BYTES:
            return False
        file.write(block)
    return True


def _check_directory(file: IO[bytes]) -> None:
    """Refuse an archive whose list of members alone would fill the memory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 65_557))
    tail = file.read()
    start = tail.rfind(b"PK\5\6")
    if start >= 0 and len(tail) >= start + 16:
        (directory_bytes,) = struct.unpack("<I", tail[start + 12 : start + 16])
        if directory_bytes > DIRECTORY_BYTES:
            raise BrokenInput("e-book with too many members")


@dataclass
class _Package:
    """What the package document says of a book."""

    chapters: list[str] = field(default_factory=list)
    """Names of the members with text, in reading order."""
    num_outside: int = 0
    """Chapters that lie outside the archive."""
    metadata: dict[str, str] = field(default_factory=dict)


def _read_archive(archive: zipfile.ZipFile, locator: str) -> Iterator[Found]:
    members = {member.filename: member for member in archive.infolist()}
    package_name = _package_name(archive, members)
    package = _read_package(_xml_member(archive, members, package_name), package_name)
    if package.num_outside:
        yield Skipped("e-book chapter outside the e-book", package.num_outside)
    if _is_encrypted(archive, members, package.chapters):
        yield Skipped("encrypted e-book")
        return
    texts: list[str] = []
    num_bytes = 0
    for name in package.chapters:
        member = members.get(name) or members.get(unquote(name))
        if member is None:
            yield Skipped("missing e-book chapter")
            continue
        if num_bytes > TEXT_BYTES:
            yield Skipped("e-book chapter after the first 64 MiB")
            continue
        try:
            data = _unpack(archive, member)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
            yield Skipped("unreadable e-book chapter")
            continue
        if data is None:
            yield Skipped("e-book chapter over 16 MiB")
            continue
        num_bytes += len(data)
        root = parse_markup(data)
        if root is None:
            yield Skipped("unreadable e-book chapter")
        elif not _is_contents(root) and (text := flow_text(root, XHTML, _instead)):
            texts.append(text)
    if not texts:
        yield Skipped("e-book without text")
        return
    document = read_gutenberg("\n\n".join(texts), locator)
    yield RawDocument(locator, 0, document.text, metadata=document.metadata | package.metadata)


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | None:
    """Content of a member; None when it is too long, whatever its header says."""
    with archive.open(member) as stream:
        data = stream.read(CHAPTER_BYTES + 1)
    return data if len(data) <= CHAPTER_BYTES else None


def _xml_member(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str) -> Any:
    """Root element of a member; None when it is not there or not readable."""
    if name not in members:
        return None
    try:
        data = _unpack(archive, members[name])
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return None
    return None if data is None else parse_xml(data)


def _package_name(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> str:
    """Where the package document is: container.xml says it, or there is only one."""
    container = _xml_member(archive, members, "META-INF/container.xml")
    if container is not None:
        for element in _elements(container, "rootfile"):
            name = posixpath.normpath(unquote(element.get("full-path", "")))
            if name in members:
                return name
    packages = [name for name in members if name.lower().endswith(".opf")]
    if len(packages) == 1:
        return packages[0]
    raise BrokenInput("no e-book: neither META-INF/container.xml nor one .opf file says what is in")


def _elements(root: Any, name: str) -> list[Any]:
    """Elements of this name, whatever their namespace."""
    return [
        element
        for element in root.iter()
        if isinstance(element.tag, str) and local_name(element) == name
    ]


def _read_package(root: Any, package_name: str) -> _Package:
    if root is None:
        raise BrokenInput(f"no readable package document {package_name}")
    package = _Package()
    for key, name in (
        *(("title", "title"), ("author", "creator"), ("language", "language")),
        *(("date", "date"), ("license", "rights")),
    ):
        values = [" ".join("".join(found.itertext()).split()) for found in _elements(root, name)]
        values = [value for value in dict.fromkeys(values) if value]
        if values:
            value = "; ".join(values) if key == "author" else values[0]
            package.metadata[key] = value[:METADATA_CHARACTERS]

    contents = {
        _resolve(element.get("href", ""), package_name)
        for element in _elements(root, "reference")
        if element.get("type", "").lower() == "toc"
    }
    seen: set[str] = set()
    items = {element.get("id"): element for element in _elements(root, "item")}
    for reference in _elements(root, "itemref"):
        item = items.get(reference.get("idref"))
        if item is None:
            continue
        href = item.get("href", "")
        is_text = item.get("media-type", "") in _TEXT_TYPES or href.lower().endswith(_TEXT_SUFFIXES)
        if not is_text or "nav" in item.get("properties", "").split():
            continue
        chapter = _resolve(href, package_name)
        if chapter is None:
            package.num_outside += 1
        elif chapter not in contents and chapter not in seen:
            seen.add(chapter)
            package.chapters.append(chapter)
    return package


def _resolve(href: str, base: str) -> str | None:
    """Name of the member a reference points to; None when it leads out of the archive."""
    try:
        parts = urlsplit(href)
    except ValueError:
        return None
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
        return None
    name = posixpath.normpath(posixpath.join(posixpath.dirname(base), unquote(parts.path)))
    return None if name.startswith("../") else name


def _is_encrypted(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], chapters: list[str]
) -> bool:
    """Whether any chapter is encrypted: by the archive, or as encryption.xml says."""
    if any(members[name].flag_bits & 1 for name in chapters if name in members):
        return True
    root = _xml_member(archive, members, "META-INF/encryption.xml")
    if root is None:
        return False
    names = set(chapters)
    for data in _elements(root, "encrypteddata"):
        methods = [element.get("Algorithm", "") for element in _elements(data, "encryptionmethod")]
        if any(method in _FONT_OBFUSCATION for method in methods):
            continue
        uris = [element.get("URI", "") for element in _elements(data, "cipherreference")]
        if any(posixpath.normpath(unquote(uri)) in names for uri in uris):
            return True
    return False


def _is_contents(root: Any) -> bool:
    """Whether a chapter is little but links to other chapters."""
    bodies = _elements(root, "body")
    if not bodies:
        return False
    links = [element for element in _elements(bodies[0], "a") if element.get("href")]
    if len(links) < MIN_LINKS:
        return False
    linked = sum(len("".join(element.itertext()).split()) for element in links)
    total = len("".join(bodies[0].itertext()).split())
    return linked >= LINKED_SHARE * total


def _instead(element: Any) -> str | None:
    """What stands in an e-book in the place of an element: nothing for contents, or a formula."""
    types: set[str] = set()
    for name, value in element.attrib.items():
        if name.endswith("}type") or name == "epub:type":
            types.update(value.split())
    if types & _LEFT_OUT_TYPES or element.get("role") in _LEFT_OUT_ROLES:
        return ""
    if local_name(element) == "math":
        alternative = element.get("alttext")
        return str(alternative) if alternative else "".join("".join(element.itertext()).split())
    return None

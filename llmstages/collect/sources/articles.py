"""Articles: PDF files, and XML of the Journal Article Tag Suite (JATS, as PubMed Central has it).

pdfium may be called from several processes, but not from several threads of one: a lock keeps
them apart, and no call is under way while a document is handed out.
"""

import re
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Any

from llmstages.collect.sources.markup import SAFE_XML, Layout, flow_text, local_name
from llmstages.collect.sources.pdf_layout import (
    Line,
    join_pages,
    paragraphs_of,
    without_repeated_edges,
)
from llmstages.collect.sources.records import BrokenInput, Found, Note, RawDocument, Skipped

PDF_BYTES = 256 * 2**20
PDF_PAGES = 3000
# A page of small print has 10,000 characters, a book of 3,000 pages under ten million.
PAGE_CHARACTERS = 100_000
PDF_CHARACTERS = 10_000_000
SPOOLED_BYTES = 16 * 2**20
METADATA_CHARACTERS = 500
# The longest articles, supplements in the text, have 10 MB.
ARTICLE_BYTES = 32 * 2**20
# An element takes 100 to 250 bytes of memory; long articles have 30,000, tables not counted.
ARTICLE_ELEMENTS = 500_000

_LINE_FEED, _CARRIAGE_RETURN = 10, 13
# pdfium joins a word that is cut in two at the end of a line, with this between its parts.
_CUT_WORD = 2
_BLANK_CODES = frozenset((0, 2, 9, 10, 13, 32, 160))
_PDFIUM_LOCK = threading.Lock()
_NO_TITLE = re.compile(r"untitled|microsoft word|\.(?:docx?|tex|dvi|pdf|indd|qxd|ps)\b", re.I)


def read_pdf(stream: IO[bytes], locator: str) -> Iterator[Found]:
    """The text of a PDF, one document a file."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOLED_BYTES) as file:
        total = 0
        while block := stream.read(2**20):
            total += len(block)
            if total > PDF_BYTES:
                yield Skipped("PDF over 256 MiB")
                return
            file.write(block)
        if not total:
            raise BrokenInput("empty PDF")
        file.seek(0)
        with _PDFIUM_LOCK:
            found = _read_open_pdf(file, locator)
    yield from found


def _read_open_pdf(file: Any, locator: str) -> list[Found]:
    import pypdfium2 as pdfium
    import pypdfium2.raw as pdfium_c

    try:
        document = pdfium.PdfDocument(file)
    except pdfium.PdfiumError as error:
        if error.err_code in (pdfium_c.FPDF_ERR_PASSWORD, pdfium_c.FPDF_ERR_SECURITY):
            return [Skipped("encrypted PDF")]
        raise BrokenInput(f"no readable PDF ({error})") from None
    try:
        found: list[Found] = []
        num_pages = len(document)
        if num_pages > PDF_PAGES:
            found.append(Note(locator, f"only the first {PDF_PAGES:,} pages of a PDF are read"))
        pages: list[list[Line]] = []
        num_characters = num_unreadable = 0
        for index in range(min(num_pages, PDF_PAGES)):
            try:
                lines = _page_lines(document, index)
            except pdfium.PdfiumError:
                num_unreadable += 1
                continue
            pages.append(lines)
            num_characters += sum(len(line.text) for line in lines)
            if num_characters > PDF_CHARACTERS:
                found.append(Note(locator, "only the first ten million characters are read"))
                break
        if num_unreadable:
            found.append(Skipped("unreadable PDF page", num_unreadable))
        text = join_pages([paragraphs_of(page) for page in without_repeated_edges(pages)])
        if text:
            found.append(RawDocument(locator, 0, text, metadata=_pdf_metadata(document)))
        else:
            found.append(Skipped("PDF without text"))
        return found
    finally:
        document.close()


def _page_lines(document: Any, index: int) -> list[Line]:
    """Lines of a page, in the order in which the file holds them."""
    import pypdfium2.raw as pdfium_c

    page = document[index]
    textpage = page.get_textpage()
    try:
        num_characters = min(textpage.count_chars(), PAGE_CHARACTERS)
        codes = [pdfium_c.FPDFText_GetUnicode(textpage, i) for i in range(num_characters)]
        lines: list[Line] = []
        begin = 0
        for i, code in enumerate([*codes, _LINE_FEED]):
            if code == _CUT_WORD and _goes_down(textpage, i):
                end = i + 1  # the mark of the cut stays with its line
            elif code in (_LINE_FEED, _CARRIAGE_RETURN):
                end = i
            else:
                continue
            if line := _line(textpage, codes, begin, end):
                lines.append(line)
            begin = i + 1
        return lines
    finally:
        textpage.close()
        page.close()


def _goes_down(textpage: Any, index: int) -> bool:
    """Whether the characters around this one stand on different lines."""
    before, after = _origin(textpage, index - 1), _origin(textpage, index + 1)
    return before is not None and after is not None and abs(before - after) > 2


def _origin(textpage: Any, index: int) -> float | None:
    """Height at which a character stands on its page."""
    import ctypes

    import pypdfium2.raw as pdfium_c

    x, y = ctypes.c_double(), ctypes.c_double()
    if not pdfium_c.FPDFText_GetCharOrigin(textpage, index, ctypes.byref(x), ctypes.byref(y)):
        return None
    return y.value


def _line(textpage: Any, codes: list[int], begin: int, end: int) -> Line | None:
    """The characters from `begin` to `end` as a line; None when there is nothing to see."""
    import ctypes

    import pypdfium2.raw as pdfium_c

    inked = [i for i in range(begin, end) if codes[i] not in _BLANK_CODES]
    if not inked:
        return None
    box = pdfium_c.FS_RECTF()
    edges: list[tuple[float, float, float, float]] = []
    for i in (inked[0], inked[-1]):
        baseline = _origin(textpage, i)
        if baseline is not None and pdfium_c.FPDFText_GetLooseCharBox(
            textpage, i, ctypes.byref(box)
        ):
            edges.append((box.left, box.right, baseline, abs(box.top - box.bottom)))
    if not edges:
        return None
    # The mark of a footnote at either end is smaller, and stands higher.
    return Line(
        text=_characters(codes[begin:end]),
        left=edges[0][0],
        right=edges[-1][1],
        baseline=min(edge[2] for edge in edges),
        height=max(edge[3] for edge in edges),
    )


def _characters(codes: list[int]) -> str:
    """Text of UTF-16 or UTF-32 units, whatever pdfium hands out; NUL is a missing character."""
    units = b"".join(
        code.to_bytes(2, "little") if code < 0x10000 else chr(code).encode("utf-16-le")
        for code in codes
        if 0 < code < 0x110000
    )
    text = units.decode("utf-16-le", "replace")
    return text[:-1].replace(chr(_CUT_WORD), "") + text[-1:]


def _pdf_metadata(document: Any) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for key, name in (("title", "Title"), ("author", "Author"), ("date", "CreationDate")):
        value = " ".join(document.get_metadata_value(name).replace("\0", "").split())
        if key == "date":
            match = re.match(r"(?:D:)?((?:19|20)\d\d)(\d\d)?(\d\d)?", value)
            value = "-".join(part for part in match.groups() if part) if match else ""
        if value and not (key == "title" and _NO_TITLE.search(value)):
            metadata[key] = value[:METADATA_CHARACTERS]
    return metadata


JATS = Layout(
    paragraphs=frozenset(
        (
            *("abstract", "app", "article-title", "body", "boxed-text", "caption", "def-list"),
            *("disp-formula", "disp-quote", "fig", "list", "p", "preformat", "sec", "speech"),
            *("statement", "table-wrap", "title", "trans-abstract", "verse-group"),
        )
    ),
    lines=frozenset(("break", "def-item", "list-item", "subtitle", "verse-line")),
    verbatim=frozenset(("code", "preformat")),
    left_out=frozenset(
        (
            *("back", "fn-group", "graphic", "inline-graphic", "media", "object-id", "permissions"),
            *("ref-list", "supplementary-material", "table", "table-wrap-foot", "alt-text"),
            *("long-desc", "floats-wrap"),
        )
    ),
)
_TEX_DOCUMENT = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.DOTALL)


class _Bounded:
    """A stream that stops when one article takes too much of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.num_bytes = 0

    def read(self, size: int = -1) -> bytes:
        block = self.stream.read(min(size, 2**16) if size > 0 else 2**16)
        self.num_bytes += len(block)
        if self.num_bytes > ARTICLE_BYTES:
            raise BrokenInput("an article over 32 MiB")
        return block


def read_jats(stream: IO[bytes], locator: str) -> Iterator[Found]:
    """The articles in a JATS or NLM file, one by one.

    Title, abstract and body are text, with headings and the captions of figures and tables; the
    tables themselves and the references are left out. Replies and reviews that hang on an article
    are counted, not read.
    """
    from lxml import etree

    source = _Bounded(stream)
    ordinal = depth = num_elements = 0
    try:
        for event, element in etree.iterparse(source, events=("start", "end"), **SAFE_XML):
            num_elements += event == "start"
            if num_elements > ARTICLE_ELEMENTS:
                raise BrokenInput(f"an article of over {ARTICLE_ELEMENTS:,} elements")
            name = local_name(element)
            if name == "table" and event == "end":
                element.clear(keep_tail=True)  # not read, and often the larger part
            if name != "article":
                continue
            depth += 1 if event == "start" else -1
            if event == "start" or depth:
                continue
            yield from _article(element, locator, ordinal)
            ordinal += 1
            source.num_bytes = num_elements = 0
            element.clear(keep_tail=False)
            # The empty shells of the articles before would still fill the memory.
            while element.getprevious() is not None:
                del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise BrokenInput(f"broken XML ({error.msg})") from None
    if not ordinal:
        yield Skipped("XML without an article")


def _article(article: Any, locator: str, ordinal: int) -> Iterator[Found]:
    hanging = [e for e in article if _is(e, "sub-article", "response")]
    if hanging:
        yield Skipped("reply or review of an article", len(hanging))
    _put_labels_into_text(article)
    meta = _first(article, "article-meta")
    parts: list[str] = []
    title = _first(meta, "article-title")
    if title is not None:
        parts.append(" ".join(flow_text(title, JATS, _formula).split()))
    for abstract in _all(meta, "abstract"):
        if abstract.get("abstract-type") not in ("graphical", "teaser", "toc"):
            parts.append(flow_text(abstract, JATS, _formula))
    for name in ("body", "floats-group", "app"):
        parts += [flow_text(e, JATS, _formula) for e in _all(article, name) if _own(e, article)]
    text = "\n\n".join(part for part in parts if part)
    if text:
        yield RawDocument(locator, ordinal, text, metadata=_jats_metadata(article, meta, parts))
    else:
        yield Skipped("article without text")


def _is(element: Any, *names: str) -> bool:
    return isinstance(element.tag, str) and local_name(element) in names


def _all(root: Any, name: str) -> list[Any]:
    return [] if root is None else [element for element in root.iter() if _is(element, name)]


def _first(root: Any, name: str) -> Any:
    return None if root is None else next((e for e in root.iter() if _is(e, name)), None)


def _own(element: Any, article: Any) -> bool:
    """Whether an element belongs to the article itself, not to a reply that hangs on it."""
    for ancestor in element.iterancestors():
        if ancestor is article:
            return True
        if _is(ancestor, "sub-article", "response"):
            return False
    return False


def _put_labels_into_text(article: Any) -> None:
    """Write "Figure 1" and numbers of sections and list items before the text they belong to."""
    for label in _all(article, "label"):
        following = label.getnext()
        target = following
        if _is_element(following) and _is(following, "caption") and len(following):
            target = following[0]
        words = " ".join("".join(label.itertext()).split())
        if _is_element(target) and _is(target, "title", "p", "caption"):
            target.text = f"{words} {(target.text or '').lstrip()}"
            label.getparent().remove(label)


def _is_element(element: Any) -> bool:
    return element is not None and isinstance(element.tag, str)


def _formula(element: Any) -> str | None:
    """A formula as TeX where the file has it, or else as the letters in it."""
    if _is(element, "inline-formula", "disp-formula", "math", "tex-math"):
        tex = element if _is(element, "tex-math") else _first(element, "tex-math")
        if tex is not None:
            source = "".join(tex.itertext())
            document = _TEX_DOCUMENT.search(source)
            return " ".join((document[1] if document else source).split())
        if _is(element, "math"):
            return "".join("".join(element.itertext()).split())
    return None


def _jats_metadata(article: Any, meta: Any, parts: list[str]) -> dict[str, str]:
    metadata: dict[str, str] = {}

    def put(key: str, value: str | None) -> None:
        value = " ".join((value or "").split())[:METADATA_CHARACTERS]
        if value and key not in metadata:
            metadata[key] = value

    if _first(meta, "article-title") is not None:
        put("title", parts[0])
    journal = _first(article, "journal-title")
    put("journal", "".join(journal.itertext()) if journal is not None else None)
    for identifier in _all(meta, "article-id"):
        if identifier.get("pub-id-type") == "doi":
            put("doi", identifier.text)
    dates = sorted(filter(None, (_date(e) for e in _all(meta, "pub-date"))))
    put("date", dates[0] if dates else None)
    put("language", article.get("{http://www.w3.org/XML/1998/namespace}lang"))
    permissions = _first(meta, "permissions")
    for licence in _all(permissions, "license"):
        put("license", licence.get("{http://www.w3.org/1999/xlink}href"))
    for reference in (*_all(permissions, "license_ref"), *_all(permissions, "license")):
        put("license", "".join(reference.itertext()))
    return metadata


def _date(element: Any) -> str:
    """A publication date as year, month and day, as far as it is given."""
    parts = []
    for name, width in (("year", 4), ("month", 2), ("day", 2)):
        part = _first(element, name)
        text = (part.text or "").strip() if part is not None else ""
        if not text.isdecimal() or len(text) > width:
            break
        parts.append(text.zfill(width))
    return "-".join(parts)

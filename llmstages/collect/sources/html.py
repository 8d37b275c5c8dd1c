"""The main text of a web page, found by trafilatura (Barbaresi 2021).

Where it finds none, or a small part of a page without layout, the page's whole visible text.
"""

import codecs
import re

from lxml import etree, html  # type: ignore[import-untyped]

from llmstages.data.table import decode_bytes

_CHARSET = re.compile(rb"<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*[\"']?([\w.:-]+)", re.I)
_BLOCKS = frozenset(
    (
        *("address", "article", "blockquote", "body", "br", "dd", "div", "dl", "dt", "figcaption"),
        *("footer", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol"),
        *("p", "pre", "section", "table", "td", "th", "tr", "ul"),
    )
)
_UNSEEN = ("script", "style", "head", "template", "noscript", "svg")


def page_text(data: bytes) -> tuple[str, str]:
    """The text of a page and the encoding it was read in."""
    from trafilatura import extract

    page, encoding = _decode(data)
    main = extract(page, include_comments=False, include_tables=True) or ""
    if len(main) >= 200:
        return main, encoding
    whole = visible_text(page)
    return (whole if len(whole) > 2 * len(main) else main), encoding


def visible_text(page: str) -> str:
    """All text a browser would show, one line a block."""
    try:
        root = html.fromstring(page.encode("utf-8"), parser=html.HTMLParser(encoding="utf-8"))
    except (etree.ParserError, ValueError):
        return ""  # an empty page
    etree.strip_elements(root, *_UNSEEN, etree.Comment, with_tail=False)
    pieces: list[str] = []
    for event, element in etree.iterwalk(root, events=("start", "end")):
        block = element.tag in _BLOCKS
        if event == "start":
            pieces.append(("\n" if block else "") + (element.text or ""))
        else:
            pieces.append(("\n" if block else "") + (element.tail or ""))
    lines = (" ".join(line.split()) for line in "".join(pieces).splitlines())
    return "\n".join(line for line in lines if line)


def _decode(data: bytes) -> tuple[str, str]:
    """Decode by the encoding the page declares, where that is true, or by its bytes."""
    declared = _CHARSET.search(data[:4096])
    if declared and not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        name = declared.group(1).decode("ascii", "replace")
        try:
            # Browsers read what calls itself Latin-1 as Windows-1252 (WHATWG Encoding Standard).
            codec = codecs.lookup("cp1252" if name.lower() == "iso-8859-1" else name).name
            return data.decode(codec), codec
        except (LookupError, UnicodeDecodeError):
            pass
    return decode_bytes(data)

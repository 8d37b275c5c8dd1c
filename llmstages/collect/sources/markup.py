"""Text of marked-up documents, all of it: what books, articles and mail have in common.

`flow_text` turns a tree into paragraphs separated by blank lines. `parse_markup` gives the tree of
an XHTML or HTML document, `parse_xml` that of any small XML file. No parser here fetches anything,
and entities that a document declares itself are never expanded: they are left out.
"""

import html.entities
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

# What every parser here is told. Without `huge_tree` libxml2 stops at 256 levels and 10 MB a text.
SAFE_XML = {
    "resolve_entities": False,
    "load_dtd": False,
    "no_network": True,
    "huge_tree": False,
    "remove_comments": True,
    "remove_pis": True,
}

# A tree takes up to 250 bytes a tag; the longest chapters have 100,000.
MAX_TAGS = 1_000_000

_BLANKS = re.compile(r"[ \t\r\n\f]+")
_NAMED_ENTITY = re.compile(rb"&([A-Za-z][A-Za-z0-9]{0,30});")
_XML_ENTITIES = frozenset((b"amp", b"lt", b"gt", b"quot", b"apos"))
_DOCTYPE = re.compile(rb"<!DOCTYPE[^>\[]{0,1000}", re.IGNORECASE)
_INTERNAL_SUBSET = re.compile(rb"\[.*?\]\s*>", re.DOTALL)
_VERSE_CLASS = re.compile(r"(?:^|\s)(?:line|verse|i\d+|indent\d*)(?:\s|$)")

Token = tuple[Literal["start", "end", "text"], Any]


@dataclass(frozen=True)
class Layout:
    """What the tags of a vocabulary do to the text around them."""

    paragraphs: frozenset[str]
    """Stand apart, with a blank line before and after."""
    lines: frozenset[str]
    """Begin on a new line."""
    cells: frozenset[str] = frozenset()
    """Are separated by a tab from what stands before them on the line."""
    verbatim: frozenset[str] = frozenset()
    """Keep their spaces and line breaks."""
    left_out: frozenset[str] = frozenset()
    """Are not read, with all that is in them."""


XHTML = Layout(
    paragraphs=frozenset(
        (
            *("address", "article", "aside", "blockquote", "body", "caption", "center", "details"),
            *("div", "dl", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr"),
            *("h1", "h2", "h3", "h4", "h5", "h6", "main", "ol", "p", "pre", "section", "table"),
            "ul",
        )
    ),
    lines=frozenset(("br", "dd", "dt", "legend", "li", "option", "summary", "tr")),
    cells=frozenset(("td", "th")),
    verbatim=frozenset(("pre",)),
    # `rt` repeats the reading of what it stands above; a page's title comes again as a heading.
    left_out=frozenset(
        (
            *("audio", "button", "canvas", "head", "iframe", "nav", "noscript", "object", "rp"),
            *("rt", "script", "select", "style", "svg", "template", "textarea", "video"),
        )
    ),
)


def local_name(element: Any) -> str:
    """Tag without its namespace, in lower case."""
    return str(element.tag).rpartition("}")[2].lower()


def parse_xml(data: bytes) -> Any:
    """Root element of an XML file, as far as it can be read; None when there is none."""
    from lxml import etree

    if data.count(b"<") > MAX_TAGS:
        return None
    try:
        return etree.fromstring(data, etree.XMLParser(recover=True, **SAFE_XML))
    except etree.XMLSyntaxError:
        return None


def parse_markup(data: bytes, encoding: str | None = None) -> Any:
    """Root element of an XHTML or HTML document; None when there is nothing or too much in it.

    Well-formed XHTML is read as XML. Everything else goes to the HTML parser, which knows that
    `<br>` and `<p>` need not be closed.
    """
    from lxml import etree

    if data.count(b"<") > MAX_TAGS:
        return None
    # The names of HTML are declared in a DTD that is not read.
    numbered = _NAMED_ENTITY.sub(_character_reference, data)
    try:
        return etree.fromstring(numbered, etree.XMLParser(encoding=encoding, **SAFE_XML))
    except (etree.XMLSyntaxError, LookupError, ValueError):
        pass
    if encoding is None:
        from llmstages.data.encodings import decode_bytes

        # The HTML parser would take anything undeclared for Latin-1.
        data, encoding = decode_bytes(data)[0].encode("utf-8", "replace"), "utf-8"
    # The HTML parser would read declarations as text.
    doctype = _DOCTYPE.search(data)
    if doctype and (subset := _INTERNAL_SUBSET.match(data, doctype.end())):
        data = data[: doctype.start()] + data[subset.end() :]
    parser = etree.HTMLParser(
        encoding=encoding, remove_comments=True, remove_pis=True, no_network=True
    )
    try:
        return etree.fromstring(data.replace(b"\0", b""), parser)
    except (etree.ParserError, etree.XMLSyntaxError):
        return None


def _character_reference(match: re.Match[bytes]) -> bytes:
    name = match[1]
    if name in _XML_ENTITIES:
        return match[0]
    characters = entity_text(name.decode("ascii"))
    return b"".join(b"&#%d;" % ord(character) for character in characters) or match[0]


def entity_text(name: str) -> str:
    """The characters that HTML gives a name, nothing for other names."""
    return html.entities.html5.get(f"{name};", "")


def flow_text(root: Any, layout: Layout, replace: Callable[[Any], str | None] | None = None) -> str:
    """All text of a tree: paragraphs separated by blank lines.

    Args:
        root: an lxml element.
        layout: what the tags mean.
        replace: says of an element what stands in its place; None: its own text.
    """
    paragraphs: list[str] = []
    pieces: list[str] = []
    verbatim_depth = 0
    has_verbatim = False

    def flush() -> None:
        nonlocal has_verbatim
        text = "".join(pieces)
        pieces.clear()
        if has_verbatim:
            text = "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")
        else:
            # No-break spaces in a row only indent.
            text = re.sub(r"[ \xa0]{2,}", " ", text)
            text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \xa0]?\n[ \xa0]?", "\n", text))
            text = text.strip(" \xa0\t\n")
        has_verbatim = False
        if text.strip():
            paragraphs.append(text)

    for kind, value in _tokens(root, layout, replace):
        if kind == "text":
            if verbatim_depth:
                has_verbatim = True
                pieces.append(value.replace("\r\n", "\n"))
            else:
                pieces.append(_BLANKS.sub(" ", value))
            continue
        name = local_name(value)
        if name in layout.verbatim:
            flush()
            verbatim_depth += 1 if kind == "start" else -1
        elif name in layout.paragraphs and not (
            name == "div" and _VERSE_CLASS.search(value.get("class", ""))
        ):
            flush()
        elif name in layout.cells:
            if kind == "start" and pieces and not pieces[-1].endswith("\n"):
                pieces.append("\t")
        elif name in layout.lines or name == "div":
            is_break = name == "br" and kind == "start"
            if is_break or (name != "br" and pieces and not pieces[-1].endswith("\n")):
                pieces.append("\n")
    flush()
    return "\n\n".join(paragraphs)


def _tokens(
    root: Any, layout: Layout, replace: Callable[[Any], str | None] | None
) -> Iterator[Token]:
    """The tree in the order of its text, without recursion: a tree may be deep."""
    yield "start", root
    if root.text:
        yield "text", root.text
    stack = [(root, iter(root))]
    while stack:
        element, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            yield "end", element
            if stack and element.tail:
                yield "text", element.tail
            continue
        if not isinstance(child.tag, str):  # an entity that was not expanded
            instead: str | None = entity_text(getattr(child, "name", None) or "")
        elif local_name(child) in layout.left_out:
            instead = ""
        else:
            instead = replace(child) if replace else None
        if instead is None:
            yield "start", child
            if child.text:
                yield "text", child.text
            stack.append((child, iter(child)))
            continue
        yield "text", instead
        if child.tail:
            yield "text", child.tail

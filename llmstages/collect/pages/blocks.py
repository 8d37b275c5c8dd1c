"""A web page as the blocks of text that a reader sees, and the elements that hold them.

A block is a paragraph, a heading, an item of a list, a row of a table or a piece of code, with its
white space as a browser would show it: runs of it are one space, `<br>` is a new line, code stays
as it is. Items begin with "- " or their number, cells are parted by " | ", formulas are the TeX
they were made from.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmstages.collect.pages.bounds import bounded

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
CELL_CHARACTERS = 200
"""A longer cell is a column of the page, not a cell of a table, and stands alone."""

_BLOCKS = HEADINGS | frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "caption", "center", "dd"),
        *("details", "dialog", "dir", "div", "dl", "dt", "fieldset", "figcaption", "figure"),
        *("footer", "form", "header", "hgroup", "hr", "html", "legend", "li", "main", "menu"),
        *("nav", "ol", "p", "pre", "section", "summary", "table", "tbody", "td", "tfoot", "th"),
        *("thead", "tr", "ul"),
    )
)
_UNSEEN = frozenset(
    (
        *("applet", "audio", "button", "canvas", "datalist", "embed", "frame", "frameset", "head"),
        *("iframe", "input", "map", "meter", "noembed", "noframes", "noscript", "object"),
        *("progress", "script", "select", "style", "svg", "template", "textarea", "video"),
    )
)
_ITEMS = frozenset(("li", "tr", "dt", "dd"))
_HIDING_ATTRIBUTES = frozenset(("hidden", "aria-hidden", "style"))
_HIDING_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
# Marks beside headings, and what is meant for screen readers only.
_UNSEEN_INLINE = re.compile(
    r"(?<![a-z])(?:headerlink|header-?anchor|anchor-?link|permalink|mw-editsection"
    r"|visually-?hidden|sr-only|screen-reader)"
)
_BREAK = "\x01"  # stands for <br>; U+0001 cannot stand in HTML text


@dataclass(slots=True)
class Element:
    """An element that makes blocks; its blocks are those from `start` up to `end`."""

    tag: str
    parent: int
    """Index of the element around it; -1 for the outermost."""
    names: str
    """Its classes, id and role in lower case."""
    hidden: bool
    start: int
    end: int = 0


@dataclass(slots=True)
class Block:
    """A piece of text that stands on lines of its own."""

    text: str
    link_characters: int
    """How many of its characters are in links."""
    element: int
    """Index of the innermost element around it."""
    in_list: bool
    is_item: bool
    """Stands without a blank line beside others of its kind: items of lists, rows of tables."""


@dataclass
class PageBlocks:
    """Blocks and elements in the order in which they begin."""

    title: str | None = None
    blocks: list[Block] = field(default_factory=list)
    elements: list[Element] = field(default_factory=list)


def joined(blocks: list[Block]) -> str:
    """Blocks as text: a blank line between them, a new line between items."""
    pieces: list[str] = []
    after_item = False
    for block in blocks:
        if pieces:
            pieces.append("\n" if after_item and block.is_item else "\n\n")
        pieces.append(block.text)
        after_item = block.is_item
    return "".join(pieces)


def read_blocks(html: str) -> PageBlocks:
    """Parse a page; any page, in bounded time."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(bounded(html))
    reader = _Reader()
    title = tree.css_first("head > title")
    if title is not None:
        reader.page.title = " ".join(title.text().split()) or None
    root = tree.body or tree.root
    # Nodes to visit, and the names of elements to close once what they hold has been visited.
    stack: list[LexborNode | str] = [] if root is None else [root]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            reader.close(node)
            continue
        if node is not root:
            following = node.next
            if following is not None:
                stack.append(following)
        tag = node.tag or ""
        if tag == "-text":
            reader.add(node.text_content or "")
            continue
        if tag in _UNSEEN:
            continue
        attributes = node.attributes
        if tag in _BLOCKS:
            reader.open(tag, attributes)
            stack.append(tag)
        elif tag == "br":
            reader.pieces.append(_BREAK)
            continue
        elif tag == "math":
            reader.add(_formula(node))
            continue
        elif attributes and reader.unseen(attributes):
            continue
        elif tag == "a":
            reader.link_depth += 1
            stack.append(tag)
        child = node.first_child
        if child is not None:
            stack.append(child)
    reader.flush()
    return reader.page


class _Reader:
    """Gathers the text of a page block by block while its elements are opened and closed."""

    def __init__(self) -> None:
        self.page = PageBlocks()
        self.pieces: list[str] = []
        self.link_depth = 0
        self.link_characters = 0
        self.code_depth = 0
        self.current = -1
        self.row_pieces = 0  # of the pieces, those of earlier cells of the same row
        self.lists: list[int] = []  # numbers of the next items; 0 where they have none
        self.unseen_classes: dict[str, bool] = {}
        self.mark = ""  # to be set before the first block of an item

    def add(self, text: str) -> None:
        if not self.pieces and not self.code_depth and text.isspace():
            return
        self.pieces.append(text)
        if self.link_depth:
            self.link_characters += len(text.strip())

    def unseen(self, attributes: dict[str, str | None]) -> bool:
        """Whether an element within a line shows nothing, or nothing that belongs to the text."""
        if _hidden(attributes):
            return True
        classes = attributes.get("class")
        if not classes:
            return False
        if classes not in self.unseen_classes:
            found = _UNSEEN_INLINE.search(classes.lower())
            self.unseen_classes[classes] = found is not None
        return self.unseen_classes[classes]

    def open(self, tag: str, attributes: dict[str, str | None]) -> None:
        page = self.page
        is_cell = tag in ("td", "th")
        if self.code_depth:
            # Lines of code in elements of their own.
            if self.pieces and not self.pieces[-1].endswith("\n"):
                self.pieces.append(" " if is_cell else "\n")
        elif self.pieces and not is_cell:
            self.flush()
        if tag in ("ul", "ol", "menu", "dir"):
            self.lists.append(1 if tag == "ol" else 0)
        elif tag == "li":
            self._open_item()
        elif tag == "pre":
            self.code_depth += 1
        elif is_cell and self.pieces and not self.code_depth:
            self.pieces.append(" | ")
        self.row_pieces = len(self.pieces)
        names, hidden = (_names(attributes), _hidden(attributes)) if attributes else ("", False)
        page.elements.append(Element(tag, self.current, names, hidden, len(page.blocks)))
        self.current = len(page.elements) - 1

    def close(self, tag: str) -> None:
        if tag == "a":
            self.link_depth -= 1
            return
        element = self.page.elements[self.current]
        if self.code_depth and tag != "pre":
            pass
        elif tag not in ("td", "th") or len(self.page.blocks) > element.start:
            self.flush()
        elif self._is_column():
            self._part_column(element)
        element.end = len(self.page.blocks)
        self.current = element.parent
        if tag == "pre":
            self.code_depth -= 1
        elif tag in ("ul", "ol", "menu", "dir"):
            self.lists.pop()
        elif tag == "li":
            self.mark = ""

    def flush(self) -> None:
        """End the block that is being gathered."""
        if not self.pieces:
            return
        text = _code(self.pieces) if self.code_depth else _text(self.pieces)
        self.pieces.clear()
        self.row_pieces = 0
        if text.strip(" |"):  # rows of empty cells say nothing
            tag = self.page.elements[self.current].tag if self.current >= 0 else ""
            links = min(self.link_characters, len(text))
            block = Block(self.mark + text, links, self.current, bool(self.lists), tag in _ITEMS)
            block.is_item = block.is_item or bool(self.mark)
            self.page.blocks.append(block)
            self.mark = ""
        self.link_characters = 0

    def _open_item(self) -> None:
        indent = "  " * (len(self.lists) - 1)
        number = self.lists[-1] if self.lists else 0
        self.mark = f"{indent}{number}. " if number else f"{indent}- "
        if number:
            self.lists[-1] += 1

    def _is_column(self) -> bool:
        cell = self.pieces[self.row_pieces :]
        return _BREAK in cell or sum(map(len, cell)) > CELL_CHARACTERS

    def _part_column(self, element: Element) -> None:
        """Make blocks of a cell and of the cells before it."""
        cell = self.pieces[self.row_pieces :]
        del self.pieces[max(0, self.row_pieces - 1) :]  # with the bar before the cell
        self.current, inside = element.parent, self.current
        self.flush()
        self.current, element.start = inside, len(self.page.blocks)
        self.pieces = cell
        self.flush()


def _hidden(attributes: dict[str, str | None]) -> bool:
    if _HIDING_ATTRIBUTES.isdisjoint(attributes):
        return False
    # What is hidden "until-found" opens when it is searched for; it is text like any other.
    return (
        attributes.get("aria-hidden") == "true"
        or attributes.get("hidden", "until-found") != "until-found"
        or _HIDING_STYLE.search(attributes.get("style") or "") is not None
    )


def _names(attributes: dict[str, str | None]) -> str:
    get = attributes.get
    return f"{get('class') or ''} {get('id') or ''} {get('role') or ''}".strip().lower()


def _formula(node: "LexborNode") -> str:
    """The TeX that a formula was made from, or its characters."""
    tex = node.attributes.get("alttext")
    if not tex:
        annotation = node.css_first('annotation[encoding="application/x-tex"]')
        tex = (annotation if annotation is not None else node).text()
    return " ".join(tex.split())


def _code(pieces: list[str]) -> str:
    text = "".join(pieces).replace(_BREAK, "\n").replace("\r\n", "\n")
    return text.strip("\n").rstrip()


def _text(pieces: list[str]) -> str:
    """White space as a browser shows it; two breaks or more are a blank line."""
    raw = "".join(pieces)
    if _BREAK not in raw:
        return " ".join(raw.split()).removesuffix(" |")  # the bar before a cell of paragraphs
    lines = [" ".join(line.split()) for line in raw.split(_BREAK)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")

"""The main text of a web page: `extract_page`.

Paragraphs are parted by a blank line, items of a list and rows of a table by a new line; code keeps
its lines. Any bytes give a page, in bounded time and memory: see `page_bounds`.
"""

from dataclasses import dataclass

from llmstages.collect.pages.blocks import joined, read_blocks
from llmstages.collect.pages.bounds import MAX_PAGE_BYTES
from llmstages.collect.pages.encoding import decode_page
from llmstages.collect.pages.main_text import blocks_outside_asides, main_blocks

SHORT_CHARACTERS = 200
"""Main text shorter than this is compared with all that is not navigation."""
TINY_CHARACTERS = 50
"""And text shorter than this with all there is."""


@dataclass(frozen=True)
class Page:
    """What was found in a page."""

    text: str
    title: str | None
    encoding: str
    """Name of the Python codec that the page was read with."""


def extract_page(data: bytes, charset: str | None = None, url: str | None = None) -> Page:
    """The main text of a page; `charset` is what its server says, `url` changes nothing today.

    Where the main text is short and there is more than twice as much besides, the page is no
    article: a table of contents, a form, a tiny page. Then the text is all that is not navigation,
    or, where there is next to nothing else, all there is.
    """
    html, encoding = decode_page(data[:MAX_PAGE_BYTES], charset)
    page = read_blocks(html)
    text = joined(main_blocks(page))
    if len(text) < SHORT_CHARACTERS:
        text = _longer(text, joined(blocks_outside_asides(page)))
    if len(text) < TINY_CHARACTERS:
        text = _longer(text, joined(page.blocks))
    return Page(text, page.title, encoding)


def visible_text(html: str) -> str:
    """All text of a page, hidden parts too."""
    return joined(read_blocks(html).blocks)


def _longer(text: str, wider: str) -> str:
    return wider if len(wider) > 2 * len(text) else text

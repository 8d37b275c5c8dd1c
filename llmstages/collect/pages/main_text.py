"""Which blocks of a page are its main text.

Menus, teasers and footers differ from prose in few ways: their blocks are short and mostly links
(Kohlschütter, Fankhauser & Nejdl 2010, "Boilerplate detection using shallow text features"), and
their elements say in their names what they are, the sign that Readability made known. Three steps
rest on that:

1. Elements that call themselves something else than the text are left out, unless most of the
   prose is in them: names are sometimes wrong.
2. From the body down, step into the child that holds nearly all of the prose, until none does.
3. In there, leave out lists and boxes of links.
"""

import re
from collections.abc import Sequence
from itertools import accumulate

from llmstages.collect.pages.blocks import HEADINGS, Block, PageBlocks

# Chosen on 91 pages of scrapinghub's article extraction benchmark and 50 of mozilla/readability,
# and tested on the others; F1 moves by less than 0.01 where one of them changes by a fifth.
PROSE_BYTES = 60
"""A block with less text outside of links is no prose. In UTF-8, where CJK weighs threefold."""
LIST_WEIGHT = 0.1
"""Prose in lists counts little: long lists of teasers stand beside short articles."""
MAX_ASIDE_SHARE = 0.5
"""An element with more of the prose is the text, whatever it calls itself."""
MIN_MAIN_SHARE = 0.75
"""The child that is stepped into holds at least this share of the prose."""
MAX_LINK_SHARE = 0.5
"""A box with more link text than this is a box of links, unless much prose is in it."""
MAX_LINK_SHARE_OF_BLOCK = 0.8
"""The same of a single paragraph: "Read more: ..."."""
MIN_BOX_SHARE = 0.1
"""So much of the prose saves a box of links."""

_ASIDE_TAGS = frozenset(("nav", "aside", "footer", "form", "menu", "dialog", "figcaption"))
_NEVER_ASIDE = frozenset(("html", "body", "article", "main", "blockquote", "pre"))
# What elements of pages call themselves that are not the text, at the start of a word.
_ASIDE_NAMES = re.compile(
    r"(?<![a-z])(?:"
    # ways around and away
    r"(?:nav|toc)(?![a-z])|navi|nav-?bar|menu|breadcrumb|paginat|pager|jump|skip|listing|side-?bar"
    r"|dropdown|toolbar|masthead|foot|line-?no|gutter(?![a-z])"
    # other texts
    r"|related|recommend|read-?also|more[-_]|most[-_]|popular|trending|teaser|outbrain|taboola"
    # readers
    r"|comment|disqus|discuss|respond|repl(?:y|ies)|shar(?:e|ing)|social|login|sign-?up"
    r"|subscri|newsletter|donat"
    # what is for sale, and law
    r"|(?:ads?|adv|cta)(?![a-z])|advert|sponsor|promo|banner|cookie|consent|gdpr|legal|copyright"
    # about the text
    r"|(?:rss|bio|tags?|meta)(?![a-z])|author|byline|dateline|timestamp|posted|credit|caption"
    r"|correction|print|editsection|noprint"
    # machinery
    r"|widget|popup|modal|overlay|tooltip|visually-?hidden|screen-reader|sr-only"
    r")"
)
_PARAGRAPHS = HEADINGS | frozenset(
    ("p", "pre", "li", "th", "dd", "dt", "blockquote", "caption", "address")
)
_LISTS = frozenset(("table", "thead", "tbody", "tfoot", "tr", "ul", "ol", "dl", "menu"))
_BOXES = frozenset(("div", "section", "ul", "ol", "dl", "table", "tr", "td"))


def main_blocks(page: PageBlocks) -> list[Block]:
    """The blocks of the main text; none where there is no prose."""
    prose = [_prose_bytes(block) for block in page.blocks]
    if not any(prose):
        return []
    kept = _leave_asides_out(page, prose)
    prose = [value if keep else 0.0 for value, keep in zip(prose, kept, strict=True)]
    before = _running_sums(prose)
    place = _main_element(page, before)
    main = page.elements[place]
    _leave_links_out(page, place, before, kept)
    return [page.blocks[index] for index in range(main.start, main.end) if kept[index]]


def blocks_outside_asides(page: PageBlocks) -> list[Block]:
    """All blocks but those of elements that call themselves something else than the text."""
    kept = [True] * len(page.blocks)
    for start, end, _ in _asides(page):
        kept[start:end] = [False] * (end - start)
    return [block for block, keep in zip(page.blocks, kept, strict=True) if keep]


def _prose_bytes(block: Block) -> float:
    """How much a block speaks for being in the main text."""
    unlinked = 1 - 2 * block.link_characters / len(block.text)
    size = len(block.text.encode("utf-8", "replace")) * max(0.0, unlinked)
    if size < PROSE_BYTES:
        return 0.0
    return size * LIST_WEIGHT if block.in_list else size


def _asides(page: PageBlocks) -> list[tuple[int, int, bool]]:
    """Start and end of the elements that seem not to be the text, and whether they are hidden."""
    seen: dict[str, bool] = {"": False}
    found = []
    for element in page.elements:
        if element.end == element.start or element.tag in _NEVER_ASIDE:
            continue
        named = seen.get(element.names)
        if named is None:
            named = seen[element.names] = _ASIDE_NAMES.search(element.names) is not None
        if named or element.hidden or element.tag in _ASIDE_TAGS:
            found.append((element.start, element.end, element.hidden))
    return found


def _leave_asides_out(page: PageBlocks, prose: Sequence[float]) -> list[bool]:
    """For each block whether it is kept.

    The smallest go first, so that the last are compared with what can really be the text. What
    is hidden is kept only where there is nothing else.
    """
    kept = [True] * len(page.blocks)
    left = list(prose)
    total = sum(left)
    before = _running_sums(prose)
    for start, end, hidden in sorted(_asides(page), key=lambda aside: _between(before, *aside[:2])):
        inside = sum(left[start:end])
        if inside < total if hidden else inside <= MAX_ASIDE_SHARE * total:
            total -= inside
            left[start:end] = [0.0] * (end - start)
            kept[start:end] = [False] * (end - start)
    return kept


def _main_element(page: PageBlocks, before: Sequence[float]) -> int:
    """The innermost element that holds nearly all of the prose."""
    elements = page.elements
    place = 0
    for index in range(1, len(elements)):
        # Elements stand in the order in which they begin: the children of `place` come later.
        element = elements[index]
        if element.parent != place or element.tag in _PARAGRAPHS:
            continue
        main = elements[place]
        inside = _between(before, element.start, element.end)
        if inside and inside >= MIN_MAIN_SHARE * _between(before, main.start, main.end):
            place = index
    while elements[place].tag in _LISTS:
        place = elements[place].parent
    return place


def _leave_links_out(
    page: PageBlocks, place: int, before: Sequence[float], kept: list[bool]
) -> None:
    """Drop boxes and paragraphs that are mostly links."""
    characters = _running_sums([len(block.text) for block in page.blocks])
    links = _running_sums([block.link_characters for block in page.blocks])
    main = page.elements[place]
    prose = _between(before, main.start, main.end)
    for element in page.elements[place + 1 :]:
        start, end = element.start, element.end
        if start >= main.end:
            break
        if (
            element.tag in _BOXES
            and _between(links, start, end) > MAX_LINK_SHARE * _between(characters, start, end)
            and _between(before, start, end) <= MIN_BOX_SHARE * prose
        ):
            kept[start:end] = [False] * (end - start)
    for index in range(main.start, main.end):
        block = page.blocks[index]
        if (
            block.link_characters > MAX_LINK_SHARE_OF_BLOCK * len(block.text)
            and page.elements[block.element].tag not in HEADINGS
        ):
            kept[index] = False


def _running_sums(values: Sequence[float]) -> list[float]:
    """Sums of all values before each place, the end included."""
    return list(accumulate(values, initial=0.0))


def _between(sums: Sequence[float], start: int, end: int) -> float:
    return sums[end] - sums[start]

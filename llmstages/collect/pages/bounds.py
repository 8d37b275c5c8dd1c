"""Bounds on what a page can cost to parse.

An HTML5 parser must accept anything, and some of what it must accept costs time or memory that
grows with the square of the page: elements nested a hundred thousand deep, a tag with as many
attributes, formatting that is never closed and so begins anew in each paragraph. Browsers have
limits of their own there; the parser used here has none. So formatting, which adds nothing to the
text, is taken off every page, and a page that looks like trouble is rewritten, in one pass: its
text stays, markup beyond the bounds goes.
"""

import re
from collections.abc import Iterator

MAX_PAGE_BYTES = 10 * 2**20
"""What lies behind is not read; the largest sound pages, whole books, have some megabytes."""
MAX_TAGS = 500_000
"""The page ends there: two nodes a tag at some 150 bytes each are 150 MB."""
MAX_DEPTH = 512
"""Blink's limit too. Tags opened further down are left out."""
MAX_TAG_CHARACTERS = 4096
"""A longer tag keeps its name only, in a page that is rewritten."""
MAX_COMPARISONS = 10**8
"""Of attributes with each other, in long tags: some tenths of a second."""
TRUSTED_TAGS = 8000
"""With no more, depth may be what it likes. Nearly all pages have fewer."""
TRUSTED_CHARACTERS = 2**16
"""With no more, so may attributes."""

# Inside a tag, a quote hides a ">" where it follows "=". Possessive, so that time stays linear.
_INSIDE = r"""(?>=\s*+(?>"[^"]*+"|'[^']*+')?+|[^=>]++)*+"""
_TAG = re.compile(f"<[a-zA-Z]{_INSIDE}")
_FORMATTING = re.compile(
    rf"<(?=/?[bcefinstuBCEFINSTU])/?(?i:b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)"
    rf"(?![^\s/>]){_INSIDE}>?"
)
_MARKUP = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(?P<raw>script|style|xmp|iframe|noembed|noframes)\b.*?(?:</(?P=raw)\b[^>]*>?|\Z)"
    rf"|<(?P<end>/?)(?P<name>[a-zA-Z][\w:-]*){_INSIDE}>?",
    re.S | re.I,
)
# Elements without content, and elements that the next of their kind closes.
_FLAT = frozenset(
    (
        *("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param"),
        *("source", "track", "wbr", "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody"),
        *("tfoot", "caption", "colgroup", "option", "optgroup", "rb", "rt", "rp", "rtc"),
        *("html", "head", "body"),
    )
)


def bounded(html: str) -> str:
    """The page without formatting tags, and where need be within the bounds."""
    html = _FORMATTING.sub("", html)
    if html.count("<") <= TRUSTED_TAGS:
        if len(html) <= TRUSTED_CHARACTERS:
            return html
        long_tags = (tag for tag in _TAG.findall(html) if len(tag) > MAX_TAG_CHARACTERS)
        if sum(_most_attributes(tag) ** 2 for tag in long_tags) <= MAX_COMPARISONS:
            return html
    return "".join(_rewritten(html))


def _most_attributes(tag: str) -> int:
    """No more attributes than this are in a tag: white space, slashes and quotes part them."""
    return len(tag.split()) + tag.count("/") + tag.count('"') + tag.count("'")


def _rewritten(html: str) -> Iterator[str]:
    depth, position = 0, 0
    for num_tags, match in enumerate(_MARKUP.finditer(html)):
        yield html[position : match.start()]
        position = match.end()
        if num_tags == MAX_TAGS:
            return
        if match["name"] is None:
            continue  # comments and scripts hold no text
        name, tag = match["name"].lower(), match[0]
        if len(tag) > MAX_TAG_CHARACTERS:
            tag = f"<{match['end']}{name}>"
        if name in _FLAT:
            yield tag
        elif match["end"]:
            depth = max(0, depth - 1)
            yield tag if depth < MAX_DEPTH else " "
        elif tag.endswith("/>"):
            yield f"{tag}</{name}>"
        else:
            depth += 1
            yield tag if depth <= MAX_DEPTH else " "
    yield html[position:]

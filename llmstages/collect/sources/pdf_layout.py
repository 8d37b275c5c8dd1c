"""Lines of a PDF's pages put together to paragraphs.

A PDF knows where a line stands, and nothing of paragraphs. What repeats at the head or foot of the
pages goes; lines of a paragraph are joined; a word cut in two at the end of a line is mended.
"""

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from statistics import median

# A line of a page's head or foot goes when it comes again, numbers apart, on this share of the
# pages: less than half, as the left and the right page often differ.
REPEATED_SHARE = 0.4
# Lines of a page that may be its head, and as many its foot.
EDGE_LINES = 3
# A gap this much wider than the usual distance of lines begins a paragraph.
GAP_RATIO = 1.35
# Letters this much larger than those of the line before belong to a heading.
HEADING_RATIO = 1.15
# A line that ends this far left of its column's right edge was ended on purpose.
SHORT_LINE_SHARE = 0.75

_NUMBERS = re.compile(r"\d+|\b[ivxlc]+\b", re.IGNORECASE)
# pdfium writes U+0002 for a hyphen that it takes for the cut of a word.
_CUT = "\x02\xad\ufffe"
_HYPHENS = f"-‐{_CUT}"
_SENTENCE_END = tuple(".!?:。！？”\"')")


@dataclass(frozen=True)
class Line:
    """A line of a page as it stands in the file's order; y grows upwards, in points."""

    text: str
    left: float
    right: float
    baseline: float
    height: float
    """From the deepest to the highest a letter of its font may reach."""


def without_repeated_edges(pages: list[list[Line]]) -> list[list[Line]]:
    """The pages without running heads, feet and page numbers."""
    counts: Counter[tuple[str, str]] = Counter()
    for page in pages:
        counts.update({(edge, key) for edge, lines in _edges(page) for _, key in lines})
    least = max(2, round(REPEATED_SHARE * len(pages)))
    kept: list[list[Line]] = []
    for page in pages:
        repeated: set[int] = set()
        for edge, lines in _edges(page):
            for number, key in lines:  # from the outermost line inwards
                if counts[edge, key] < least:
                    break
                repeated.add(number)
        kept.append([line for number, line in enumerate(page) if number not in repeated])
    return kept


def _edges(page: list[Line]) -> list[tuple[str, list[tuple[int, str]]]]:
    """The outermost lines at head and foot: their numbers, and what they are compared by."""
    order = sorted(range(len(page)), key=lambda number: -page[number].baseline)
    return [
        (edge, [(number, _folded(page[number].text)) for number in numbers])
        for edge, numbers in (("head", order[:EDGE_LINES]), ("foot", order[::-1][:EDGE_LINES]))
    ]


def _folded(text: str) -> str:
    return " ".join(_NUMBERS.sub("#", text).casefold().split())


def paragraphs_of(page: list[Line]) -> list[str]:
    """The text of a page, paragraph by paragraph."""
    paragraphs: list[str] = []
    pitch = _line_distance(page)
    begin = 0
    for end in range(1, len(page) + 1):
        if end < len(page) and not _begins_block(page[end - 1], page[end], pitch):
            continue
        block = _block_paragraphs(page[begin:end])
        if block and paragraphs and begin and _is_next_column(page[begin - 1], page[begin]):
            # The next column goes on where this one stopped, in the middle of a sentence or not.
            if not paragraphs[-1].endswith(_SENTENCE_END):
                paragraphs[-1] = join_lines(paragraphs[-1], block.pop(0))
        paragraphs += block
        begin = end
    return paragraphs


def _line_distance(page: list[Line]) -> float:
    """Usual distance from one line to the next."""
    steps = [
        above.baseline - below.baseline
        for above, below in itertools.pairwise(page)
        if 0.5 * above.height < above.baseline - below.baseline < 3 * above.height
    ]
    return median(steps) if steps else 0.0


def _is_next_column(above: Line, below: Line) -> bool:
    """Whether a line stands higher than the one before it."""
    return below.baseline - above.baseline > 0.5 * above.height


def _begins_block(above: Line, below: Line, pitch: float) -> bool:
    """Whether a line begins anew: after a gap, in another column, or in other letters."""
    if _is_next_column(above, below):
        return True
    large, small = max(above.height, below.height), min(above.height, below.height)
    # Fonts of one size differ in height; a small letter does not begin anything.
    if large > HEADING_RATIO * small and not below.text.lstrip()[:1].islower():
        return True
    return above.baseline - below.baseline > GAP_RATIO * max(pitch, small)


def _block_paragraphs(block: list[Line]) -> list[str]:
    """Paragraphs of lines that stand close together: an indented line begins one."""
    if not block:
        return []
    right = max(line.right for line in block)
    paragraphs: list[str] = []
    text = ""
    for number, line in enumerate(block):
        piece = line.text.strip()
        if not piece:
            continue
        above = block[number - 1] if number else None
        if not text or above is None:
            text = piece if not text else join_lines(text, piece)
        elif above.right - above.left < SHORT_LINE_SHARE * (right - above.left):
            # Ended on purpose: the end of a paragraph, verse, a list, a heading.
            if _is_indented(above, line) or text.endswith(_SENTENCE_END):
                paragraphs.append(text)
                text = piece
            elif text[-1] in _CUT:
                text = join_lines(text, piece)
            else:
                text += "\n" + piece
        elif _is_indented(above, line) and text.endswith(_SENTENCE_END):
            paragraphs.append(text)
            text = piece
        else:
            text = join_lines(text, piece)
    return [*paragraphs, text] if text else paragraphs


def _is_indented(above: Line, line: Line) -> bool:
    return 0.8 <= (line.left - above.left) / max(line.height, 1) <= 6


def join_lines(text: str, following: str) -> str:
    """Two lines of a paragraph as one, a word that was cut in two mended.

    Only a small letter, a hyphen, and a small letter again are taken for a cut word; of "mother-"
    and "in-law" the hyphen stays, as "in-law" has one itself.
    """
    text, following = text.rstrip(), following.lstrip()
    if text[-1:] in _HYPHENS and text[-2:-1].strip() and following:
        before, after = text[-2], following[0]
        if text[-1] in _CUT or (before.islower() and after.islower()):
            first_word = following.split(maxsplit=1)[0]
            keeps_hyphen = "-" in first_word.strip("-")
            return text[:-1] + ("-" if keeps_hyphen else "") + following
        return text + following
    return f"{text} {following}" if text else following


def join_pages(pages: list[list[str]]) -> str:
    """All paragraphs, one that runs over the end of a page joined."""
    paragraphs: list[str] = []
    for page in pages:
        for number, paragraph in enumerate(page):
            if number == 0 and paragraphs and _runs_on(paragraphs[-1], paragraph):
                paragraphs[-1] = join_lines(paragraphs[-1], paragraph)
            else:
                paragraphs.append(paragraph)
    return "\n\n".join(paragraphs).translate(dict.fromkeys(map(ord, _CUT)))


def _runs_on(above: str, below: str) -> bool:
    """Whether a page's last paragraph goes on with the next page's first."""
    return below[0].islower() and above.rstrip()[-1:] not in ".!?:;"

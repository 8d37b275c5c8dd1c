"""The measures of a document's quality, taken of a batch of documents at once.

"Words" of the published measures are tokens (see `tokens`), with punctuation where a
share is of all of them, without it for their mean length. `words` itself is what stands between
spaces, as the size of a corpus is given. Lines are those with something in them, without space at
their end. A share of nothing is 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstages.collect.quality.repetition import DUPLICATE_NGRAMS, TOP_NGRAMS, repetition
from llmstages.collect.quality.tokens import (
    LETTER,
    NOT_PUNCTUATION,
    NOT_SYMBOL,
    SENTENCE_END,
    Tokens,
    tokenize,
)
from llmstages.collect.quality.word_rules import SENTENCE_ENDS

COUNTS = ("words", "bytes")
"""Whole numbers: what stands between spaces, and UTF-8 bytes."""

_OF_LINES = (
    "symbols",
    "bullet_lines_share",
    "ellipsis_lines_share",
    "lorem_ipsum",
    "curly_brackets",
    "duplicate_lines_share",
    "duplicate_paragraphs_share",
    "duplicate_lines_characters_share",
    "duplicate_paragraphs_characters_share",
    "punctuated_lines_share",
    "short_lines_share",
    "repeated_lines_characters_share",
    "newlines",
)
_OF_TOKENS = (
    "sentences",
    "mean_word_length",
    "symbol_word_ratio",
    "alphabetic_words_share",
    "stop_words",
    "newlines_per_word",
    "replacement_share",
)
STATISTICS: tuple[str, ...] = (
    "words",
    *_OF_TOKENS,
    *(name for name in _OF_LINES if name not in ("symbols", "newlines")),
    *(f"top_{n}gram_share" for n in TOP_NGRAMS),
    *(f"duplicate_{n}gram_share" for n in DUPLICATE_NGRAMS),
)
"""What rules can be about."""

COLUMNS: tuple[str, ...] = (*COUNTS, *(name for name in STATISTICS if name not in COUNTS))
"""Of the table: `COUNTS` as int64, the others as float64."""

OF_WHAT_IS_LEFT = frozenset(
    (
        *(*COUNTS, "sentences", "lorem_ipsum", "curly_brackets", "replacement_share"),
        *("punctuated_lines_share", "short_lines_share", "repeated_lines_characters_share"),
        "newlines_per_word",
    )
)
"""Measures of C4 and FineWeb, taken after lines are taken out; Gopher's are taken before."""

SLICE_CHARACTERS = 1_000_000
"""Text measured at a time: the arrays stay in the processor's cache."""

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = frozenset("-*•‣▪●◦·")
SHORT_LINE_CHARACTERS = 30
"""Of FineWeb's share of short lines."""

Values = NDArray[np.float64]


def measure(texts: Sequence[str], broken_characters: Values) -> dict[str, NDArray[Any]]:
    """An array with one value a text for each of `COUNTS` and `STATISTICS`.

    `broken_characters` [texts] are those counted before the text was repaired.
    """
    parts = []
    start = size = 0
    for end, text in enumerate(texts, start=1):
        size += len(text)
        if size >= SLICE_CHARACTERS or end == len(texts):
            parts.append(_measure(texts[start:end], broken_characters[start:end]))
            start, size = end, 0
    if not parts:
        return {name: np.zeros(0, np.int64 if name in COUNTS else np.float64) for name in COLUMNS}
    return {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}


def measure_both(
    texts: Sequence[str], cleaned: Sequence[str], broken_characters: Values
) -> dict[str, NDArray[Any]]:
    """`measure` of the cleaned texts, but Gopher's measures of the texts with all their lines.

    This is the order in which FineWeb was made: Gopher's filters, then C4's, which takes lines out,
    then its own.
    """
    result = measure(cleaned, broken_characters)
    rows = [row for row, text in enumerate(texts) if text != cleaned[row]]
    if rows:
        whole = measure([texts[row] for row in rows], broken_characters[rows])
        for name in whole.keys() - OF_WHAT_IS_LEFT:
            result[name][rows] = whole[name]
    return result


def _measure(texts: Sequence[str], broken_characters: Values) -> Mapping[str, NDArray[Any]]:
    tokens = tokenize(texts)
    of_lines = np.array([_measure_lines(text) for text in texts], dtype=np.float64)
    columns = dict(zip(_OF_LINES, of_lines.reshape(len(texts), len(_OF_LINES)).T, strict=True))
    symbols, newlines = columns.pop("symbols"), columns.pop("newlines")

    is_word = (tokens.flags & NOT_SYMBOL) != 0
    num_tokens = np.diff(tokens.first).astype(np.float64)
    num_words = _per_document(tokens, is_word)
    return {
        "words": tokens.words,
        "bytes": tokens.bytes,
        "sentences": _sentences(tokens),
        "mean_word_length": _ratio(_per_document(tokens, tokens.length * is_word), num_words),
        "symbol_word_ratio": _ratio(symbols, num_tokens),
        "alphabetic_words_share": _ratio(
            _per_document(tokens, (tokens.flags & LETTER) != 0), num_tokens
        ),
        "stop_words": _stop_words(tokens),
        "newlines_per_word": _ratio(newlines, num_tokens),
        "replacement_share": _ratio(broken_characters, tokens.characters),
        **columns,
        **repetition(tokens),
    }


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Values:
    """`part / whole`; 0 where there is nothing to measure."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)


def _per_document(tokens: Tokens, values: NDArray[Any]) -> Values:
    """The sum over each document's tokens."""
    upto = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    return np.diff(upto[tokens.first])


def _stop_words(tokens: Tokens) -> Values:
    """How many different ones of the stop words a document has, as they are written above."""
    found = np.zeros(len(tokens.words))
    for word in STOP_WORDS:
        key = np.uint64(int.from_bytes(word.encode(), "little"))
        found += np.diff(np.searchsorted(np.flatnonzero(tokens.key == key), tokens.first)) > 0
    return found


def _sentences(tokens: Tokens) -> Values:
    """Each line starts one, and so does the first word after an end mark within a line."""
    is_end = (tokens.length == 1) & ((tokens.flags & SENTENCE_END) != 0)
    begins = (tokens.flags & NOT_PUNCTUATION) != 0
    telling = np.flatnonzero(is_end | begins | tokens.opens_line)
    starts = np.array(tokens.opens_line)
    starts[telling[1:]] |= is_end[telling[:-1]] & begins[telling[1:]]
    return _per_document(tokens, starts)


def _measure_lines(text: str) -> tuple[float, ...]:
    """The measures `_OF_LINES` of one text. Plain Python: a text has few lines."""
    lines = [line for raw in text.split("\n") if (line := raw.rstrip())]
    different = set(lines)
    num_lines = max(len(lines), 1)
    num_characters = max(len(text), 1)
    newlines = text.count("\n")
    repeated = 0
    if len(different) < len(lines):
        repeated = sum(map(len, lines)) - sum(map(len, different))
    duplicate_paragraphs, paragraph_characters = _duplicate_paragraphs(text)
    has_latin = "psum" in text or "PSUM" in text
    return (
        max(text.count("#"), text.count("...") + text.count("…")),
        sum([line.lstrip()[0] in BULLETS for line in lines]) / num_lines,
        sum([line.endswith(("...", "…")) for line in lines]) / num_lines,
        text.lower().count("lorem ipsum") if has_latin else 0,
        text.count("{"),
        (len(lines) - len(different)) / num_lines,
        duplicate_paragraphs,
        repeated / num_characters,
        paragraph_characters / num_characters,
        sum([line[-1] in SENTENCE_ENDS for line in lines]) / num_lines,
        sum([len(line) <= SHORT_LINE_CHARACTERS for line in lines]) / num_lines,
        repeated / max(len(text) - newlines, 1),
        newlines,
    )


def _duplicate_paragraphs(text: str) -> tuple[float, int]:
    """Share of the paragraphs that repeat an earlier one, and characters in these."""
    if "\n\n" not in text:
        return 0.0, 0
    paragraphs = [part for raw in text.split("\n\n") if (part := raw.strip())]
    different = set(paragraphs)
    repeated = sum(map(len, paragraphs)) - sum(map(len, different))
    return (len(paragraphs) - len(different)) / max(len(paragraphs), 1), repeated

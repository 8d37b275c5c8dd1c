"""Word tokens of a batch of documents, by numpy over the bytes of all of them at once.

Published measures of quality count tokens: words with punctuation split off them. The rules for it
(`word_rules`) only see what they could cut: nine in ten words are letters alone,
or letters and a comma. Scripts without spaces give long tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import blake2b
from itertools import accumulate, chain
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from llmstages.collect.quality.word_rules import LONGEST_WHOLE_WORD, SENTENCE_ENDS, split_word

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Flags = NDArray[np.uint8]

# Properties of a character, one bit each; a token has those of all its characters together.
SPACE = 1 << 0
LETTER = 1 << 1
DIGIT = 1 << 2
LOWER = 1 << 3
ODD = 1 << 4
"""Neither space nor letter nor digit: here a word may be cut."""
SENTENCE_END = 1 << 5
NOT_PUNCTUATION = 1 << 6
"""Not of Unicode's categories P."""
NOT_SYMBOL = 1 << 7
"""Neither punctuation nor an ASCII symbol: a token with such a character is a word."""

_PADDING_BYTES = 8
_LONG_WORD_BYTES = 64
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
LONGEST_CUT_BYTES = 400
"""A longer word stays whole: it is no word, and the rules would take long."""
_TABLE_SIZE = 0x20000
"""Code points with properties of their own; above are rare ideographs, taken for letters."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of all documents in order; one entry a token unless said otherwise."""

    document: Ints
    """Index of the token's document."""
    first: Ints
    """First token of each document, then the number of all: one entry more than documents."""
    key: Hashes
    """Equal for equal tokens; of tokens of eight bytes or fewer their bytes."""
    length: Ints
    """Characters."""
    flags: Flags
    """Properties of its characters."""
    opens_line: Bools
    """Whether it is the first of its line."""
    words: Ints
    """One entry a document: what stands between spaces."""
    characters: Ints
    """One entry a document."""
    bytes: Ints
    """One entry a document, in UTF-8."""


def tokenize(texts: Sequence[str]) -> Tokens:
    """The tokens of each text."""
    encoded = [text.encode("utf-8") for text in texts]
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    # A space between texts: no word touches the next text. Words are read eight bytes at a time.
    buffer = b" " + b" ".join(encoded) + b" " * _PADDING_BYTES
    text_starts = np.concatenate(([0], np.cumsum(sizes + 1))) + 1
    data = np.frombuffer(buffer, dtype=np.uint8)
    flags = _flag_table()[data]
    ascii_only = sum(map(len, texts)) == int(sizes.sum())
    if not ascii_only:
        _set_wide_flags(data, flags)

    space = (flags & SPACE) != 0
    edges = np.flatnonzero(space[1:] != space[:-1]) + 1
    starts, ends = edges[0::2], edges[1::2]
    words = np.diff(np.searchsorted(starts, text_starts))
    cuts = _cuts(buffer, data, flags, starts, ends)
    starts, ends = _merged(starts, cuts, len(data)), _merged(ends, cuts, len(data))

    if ascii_only:
        length, characters = ends - starts, sizes
    else:
        before = np.concatenate(([0], np.cumsum((data & 0xC0) != 0x80, dtype=np.int32)))
        length = before[ends] - before[starts]
        characters = np.diff(before[text_starts]) - 1
    first = np.searchsorted(starts, text_starts)
    opens_line = np.zeros(len(starts) + 1, dtype=np.bool_)
    opens_line[np.searchsorted(starts, np.flatnonzero(data == ord("\n")))] = True
    opens_line[first] = True
    return Tokens(
        document=np.repeat(np.arange(len(texts)), np.diff(first)),
        first=first,
        key=_keys(buffer, data, starts, ends),
        length=length,
        flags=_flags_between(flags, starts),
        opens_line=opens_line[:-1],
        words=words,
        characters=characters,
        bytes=sizes,
    )


@lru_cache(maxsize=50_000)
def _inner_cuts(word: bytes) -> tuple[int, ...]:
    """Where in a word a token ends and the next begins. Words come back, so this is remembered."""
    sizes = [len(token.encode("utf-8")) for token in split_word(word.decode("utf-8"))]
    return tuple(accumulate(sizes[:-1]))


def _cuts(buffer: bytes, data: NDArray[np.uint8], flags: Flags, starts: Ints, ends: Ints) -> Ints:
    """Where tokens end and begin within the words from `starts` to `ends`, in no order."""
    word_flags = _flags_between(flags, starts)
    uncertain = (word_flags & ODD) != 0
    uncertain |= (word_flags & (LETTER | DIGIT)) == LETTER | DIGIT  # "10km"
    uncertain &= ends - starts <= LONGEST_CUT_BYTES
    starts, ends = starts[uncertain], ends[uncertain]

    # The commonest case first: letters, and a comma or full stop at the end.
    last = ends - 1
    body = np.stack((starts, last), axis=1).ravel()
    body_flags = np.bitwise_or.reduceat(flags, body)[0::2] if len(body) else flags[:0]
    simple = ((body_flags & (ODD | DIGIT)) == 0) & (last - starts > LONGEST_WHOLE_WORD)
    is_stop = (data[last] == ord(".")) & ((flags[last - 1] & LOWER) != 0)
    simple &= (data[last] == ord(",")) | is_stop
    simple_cuts = last[simple]
    starts, ends = starts[~simple], ends[~simple]

    # The others by the rules, each different word once.
    _, examples, which = np.unique(
        _keys(buffer, data, starts, ends), return_index=True, return_inverse=True
    )
    spans = zip(starts[examples].tolist(), ends[examples].tolist(), strict=True)
    found = [_inner_cuts(buffer[start:end]) for start, end in spans]
    counts = np.fromiter(map(len, found), np.int64, len(found))
    offsets = np.fromiter(chain.from_iterable(found), np.int64, int(counts.sum()))
    repeats = counts[which]
    first = (np.cumsum(counts) - counts)[which]
    within = np.arange(int(repeats.sum())) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    rule_cuts = np.repeat(starts, repeats) + offsets[np.repeat(first, repeats) + within]
    return np.concatenate((simple_cuts, rule_cuts))


def _merged(ordered: Ints, others: Ints, size: int) -> Ints:
    """Both in order; all are different and below `size`. Faster than sorting them."""
    present = np.zeros(size, dtype=np.bool_)
    present[ordered] = True
    present[others] = True
    return np.flatnonzero(present)


def _keys(buffer: bytes, data: NDArray[np.uint8], starts: Ints, ends: Ints) -> Hashes:
    """A number for each stretch of bytes, equal for equal stretches."""
    if not len(starts):
        return np.zeros(0, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(data, 8)
    size = ends - starts
    masks = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)
    key: Hashes = windows[starts].view("<u8").ravel() & masks[np.minimum(size, 8)]
    longer = np.flatnonzero(size > 8)
    offset = 8
    while len(longer) and offset < _LONG_WORD_BYTES:
        part = windows[starts[longer] + offset].view("<u8").ravel()
        part &= masks[np.minimum(size[longer] - offset, 8)]
        mixed = (key[longer] ^ (key[longer] >> np.uint64(29))) * _MULTIPLIER
        key[longer] = mixed + part
        offset += 8
        longer = longer[size[longer] > offset]
    for index in longer.tolist():
        digest = blake2b(buffer[starts[index] : ends[index]], digest_size=8).digest()
        key[index] = int.from_bytes(digest, "little")
    return key


def _flags_between(flags: Flags, starts: Ints) -> Flags:
    """The properties from each start to the next, together; those of space never matter."""
    return np.bitwise_or.reduceat(flags, starts) if len(starts) else flags[:0]


def _properties(character: str) -> int:
    if character.isspace():
        return SPACE
    kind = category(character)
    punctuation = kind.startswith("P")
    flags = 0 if punctuation else NOT_PUNCTUATION
    if not (punctuation or kind == "Cc" or (character.isascii() and not character.isalnum())):
        flags |= NOT_SYMBOL
    if character.isalpha():
        flags |= LETTER | (LOWER if character.islower() else 0)
    elif character.isdigit():
        flags |= DIGIT
    elif not kind.startswith("M"):  # a mark is part of its letter
        flags |= ODD
    return flags | (SENTENCE_END if character in SENTENCE_ENDS else 0)


@cache
def _flag_table(size: int = 256) -> Flags:
    """The properties of the first code points; bytes above 127 are set later."""
    return np.array([_properties(chr(code)) for code in range(size)], dtype=np.uint8)


def _set_wide_flags(data: NDArray[np.uint8], flags: Flags) -> None:
    """Give all bytes of a character outside ASCII that character's properties."""
    lead = np.flatnonzero(data >= 0xC0)
    value = data[lead].astype(np.int32)
    width = 2 + (value >= 0xE0) + (value >= 0xF0)
    code = value & (0xFF >> (width + 1))
    for offset in (1, 2, 3):
        more = width > offset
        code[more] = (code[more] << 6) | (data[lead[more] + offset] & 0x3F)
    table = _flag_table(_TABLE_SIZE)
    found = np.where(
        code < _TABLE_SIZE,
        table[np.minimum(code, _TABLE_SIZE - 1)],
        np.uint8(LETTER | NOT_PUNCTUATION | NOT_SYMBOL),
    )
    for offset in range(4):
        more = width > offset
        flags[lead[more] + offset] = found[more]

"""How much a document repeats itself in runs of words (Rae et al. 2021, table A1).

For n-grams of two, three and four words: the share of characters in the commonest one. For five to
ten: the share of characters in repeated ones, where no character counts twice: a document is read
from left to right, and a run of words that stood there before is counted and jumped over.

A run of n words can only be repeated where its first n - 1 words are: so every length looks only at
what the length before it left over, which is little in most documents.
"""

import numpy as np
from numpy.typing import NDArray

from llmstages.collect.quality.tokens import Hashes, Ints, Tokens

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)

SLOTS_PER_HASH = 4
"""Three in four unequal hashes have a slot to themselves."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_OTHER_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
"""Odd numbers that mix bits well (Steele et al. 2014, SplitMix64)."""

Shares = NDArray[np.float64]


def repetition(tokens: Tokens) -> dict[str, Shares]:
    """`top_<n>gram_share` and `duplicate_<n>gram_share`, one value a document."""
    num_documents = len(tokens.characters)
    characters = np.maximum(tokens.characters, 1)
    upto = np.concatenate(([0], np.cumsum(tokens.length)))  # characters before each token
    mixed = (tokens.key ^ (tokens.key >> np.uint64(32))) * _MULTIPLIER
    of_document = (tokens.document.astype(np.uint64) + np.uint64(1)) * _OTHER_MULTIPLIER

    shares = {}
    starts = np.arange(len(tokens.key))
    hashes = mixed + of_document  # equal words of two documents differ
    for n in range(2, DUPLICATE_NGRAMS[-1] + 1):
        fits = starts + n <= tokens.first[tokens.document[starts] + 1]
        starts = starts[fits]
        hashes = (hashes[fits] ^ (hashes[fits] >> np.uint64(32))) * _MULTIPLIER
        hashes += mixed[starts + n - 1]
        starts, hashes, groups = _repeated(starts, hashes)
        if n in TOP_NGRAMS:
            size = _top_size(tokens, starts, groups, upto, n)
            shares[f"top_{n}gram_share"] = size / characters
        if n in DUPLICATE_NGRAMS:
            jumps = _jumps(starts, groups, n)
            size = np.bincount(
                tokens.document[jumps], upto[jumps + n] - upto[jumps], minlength=num_documents
            )
            shares[f"duplicate_{n}gram_share"] = size / characters
    return shares


def _repeated(starts: Ints, hashes: Hashes) -> tuple[Ints, Hashes, Ints]:
    """The n-grams that occur more than once, in order, with a number for each different one."""
    maybe = _sharing_slots(hashes)
    starts, hashes = starts[maybe], hashes[maybe]
    order = np.argsort(hashes)
    in_order = hashes[order]
    same = np.concatenate(([False], in_order[1:] == in_order[:-1]))[: len(order)]
    repeated = same | np.append(same[1:], False)[: len(order)]
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.cumsum(~same)
    kept = np.zeros(len(order), dtype=np.bool_)
    kept[order[repeated]] = True
    return starts[kept], hashes[kept], group[kept]


def _sharing_slots(hashes: Hashes) -> Ints:
    """Indices of all equal hashes, and of some others: sorting these alone is much less work.

    Every hash writes its index into the slot its upper bits name. Whoever finds another's index
    there shares the slot with it.
    """
    bits = max(1, (SLOTS_PER_HASH * len(hashes)).bit_length())
    index = np.arange(len(hashes))
    slot = (hashes >> np.uint64(64 - bits)).astype(np.int64)
    writer = np.empty(1 << bits, dtype=np.int64)
    writer[slot] = index
    last = writer[slot]
    shares = last != index
    shares[last[shares]] = True
    return np.flatnonzero(shares)


def _top_size(tokens: Tokens, starts: Ints, groups: Ints, upto: Ints, n: int) -> Ints:
    """Characters in the commonest n-gram of each document, one space between its words.

    Of several it is the one that comes first; where none is repeated, the document's first.
    """
    first = tokens.first[:-1]
    has_one = np.diff(tokens.first) >= n
    size = np.where(has_one, upto[np.minimum(first + n, len(upto) - 1)] - upto[first] + n - 1, 0)
    if len(starts):
        _, position, count = np.unique(groups, return_index=True, return_counts=True)
        begin = starts[position]
        document = tokens.document[begin]
        best = np.lexsort((begin, -count, document))
        document, begin, count = document[best], begin[best], count[best]
        leads = np.flatnonzero(np.diff(document, prepend=-1))
        begin = begin[leads]
        size[document[leads]] = (upto[begin + n] - upto[begin] + n - 1) * count[leads]
    return size


def _jumps(starts: Ints, groups: Ints, n: int) -> Ints:
    """The n-grams that stood there before, read from left to right without overlap."""
    seen: set[int] = set()
    jumps: list[int] = []
    free = 0
    for start, group in zip(starts.tolist(), groups.tolist(), strict=True):
        if start >= free:
            if group in seen:
                jumps.append(start)
                free = start + n
            else:
                seen.add(group)
    return np.array(jumps, dtype=np.int64)

"""Near duplicates among short texts held in memory: the rows of labelled files.

Two texts are near duplicates when the sets of their word pairs overlap by at least
`MIN_SIMILARITY` (Jaccard); candidates meet in MinHash bands, and each is confirmed by its exact
sets. Pairs of words, not the five of a corpus: a question of a dozen words keeps most of its pairs
when a word at its end is changed, and no run of five in its middle. Word pairs that stand in a
great many of the texts are the template they were made from, and say nothing: texts are compared
by the others, where they have any.

Costs grow with the texts, not with how many are alike: in a band each is compared with the first
and with its neighbour. The result does not depend on the order of the texts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmstages.duplicates.minhash import bands_of, ends, jaccard, pairs_of_band
from llmstages.duplicates.words import Words, blocks, hash_words, ngram_hashes

MIN_SIMILARITY = 0.8
NGRAM_WORDS = 2
NUM_BANDS, ROWS_PER_BAND = 16, 5
"""Of two texts with a similarity of 0.8 99.8 % meet in a band, of 0.5 a third."""
TEMPLATE_SHARE = 0.1
MIN_TEMPLATE_TEXTS = 20
"""A word pair in more than these many texts, and this share of them, is a template's."""


class Groups:
    """Numbers that belong together, joined two by two."""

    def __init__(self, count: int) -> None:
        self.parent = list(range(count))

    def first(self, number: int) -> int:
        """The lowest number of a group."""
        parent = self.parent
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    def join(self, one: int, other: int) -> None:
        """Make two groups one."""
        low, high = sorted((self.first(one), self.first(other)))
        self.parent[high] = low


def near_pairs(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of near duplicates, by number, that join all that were found to be alike.

    Texts without words have none.
    """
    order = sorted(range(len(texts)), key=texts.__getitem__)
    ngrams = _own_ngrams([texts[number] for number in order])
    bands = bands_of(ngrams, NUM_BANDS, ROWS_PER_BAND)
    candidates = np.unique(np.concatenate([pairs_of_band(band) for band in bands]))
    hashes, offsets = ngrams
    groups = Groups(len(texts))
    found: list[tuple[int, int]] = []
    firsts, seconds = ends(candidates)
    sizes = np.diff(offsets)
    alike = np.minimum(sizes[firsts], sizes[seconds]) >= MIN_SIMILARITY * np.maximum(
        sizes[firsts], sizes[seconds]
    )
    for one, other in zip(firsts[alike].tolist(), seconds[alike].tolist(), strict=True):
        if groups.first(one) == groups.first(other):
            continue
        sets = (hashes[offsets[number] : offsets[number + 1]] for number in (one, other))
        if jaccard(*sets) >= MIN_SIMILARITY:
            groups.join(one, other)
            found.append((order[one], order[other]))
    return found


def _own_ngrams(texts: Sequence[str]) -> Words:
    """The different word pairs of each text, sorted, without those of templates."""
    ngrams = _sets(texts)
    hashes, offsets = ngrams
    _, places, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    own = (counts <= max(MIN_TEMPLATE_TEXTS, TEMPLATE_SHARE * len(texts)))[places]
    if own.all():
        return ngrams
    text_of = np.repeat(np.arange(len(texts)), np.diff(offsets))
    # A text of nothing but template is compared by all it has.
    num_own = np.bincount(text_of[own], minlength=len(texts))
    kept = own | (num_own == 0)[text_of]
    lengths = np.bincount(text_of[kept], minlength=len(texts))
    return Words(hashes[kept], _offsets(lengths))


def _sets(texts: Sequence[str]) -> Words:
    """The different word pairs of each text, sorted."""
    parts: list[NDArray[np.uint64]] = []
    for start, end in blocks(texts):
        block = ngram_hashes(hash_words(texts[start:end]), NGRAM_WORDS)
        parts += [
            np.unique(block.hashes[begin:stop])
            for begin, stop in zip(block.offsets[:-1], block.offsets[1:], strict=True)
        ]
    lengths = np.array([len(part) for part in parts], np.int64)
    hashes = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    return Words(hashes, _offsets(lengths))


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

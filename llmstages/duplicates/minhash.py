"""MinHash signatures of texts and the bands by which near duplicates meet (Broder 1997).

A text's shingles are its word n-grams, hashed by `words`. Of `num_bands *
rows_per_band` scrambled orders of all hashes the signature holds the shingle that comes first in
each; two texts agree in one with the probability of the Jaccard similarity s of their shingle sets.
The values of a band are hashed into one, so that two texts meet in some band with the probability
1 - (1 - s^rows)^bands. The orders are (hash ^ a) * b modulo 2^32 on the upper half of each hash,
which is random already.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from llmstages.config.collect_groups import DedupConfig
from llmstages.duplicates.words import (
    WORD_BASE,
    Hashes,
    Words,
    blocks,
    hash_words,
    mixed,
    ngram_hashes,
)

NO_SIGNATURE = 0
"""Band of a text without words."""


def band_hashes(texts: Sequence[str | None], config: DedupConfig) -> Hashes:
    """The bands of each text, [num_bands, len(texts)]; 0 for texts without words."""
    result = np.zeros((config.num_bands, len(texts)), np.uint64)
    for start, end in blocks(texts):
        block = [text or "" for text in texts[start:end]]
        ngrams = ngram_hashes(hash_words(block), config.ngram_words)
        result[:, start:end] = bands_of(ngrams, config.num_bands, config.rows_per_band)
    return result


def shingles(text: str, ngram_words: int) -> Hashes:
    """Hashes of the n-grams of a text, sorted, each once: the set of the Jaccard similarity."""
    return next(shingle_sets([text], ngram_words))


def shingle_sets(texts: Sequence[str], ngram_words: int) -> Iterator[Hashes]:
    """The `shingles` of each text."""
    for start, end in blocks(texts):
        ngrams = ngram_hashes(hash_words(texts[start:end]), ngram_words)
        for number in range(end - start):
            yield np.unique(ngrams.hashes[ngrams.offsets[number] : ngrams.offsets[number + 1]])


def jaccard(a: NDArray[np.unsignedinteger], b: NDArray[np.unsignedinteger]) -> float:
    """Jaccard similarity of two sets, given as sorted arrays of different values."""
    if not len(a) or not len(b):
        return 0.0
    both = np.concatenate([a, b])
    both.sort()
    num_shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return num_shared / (len(both) - num_shared)


def pairs_of_band(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The pairs to compare, sorted, as `first << 32 | second` with first < second.

    In each bucket of equal values every document is paired with the first and with its neighbour.
    """
    by_value = np.argsort(values, kind="stable")
    values = values[by_value]
    same = (values[1:] == values[:-1]) & (values[1:] != NO_SIGNATURE)
    second = np.flatnonzero(same) + 1
    begins_bucket = np.ones(len(values), bool)
    begins_bucket[1:] = ~same
    bucket_start = np.flatnonzero(begins_bucket)[np.cumsum(begins_bucket)[second] - 1]
    documents = by_value.astype(np.uint64)
    pairs = [
        documents[first] << np.uint64(32) | documents[second]
        for first in (bucket_start, second - 1)
    ]
    return np.unique(np.concatenate(pairs))


def ends(pairs: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and second documents of pairs."""
    return (
        (pairs >> np.uint64(32)).astype(np.int64),
        (pairs & np.uint64(2**32 - 1)).astype(np.int64),
    )


def bands_of(ngrams: Words, num_bands: int, rows_per_band: int) -> Hashes:
    """The bands of each text's n-grams, as `band_hashes` gives them."""
    hashes = (ngrams.hashes >> np.uint64(32)).astype(np.uint32)
    counts = np.diff(ngrams.offsets)
    result = np.zeros((num_bands, len(counts)), np.uint64)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return result
    starts = ngrams.offsets[:-1][filled]
    xors, factors = _orders(num_bands * rows_per_band)
    scrambled = np.empty_like(hashes)
    for band in range(num_bands):
        band_hash = np.zeros(len(filled), np.uint64)
        for row in range(band * rows_per_band, (band + 1) * rows_per_band):
            np.bitwise_xor(hashes, xors[row], out=scrambled)
            np.multiply(scrambled, factors[row], out=scrambled)
            band_hash *= np.uint64(WORD_BASE)
            band_hash += np.minimum.reduceat(scrambled, starts)
        result[band, filled] = np.maximum(mixed(band_hash), np.uint64(NO_SIGNATURE + 1))
    return result


def _orders(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The two constants of each order, the factors odd."""
    numbers = mixed(np.arange(1, count + 1, dtype=np.uint64))
    return (numbers >> np.uint64(32)).astype(np.uint32), numbers.astype(np.uint32) | np.uint32(1)

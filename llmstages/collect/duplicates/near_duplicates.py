"""Near duplicates: candidates by MinHash bands, each confirmed by its exact Jaccard similarity.

With FineWeb's 14 bands of 8 hashes (Penedo et al. 2024) two documents of similarity 0.8 meet with
probability 0.92, of 0.9 with 0.9996 - but of 0.7 still with 0.56, and of 0.6 with 0.21. Where bands
alone decide, as in datatrove, these are dropped too, although a fifth of each and more is its own,
and chains of them join what has little in common. So a pair counts only when the shingle sets
themselves, read once more for the candidates, overlap by at least `min_similarity`. Duplicates are
the connected components of the confirmed pairs: two documents of one component may be alike only
through a third.

Costs stay linear however many documents are alike: in a bucket of equal bands each document is
compared with the first one and with its neighbour, and a pair that is joined already is not
compared again. Memory is about 100 bytes a document; pairs and shingles lie in files. The result
depends on texts and ranks alone, not on the order in which documents come.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmstages.config.collect_groups import DedupConfig
from llmstages.duplicates.minhash import ends, jaccard, pairs_of_band, shingle_sets
from llmstages.duplicates.words import BLOCK_CHARACTERS

Positions = NDArray[np.int64]
Bands = Callable[[int], NDArray[np.uint64]]
Texts = Callable[[Positions], Iterable[tuple[int, str]]]

PAIRS_AT_A_TIME = 2**20
"""So many pairs of all bands are brought together at a time."""


class NearDuplicates(NamedTuple):
    """What `find_near_duplicates` found, for each document."""

    component: Positions
    """Position of the document that survives for it: of the lowest rank; its own when it stays."""
    similarity: NDArray[np.float32]
    """Highest confirmed similarity of a pair that ties it in; nan for documents that stay."""


def find_near_duplicates(
    rank: Positions, bands: Bands, texts: Texts, config: DedupConfig, scratch: Path
) -> NearDuplicates:
    """Find the groups of near duplicates among documents known by their positions 0, 1, ...

    Args:
        rank: of near duplicates the one of the lowest rank stays; equal ranks go by position.
        bands: loads the band of this number: one value a document. One is in memory at a time.
        texts: hands out the texts at the given positions, once each, in any order.
        config: similarity, n-grams and number of bands, as they were for `band_hashes`.
        scratch: a directory for temporary files, which are removed.
    """
    num_documents = len(rank)
    # From here on documents are known by their place in the order of ranks.
    order = np.argsort(rank, kind="stable")
    scratch.mkdir(parents=True, exist_ok=True)
    pair_files = [scratch / f"pairs_{band:02d}" for band in range(config.num_bands)]
    shingle_file = scratch / "shingles"
    try:
        is_candidate = np.zeros(num_documents, bool)
        for band, path in enumerate(pair_files):
            pairs = pairs_of_band(bands(band)[order])
            for documents in ends(pairs):
                is_candidate[documents] = True
            pairs.tofile(path)
            del pairs
        place = np.empty(num_documents, np.int64)
        place[order] = np.arange(num_documents)
        candidates = np.sort(order[is_candidate])
        stored = _store_shingles(texts(candidates), place, config.ngram_words, shingle_file)
        assert np.array_equal(stored.lengths > 0, is_candidate), "a candidate's text is missing"
        del place, is_candidate, candidates
        pairs_of_bands = [
            np.memmap(path, np.uint64, "r") for path in pair_files if path.stat().st_size
        ]
        runs = _merged_pairs(pairs_of_bands, 0, num_documents << 32)
        parent, best = _join(runs, stored, config.min_similarity)
    finally:
        for path in (*pair_files, shingle_file):
            path.unlink(missing_ok=True)
    component = np.empty(num_documents, np.int64)
    similarity = np.empty(num_documents, np.float32)
    component[order] = order[parent]
    similarity[order] = np.where(parent == np.arange(num_documents), np.nan, best)
    return NearDuplicates(component, similarity)


class StoredShingles(NamedTuple):
    """Shingle sets in a file: document i has `lengths[i]` numbers, from number `starts[i]` on."""

    path: Path
    starts: Positions
    lengths: NDArray[np.int32]


def _store_shingles(
    texts: Iterable[tuple[int, str]], place: Positions, ngram_words: int, path: Path
) -> StoredShingles:
    """Write the shingle sets of the texts, the upper half of each hash."""
    starts = np.zeros(len(place), np.int64)
    lengths = np.zeros(len(place), np.int32)
    written = 0
    with path.open("wb") as file:
        for block in _gathered(texts):
            sets = shingle_sets([text for _, text in block], ngram_words)
            for (position, _), hashes in zip(block, sets, strict=True):
                # Halves need half the room. In a pair of documents of 500 words two different
                # shingles share a half once in ten thousand pairs.
                halves = np.unique((hashes >> np.uint64(32)).astype(np.uint32))
                halves.tofile(file)
                starts[place[position]] = written
                lengths[place[position]] = len(halves)
                written += len(halves)
    return StoredShingles(path, starts, lengths)


def _gathered(texts: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Texts by the block, for hashing many at once."""
    block: list[tuple[int, str]] = []
    size = 0
    for position, text in texts:
        block.append((position, text))
        size += len(text)
        if size >= BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _merged_pairs(
    bands: Sequence[NDArray[np.uint64]], low: int, high: int
) -> Iterator[NDArray[np.uint64]]:
    """The pairs of all bands from `low` to below `high` in order, each once, in runs."""
    bounds = np.array([low, high], np.uint64)
    runs = [pairs[slice(*np.searchsorted(pairs, bounds))] for pairs in bands]
    num_pairs = sum(map(len, runs))
    if num_pairs > PAIRS_AT_A_TIME and high - low > 1:
        middle = (low + high) // 2
        yield from _merged_pairs(runs, low, middle)
        yield from _merged_pairs(runs, middle, high)
    elif num_pairs:
        yield np.unique(np.concatenate(runs))


def _join(
    runs: Iterable[NDArray[np.uint64]], stored: StoredShingles, min_similarity: float
) -> tuple[Positions, NDArray[np.float32]]:
    """Compare pairs and join documents; returns each one's survivor and highest similarity."""
    num_documents = len(stored.starts)
    # Python reads single numbers out of an array far quicker than out of numpy's.
    parent = array("q", range(num_documents))

    def survivor(document: int) -> int:
        while parent[document] != document:
            parent[document] = document = parent[parent[document]]
        return document

    best = np.zeros(num_documents, np.float32)
    lengths = stored.lengths
    with stored.path.open("rb", buffering=0) as file:

        def shingle_set(document: int) -> NDArray[np.uint32]:
            file.seek(4 * int(stored.starts[document]))
            return np.frombuffer(file.read(4 * int(lengths[document])), np.uint32)

        for pairs in runs:
            firsts, seconds = ends(pairs)
            # Sets of too different sizes cannot be similar enough.
            sizes = lengths[firsts], lengths[seconds]
            possible = np.minimum(*sizes) / np.maximum(*sizes) >= min_similarity
            last, last_set = -1, np.zeros(0, np.uint32)
            for first, second in zip(
                firsts[possible].tolist(), seconds[possible].tolist(), strict=True
            ):
                first_root, second_root = survivor(first), survivor(second)
                if first_root == second_root:
                    continue
                if first != last:
                    last, last_set = first, shingle_set(first)
                similarity = jaccard(last_set, shingle_set(second))
                if similarity >= min_similarity:
                    parent[max(first_root, second_root)] = min(first_root, second_root)
                    best[first] = max(best[first], similarity)
                    best[second] = max(best[second], similarity)
    return np.array([survivor(document) for document in range(num_documents)], np.int64), best

"""Which documents are kept from training, so that duplicates found never stand on both sides.

From a source with enough texts whole ones are taken, in the order of a hash of their folded text
and the seed, until its share of bytes is reached. From a source with few (one long book) the end of
each text is taken instead, so that every source is measured.

A text may be in pieces, of which each is a document: a very long file. It is held out whole, or cut
at one place.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "validation", "both"]
PARTS: tuple[Part, ...] = ("train", "validation", "both")
TRAIN, VALIDATION, BOTH = range(3)

SHORTEST_TO_CUT = 200
"""Characters; the tail of a shorter document is no text to measure a model on."""

ENOUGH = 0.9
"""Filling the last tenth of the share would take small documents only."""


def split_documents(
    sources: NDArray[np.integer],
    groups: NDArray[np.integer],
    folded: NDArray[np.uint64],
    sizes: NDArray[np.integer],
    unfit: NDArray[np.bool_],
    texts: NDArray[np.int64],
    pieces: NDArray[np.integer],
    characters: NDArray[np.integer],
    validation_share: float,
    min_texts: int,
    seed: int,
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """The part of each of n documents, and where those of the part `BOTH` are to be cut.

    Args:
        texts: documents with the same number are the pieces of one text, [n].
        pieces: their order within it, [n].
        characters: length of each, [n].
        min_texts: of a source with fewer, the ends of all are taken.
        The others are those of `split_texts`.

    Returns:
        Parts, [n], and character positions in the documents, [n], -1 where there is no cut. Of the
        characters of a text that is cut, int((1 - validation_share) * characters) are in front.
    """
    _, first, text = np.unique(texts, return_index=True, return_inverse=True)
    text_parts = split_texts(
        sources[first],
        joined(groups, texts)[first],
        folded[first],
        np.bincount(text, weights=sizes).astype(np.int64),
        np.bincount(text, weights=unfit) > 0,
        validation_share,
        min_texts,
        seed,
    )
    parts = text_parts[text]
    cuts = np.full(len(parts), -1, dtype=np.int64)
    both = parts == BOTH
    cuts[both] = characters[both] * (1 - validation_share)
    for rows in in_pieces(texts):
        if not both[rows[0]]:
            continue
        if len(np.unique(groups[rows])) < len(rows):
            parts[rows], cuts[rows] = TRAIN, -1  # the end repeats what is in front of it
            continue
        rows = rows[np.argsort(pieces[rows], kind="stable")]
        ends = characters[rows].cumsum()
        inside = int(ends[-1] * (1 - validation_share)) - (ends - characters[rows])
        parts[rows] = np.where(inside <= 0, VALIDATION, TRAIN)
        cuts[rows] = -1
        cut = (inside > 0) & (inside < characters[rows])
        parts[rows[cut]], cuts[rows[cut]] = BOTH, inside[cut]
    return parts, cuts


def in_pieces(texts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Positions of the documents of each text that is in more than one piece."""
    order = np.argsort(texts, kind="stable")
    _, counts = np.unique(texts, return_counts=True)
    ends = counts.cumsum()
    for end, count in zip(ends[counts > 1], counts[counts > 1], strict=True):
        yield order[end - count : end]


def joined(groups: NDArray[np.integer], texts: NDArray[np.int64]) -> NDArray[np.integer]:
    """The groups, those of all pieces of one text made one."""
    joined_to: dict[int, int] = {}

    def root(group: int) -> int:
        while group in joined_to:
            group = joined_to[group]
        return group

    for rows in in_pieces(texts):
        kept = root(int(groups[rows[0]]))
        for group in groups[rows].tolist():
            if (other := root(group)) != kept:
                joined_to[other] = kept
    if not joined_to:
        return groups
    known, place = np.unique(groups, return_inverse=True)
    return np.array([root(group) for group in known.tolist()])[place]


def split_texts(
    sources: NDArray[np.integer],
    groups: NDArray[np.integer],
    folded: NDArray[np.uint64],
    sizes: NDArray[np.integer],
    unfit: NDArray[np.bool_],
    validation_share: float,
    min_texts: int,
    seed: int,
) -> NDArray[np.int8]:
    """The part of each of n texts: `TRAIN`, `VALIDATION`, or `BOTH`: its tail is validated on.

    Args:
        sources: number of each text's source, [n].
        groups: texts with the same number are duplicates of each other and stay together, [n].
        folded: hash of each text, by which texts are chosen, [n].
        sizes: bytes, [n].
        unfit: what is no text to validate on, nor are those grouped with it, [n].
        validation_share: of the bytes of each source, as nearly as whole texts allow.
        min_texts: sources with fewer give tails.
        seed: another seed chooses other texts.

    A source with more than one group of texts has one for training, and one for validation.
    """
    parts = np.full(len(sources), TRAIN, dtype=np.int8)
    if not len(sources):
        return parts
    _, group, members = np.unique(groups, return_inverse=True, return_counts=True)
    few = np.bincount(sources)[sources] < min_texts
    # The tail of one copy would be in the head of another that is cut elsewhere.
    parts[few & (members[group] == 1)] = BOTH

    order = np.argsort(group, kind="stable")
    first = order[np.concatenate(([0], np.cumsum(members)[:-1]))]
    group_bytes = np.bincount(group, weights=sizes)
    ranks = _mixed(folded, seed)[first]
    source_bytes = np.bincount(sources, weights=sizes)
    left = np.bincount(sources)
    taken = np.zeros(len(source_bytes))
    targets = validation_share * source_bytes
    chosen = np.zeros(len(members), dtype=bool)
    fit = np.bincount(group, weights=unfit) == 0
    candidates = np.flatnonzero(~few[first] & fit)
    for index in candidates[np.argsort(ranks[candidates], kind="stable")].tolist():
        source = sources[first[index]]
        size = group_bytes[index]
        if taken[source] >= ENOUGH * targets[source]:
            continue
        if taken[source] + size > targets[source] / ENOUGH or left[source] <= members[index]:
            continue
        taken[source] += size
        left[source] -= members[index]
        chosen[index] = True
    parts[chosen[group]] = VALIDATION
    # Where every document is larger than the whole share, the smallest is the nearest to it.
    for source in np.setdiff1d(np.unique(sources), sources[parts != TRAIN]).tolist():
        own = np.flatnonzero((sources[first] == source) & fit & ~chosen)
        if len(own) and np.count_nonzero(sources[first] == source) > 1:
            smallest = own[np.lexsort((ranks[own], group_bytes[own]))[0]]
            parts[group == smallest] = VALIDATION
    return parts


def _mixed(folded: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """The hashes in an order of each seed's own (SplitMix64's finalizer, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = folded + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def cut_tail(text: str, validation_share: float) -> tuple[str, str]:
    """Head and tail of a text, cut between paragraphs, lines or words; `head + tail == text`.

    The tail is empty where the text is too short to be cut.
    """
    if len(text) < SHORTEST_TO_CUT:
        return text, ""
    start = tail_start(text, round(len(text) * (1 - validation_share)), validation_share)
    return text[:start], text[start:]


def tail_start(text: str, target: int, validation_share: float) -> int:
    """The boundary between paragraphs, lines or words that is nearest to `target`.

    It is off by at most half of the share of the text; `target` itself where there is none so near.
    """
    reach = max(1, round(len(text) * validation_share / 2))
    for mark in ("\n\n", "\n", " "):
        before = text.rfind(mark, max(0, target - reach), target)
        after = text.find(mark, target, target + reach)
        places = [place + len(mark) for place in (before, after) if place >= 0]
        if places:
            return min(places, key=lambda place: abs(place - target))
    return target

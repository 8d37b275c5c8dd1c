"""Which documents are kept from training, so that duplicates found never stand on both sides.

From a source with enough documents whole ones are taken, in the order of a hash of their folded
text and the seed, until its share of bytes is reached. From a source with few (one long book) the
end of each document is taken instead, so that every source is measured.
"""

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
    validation_share: float,
    min_documents: int,
    seed: int,
) -> NDArray[np.int8]:
    """The part of each of n documents: `TRAIN`, `VALIDATION`, or `BOTH`: its tail is validated on.

    Args:
        sources: number of each document's source, [n].
        groups: documents with the same number are duplicates of each other and stay together, [n].
        folded: hash of each text, by which documents are chosen, [n].
        sizes: bytes, [n].
        unfit: documents that are no text to validate on, nor are those grouped with them, [n].
        validation_share: of the bytes of each source, as nearly as whole documents allow.
        min_documents: sources with fewer give tails.
        seed: another seed chooses other documents.

    A source with more than one group of documents has one for training, and one for validation.
    """
    parts = np.full(len(sources), TRAIN, dtype=np.int8)
    if not len(sources):
        return parts
    _, group, members = np.unique(groups, return_inverse=True, return_counts=True)
    few = np.bincount(sources)[sources] < min_documents
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
    target = round(len(text) * (1 - validation_share))
    reach = max(1, round(len(text) * validation_share / 2))
    for mark in ("\n\n", "\n", " "):
        before = text.rfind(mark, target - reach, target)
        after = text.find(mark, target, target + reach)
        places = [place + len(mark) for place in (before, after) if place >= 0]
        if places:
            cut = min(places, key=lambda place: abs(place - target))
            return text[:cut], text[cut:]
    return text[:target], text[target:]

"""Which documents are kept from training, so that equal texts never stand on both sides.

From a source with enough documents whole ones are taken, in the order of a hash of their folded
text and the seed, until its share of bytes is reached. From a source with few (one long book) the
end of each document is taken instead, so that every source is measured.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Part = Literal["train", "validation", "both"]

SHORTEST_TO_CUT = 200
"""Characters; the tail of a shorter document is no text to measure a model on."""

ENOUGH = 0.9
"""Filling the last tenth of the share would take small documents only."""


@dataclass(frozen=True)
class SplitKey:
    """What the split needs to know of a document."""

    source: str
    folded: str
    """Hash of the text after case, space and Unicode form are folded: equal for duplicates."""
    bytes: int


def split_documents(
    documents: Sequence[SplitKey], validation_share: float, min_documents: int, seed: int
) -> list[Part]:
    """The part of each document; `both` means that its tail is for validation.

    The share is one of bytes and holds as nearly as whole documents allow. A source always keeps
    at least one document for training.
    """
    copies = Counter(document.folded for document in documents)
    counts = Counter(document.source for document in documents)
    few = {source for source, count in counts.items() if count < min_documents}
    parts: list[Part] = [
        # The tail of one copy would be in the head of another that is cut elsewhere.
        "both" if document.source in few and copies[document.folded] == 1 else "train"
        for document in documents
    ]
    groups: defaultdict[str, list[int]] = defaultdict(list)
    sizes: defaultdict[str, int] = defaultdict(int)
    for index, document in enumerate(documents):
        groups[document.folded].append(index)
        sizes[document.source] += document.bytes
    taken: defaultdict[str, int] = defaultdict(int)
    for folded in sorted(groups, key=lambda key: _rank(key, seed)):
        members = groups[folded]
        source = documents[members[0]].source
        if parts[members[0]] == "both" or source in few:
            continue
        size = sum(documents[index].bytes for index in members)
        target = validation_share * sizes[source]
        if taken[source] >= ENOUGH * target or taken[source] + size > target / ENOUGH:
            continue
        if counts[source] <= len(members):
            continue
        taken[source] += size
        counts[source] -= len(members)
        for index in members:
            parts[index] = "validation"
    if set(parts) == {"train"}:
        _take_smallest(documents, groups, parts)
    return parts


def _take_smallest(
    documents: Sequence[SplitKey], groups: dict[str, list[int]], parts: list[Part]
) -> None:
    """Where every document is larger than the whole share, the smallest is the nearest to it."""
    smallest = min(
        groups, key=lambda key: (sum(documents[index].bytes for index in groups[key]), key)
    )
    if len(groups) > 1:
        for index in groups[smallest]:
            parts[index] = "validation"


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


def _rank(folded: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{folded}".encode(), digest_size=16).digest()

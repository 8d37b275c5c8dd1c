"""Which documents are kept from training."""

from collections.abc import Sequence

import numpy as np
import pytest

from llmstages.collect.split import PARTS, cut_tail, split_documents, split_texts

MANY = 20


def split(
    sizes: Sequence[int],
    share: float,
    seed: int = 0,
    sources: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
    unfit: Sequence[int] = (),
) -> list[str]:
    """The names of the parts; documents are all different unless `groups` says otherwise."""
    numbers = np.arange(len(sizes)) if groups is None else np.array(groups)
    parts = split_texts(
        np.array(sources or [0] * len(sizes)),
        numbers,
        numbers.astype(np.uint64),
        np.array(sizes),
        np.isin(np.arange(len(sizes)), unfit),
        share,
        MANY,
        seed,
    )
    return [PARTS[part] for part in parts.tolist()]


def test_the_share_holds_by_bytes_and_in_every_source() -> None:
    sizes = [100 + index % 7 * 50 for index in range(1000)] + [2000] * 100
    sources = [0] * 1000 + [1] * 100
    parts = split(sizes, 0.05, sources=sources)
    for source in (0, 1):
        size = sum(size for size, of in zip(sizes, sources, strict=True) if of == source)
        held = sum(
            size
            for size, of, part in zip(sizes, sources, parts, strict=True)
            if of == source and part == "validation"
        )
        assert 0.045 <= held / size <= 0.056
    assert parts == split(sizes, 0.05, sources=sources)
    assert parts != split(sizes, 0.05, seed=1, sources=sources)


def test_duplicates_never_straddle() -> None:
    parts = split([100] * 400, 0.1, groups=[index // 4 for index in range(400)])
    assert "validation" in parts
    for start in range(0, 400, 4):
        assert len(set(parts[start : start + 4])) == 1
    assert split([9, 9, 5], 0.1, groups=[0, 0, 1]) == ["train", "train", "both"]


def test_one_document_is_always_held_out_and_one_kept() -> None:
    assert split([1000] * 19 + [10], 0.001) == ["train"] * 19 + ["validation"]


def test_a_source_of_few_documents_beside_a_large_one_gives_its_ends() -> None:
    parts = split([1000] * 40 + [400_000] * 3, 0.05, sources=[0] * 40 + [1] * 3)
    assert parts[40:] == ["both"] * 3
    assert parts[:40].count("validation") == 2
    assert "both" not in parts[:40]


def test_copies_across_a_small_and_a_large_source_stay_together() -> None:
    groups = [*range(40), 0, 1, 2]
    parts = split([1000] * 43, 0.2, sources=[0] * 40 + [1] * 3, groups=groups)
    for copy, original in ((40, 0), (41, 1), (42, 2)):
        assert parts[copy] == parts[original]


def test_every_source_of_large_documents_gives_one() -> None:
    parts = split([1000] * 900 + [20_000] * 25, 0.02, sources=[0] * 900 + [1] * 25)
    assert parts[900:].count("validation") == 1
    assert parts[:900].count("validation") in range(15, 22)


def test_what_may_be_cut_to_nothing_is_not_validated_on() -> None:
    for seed in range(10):
        parts = split([100] * 40, 0.3, seed=seed, groups=[*range(39), 0], unfit=[*range(30)])
        assert "validation" not in parts[:30]
        assert parts[39] == "train"
        assert parts[30:39].count("validation") == 9


def test_nothing_is_split_into_nothing() -> None:
    assert split([], 0.1) == []


def split_pieces(
    pieces_of: Sequence[int],
    characters: Sequence[int],
    min_texts: int,
    groups: Sequence[int] | None = None,
    share: float = 0.1,
) -> list[tuple[str, int]]:
    """Part and cut of each document; `pieces_of` names the text each is a piece of, in order."""
    count = len(pieces_of)
    numbers = np.arange(count) if groups is None else np.array(groups)
    parts, cuts = split_documents(
        np.zeros(count, dtype=np.int16),
        numbers,
        numbers.astype(np.uint64),
        np.array(characters),
        np.zeros(count, dtype=bool),
        np.array(pieces_of),
        np.array([pieces_of[:index].count(text) for index, text in enumerate(pieces_of)]),
        np.array(characters),
        share,
        min_texts,
        seed=0,
    )
    return [(PARTS[part], cut) for part, cut in zip(parts.tolist(), cuts.tolist(), strict=True)]


def test_the_pieces_of_a_text_are_on_one_side() -> None:
    texts = [index // 3 for index in range(90)]
    found = split_pieces(texts, [100] * 90, min_texts=30)
    assert {cut for _, cut in found} == {-1}
    assert [part for part, _ in found].count("validation") == 9  # three texts of three pieces
    for start in range(0, 90, 3):
        assert len(set(found[start : start + 3])) == 1
    # Pieces do not make many texts of few.
    assert ("both", 70) in split_pieces(texts, [100] * 90, min_texts=31)


def test_a_text_in_pieces_is_cut_at_one_place() -> None:
    # Of 1,000 characters the last 100 are held out, of 700 the last 70; a whole document beside.
    texts, characters = [0, 0, 0, 1, 1, 2], [400, 550, 50, 630, 70, 115]
    assert split_pieces(texts, characters, min_texts=20) == [
        *[("train", -1), ("both", 500), ("validation", -1)],
        *[("train", -1), ("validation", -1), ("both", int(115 * 0.9))],
    ]


def test_a_copy_of_one_piece_keeps_two_texts_together() -> None:
    texts = [0, 0, 0, 1, 1, *range(2, 12)]
    groups = [0, 1, 2, 3, 1, *range(5, 15)]
    for share in (0.05, 0.2, 0.4):
        found = split_pieces(texts, [100] * 15, 2, groups, share)
        assert len(set(found[:5])) == 1
        assert ("validation", -1) in found
    # Nor is either cut: its end would be in the other. A text that repeats itself is not, too.
    assert split_pieces(texts, [100] * 15, 20, groups)[:5] == [("train", -1)] * 5
    assert split_pieces([0, 0, 1], [100] * 3, 20, [0, 0, 1])[:2] == [("train", -1)] * 2


@pytest.mark.parametrize("joint", ["\n\n", "\n", " ", ""])
def test_tails_are_cut_at_a_boundary(joint: str) -> None:
    text = joint.join(["abcdefghi"] * 100)
    head, tail = cut_tail(text, 0.1)
    assert head + tail == text
    assert 0.04 < len(tail) / len(text) < 0.16
    assert head.endswith(joint)
    assert cut_tail("short", 0.1) == ("short", "")

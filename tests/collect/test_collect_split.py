"""Which documents are kept from training."""

from collections.abc import Sequence

import numpy as np
import pytest

from llmstages.collect.split import PARTS, cut_tail, split_documents

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
    parts = split_documents(
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


@pytest.mark.parametrize("joint", ["\n\n", "\n", " ", ""])
def test_tails_are_cut_at_a_boundary(joint: str) -> None:
    text = joint.join(["abcdefghi"] * 100)
    head, tail = cut_tail(text, 0.1)
    assert head + tail == text
    assert 0.04 < len(tail) / len(text) < 0.16
    assert head.endswith(joint)
    assert cut_tail("short", 0.1) == ("short", "")

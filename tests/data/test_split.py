"""Splits are deterministic, stratified, and keep equal texts together."""

import logging
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstages.data.split import Split, alike_rows, normalised_text, split_examples, split_folds
from llmstages.errors import UserError

GOLDEN = Split(train=[0, 1, 3, 5, 6, 7, 8, 9], validation=[2, 11], test=[4, 10])


def parts(split: Split) -> list[list[int]]:
    return [split.train, split.validation, split.test]


def test_sizes_and_strata() -> None:
    labels = ["a"] * 700 + ["b"] * 200 + ["c"] * 100
    keys = [f"text {n}" for n in range(1000)]
    split = split_examples(keys, labels, 0.1, 0.2, seed=0)
    assert [len(part) for part in parts(split)] == [700, 100, 200]
    assert Counter(labels[n] for n in split.validation) == {"a": 70, "b": 20, "c": 10}
    assert Counter(labels[n] for n in split.test) == {"a": 140, "b": 40, "c": 20}


def test_seed_decides_and_row_order_does_not() -> None:
    keys = [f"text {n}" for n in range(50)]
    once = split_examples(keys, None, 0.2, 0.2, seed=3)
    assert once == split_examples(keys, None, 0.2, 0.2, seed=3)
    assert once != split_examples(keys, None, 0.2, 0.2, seed=4)
    backwards = split_examples(keys[::-1], None, 0.2, 0.2, seed=3)
    assert {keys[n] for n in once.test} == {keys[::-1][n] for n in backwards.test}


def test_golden() -> None:
    # Fixed for ever: another platform or version must not mix test texts into training.
    split = split_examples([f"text {n}" for n in range(12)], None, 0.2, 0.2, seed=0)
    assert split == GOLDEN


def test_equal_texts_stay_together() -> None:
    keys = [f"Text  {n % 20}" if n % 2 else f"text {n % 20} " for n in range(200)]
    keys += ["ｔｅｘｔ １"]  # full-width forms of "text 1"
    split = split_examples(keys, None, 0.2, 0.2, seed=0)
    found = [{normalised_text(keys[n]) for n in part} for part in parts(split)]
    assert [len(texts) for texts in found] == [12, 4, 4]
    assert not found[0] & found[1] | found[0] & found[2] | found[1] & found[2]


LONG = "one two three four five six seven eight nine ten eleven twelve"


def test_rows_that_are_alike() -> None:
    texts = [f"{LONG} a", f"{LONG.upper()}  b", "what?", "What?", "why?", f"{LONG} thirteen c d e"]
    assert alike_rows(texts) == [0, 0, 2, 2, 4, 5]
    # The answers tie "what?" to "why?", and short ones tie nothing.
    assert alike_rows(texts, ["x", "x", f"{LONG} y", "x", f"{LONG} z", "x"]) == [0, 0, 2, 2, 2, 5]
    # Neither does a stock phrase.
    stock = [f"question {n}" for n in range(100)]
    assert alike_rows(stock, [LONG] * 100) == list(range(100))
    assert alike_rows(stock[:20], [LONG] * 20) == [0] * 20


def test_texts_that_are_alike_stay_together() -> None:
    keys = [f"{LONG} number {n // 4} {n}" for n in range(200)]
    alike = [n - n % 4 for n in range(200)]
    split = split_examples(keys, None, 0.1, 0.2, 0, alike)
    assert [len(part) for part in parts(split)] == [140, 20, 40]
    assert all({n - n % 4 + i for i in range(4)} <= set(p) for p in parts(split) for n in p)
    backwards = split_examples(keys[::-1], None, 0.1, 0.2, 0, [-number for number in alike[::-1]])
    assert {keys[n] for n in split.test} == {keys[::-1][n] for n in backwards.test}


def test_a_group_larger_than_a_part_stays_in_training() -> None:
    keys = [f"t{n}" for n in range(100)]
    split = split_examples(keys, None, 0.1, 0.1, 0, [0] * 60 + list(range(60, 100)))
    assert set(range(60)) <= set(split.train)
    assert [len(part) for part in parts(split)] == [80, 10, 10]
    # Of three groups of 4 each part gets one, though each owes a single text.
    split = split_examples(keys[:12], None, 0.1, 0.1, 0, [n % 3 for n in range(12)])
    assert [len(part) for part in parts(split)] == [4, 4, 4]


def test_small_classes_stay_in_training() -> None:
    labels = ["one"] + ["two"] * 2 + ["many"] * 97
    split = split_examples([f"t{n}" for n in range(100)], labels, 0.2, 0.2, seed=0)
    assert {"one", "two", "many"} == {labels[n] for n in split.train}
    assert 0 in split.train


def test_many_tiny_classes_still_give_a_test_part() -> None:
    labels = [f"class {n // 4}" for n in range(200)]
    split = split_examples([f"t{n}" for n in range(200)], labels, 0.1, 0.1, seed=0)
    assert len(split.test) == 20
    assert len(split.validation) == 20
    assert len({labels[n] for n in split.train}) == 50


def test_single_texts_do_not_strip_the_other_classes() -> None:
    labels = [f"single {n}" for n in range(100)] + ["full"] * 20
    split = split_examples([f"t{n}" for n in range(120)], labels, 0.1, 0.1, seed=0)
    assert sum(labels[n] == "full" for n in split.train) >= 14


def test_few_rows_give_at_least_one_each() -> None:
    split = split_examples([f"t{n}" for n in range(4)], None, 0.1, 0.1, seed=0)
    assert [len(part) for part in parts(split)] == [2, 1, 1]


def test_no_share_no_rows() -> None:
    split = split_examples([f"t{n}" for n in range(40)], None, 0.0, 0.1, seed=0)
    assert [len(part) for part in parts(split)] == [36, 0, 4]


def test_conflicting_labels_are_said(caplog: pytest.LogCaptureFixture) -> None:
    keys = ["same", "Same ", *(f"t{n}" for n in range(20))]
    labels = ["a", "b", *["a"] * 20]
    with caplog.at_level(logging.WARNING, logger="llmstages"):
        split = split_examples(keys, labels, 0.2, 0.2, seed=0)
    assert "1 text occurs with different labels in different rows, such as 'same'" in caplog.text
    # `b` occurs in this text only, so that both rows stay in training.
    assert {0, 1} <= set(split.train)


def test_nothing_left_for_training() -> None:
    with pytest.raises(UserError, match="their sum must be below 1"):
        split_examples(["a"], None, 0.5, 0.5, seed=0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=3), st.sampled_from("abc")), max_size=60),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
    st.integers(0, 5),
    st.integers(1, 9),
)
def test_promises(
    rows: list[tuple[str, str]], validation_share: float, test_share: float, seed: int, size: int
) -> None:
    keys, labels = [key for key, _ in rows], [label for _, label in rows]
    alike = [normalised_text(key)[:1] for key in keys] if size > 5 else None
    numbers = None if alike is None else [alike.index(text) for text in alike]
    split = split_examples(keys, labels, validation_share, test_share, seed, numbers)
    if numbers is not None:
        together = [{numbers[n] for n in part} for part in parts(split)]
        assert sum(map(len, together)) == len(set(numbers))
    assert sorted(n for part in parts(split) for n in part) == list(range(len(rows)))
    sets = [{normalised_text(keys[n]) for n in part} for part in parts(split)]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    for label in set(labels):
        own = [n for n in range(len(rows)) if labels[n] == label]
        assert set(own) & set(split.train)


def test_folds() -> None:
    """In proportion, alike rows together, in any order; a label that cannot be split trains."""
    keys = [f"text {n // 2 if n < 40 else n}" for n in range(100)] + ["lone", "Lone "]
    labels = ["a"] * 80 + ["b"] * 20 + ["c"] * 2
    folds = split_folds(keys, labels, 5, seed=0)
    assert folds[100:] == [None, None]
    assert folds[:40:2] == folds[1:40:2]
    assert Counter(folds[80:100]) == dict.fromkeys(range(5), 4)
    texts = dict(zip(keys[:80], folds, strict=False))
    assert Counter(texts.values()) == dict.fromkeys(range(5), 12)
    assert split_folds(keys[::-1], labels[::-1], 5, seed=0) == folds[::-1]
    assert split_folds(keys, labels, 5, seed=1) != folds

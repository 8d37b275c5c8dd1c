"""Fine-tuning batches: what carries loss, packing, and steps as pure functions."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from llmstages.data.batch import IGNORED
from llmstages.data.examples import (
    MOST_ROW_TOKENS,
    Example,
    PackedData,
    ShuffledData,
    by_length,
    conversation_example,
    labelled_example,
    labelled_windows,
    make_batch,
    pack,
    packed_batches,
)


def example(length, number=0):
    return Example([number + 1] * length, [IGNORED] * (length - 1) + [number], f"line {number}")


def references(batches):
    return [name for batch in batches for ref in batch.document_refs for name in ref.split(",")]


def test_only_supervised_tokens_are_targets():
    made = conversation_example([5, 6, 7, 8, 9], [False, False, True, True, False], 10, "x:1")
    assert made == Example([5, 6, 7, 8], [IGNORED, 7, 8, IGNORED], "x:1")


@pytest.mark.parametrize(("context", "kept"), [(2, None), (3, [IGNORED, IGNORED, 8])])
def test_a_long_conversation_is_cut(context, kept):
    made = conversation_example([5, 6, 7, 8, 9], [False, False, False, True, True], context, "x:1")
    assert (made and made.targets) == kept
    assert made is None or len(made.tokens) == context


@pytest.mark.parametrize(
    ("ids", "tokens"),
    [([], [0]), ([5, 6], [5, 6, 0]), ([5, 6, 7], [5, 6, 7, 0]), ([5, 6, 7, 8], [5, 6, 7, 0])],
)
def test_a_text_ends_in_the_end_token_and_predicts_its_label_there(ids, tokens):
    made = labelled_example(ids, 0, 3, 4, "x:1")
    assert made == Example(tokens, [IGNORED] * (len(tokens) - 1) + [3], "x:1")


@pytest.mark.parametrize("length", [0, 1, 8, 9, 14, 15, 100])
def test_windows_hold_all_of_a_long_text_and_overlap(length):
    windows = labelled_windows(range(1, length + 1), 0, 3, 9, "x:1")
    assert windows[0] == labelled_example(range(1, length + 1), 0, 3, 9, "x:1")
    assert all(w.tokens[-1] == 0 and w.targets[-1] == 3 for w in windows)
    parts = [w.tokens[:-1] for w in windows]
    assert sorted({token for part in parts for token in part}) == list(range(1, length + 1))
    assert length <= 8 or {len(part) for part in parts} == {8}
    assert all(len({*a} & {*b}) >= 2 for a, b in pairwise(parts))
    assert len(parts) == {0: 1, 1: 1, 8: 1, 9: 2, 14: 2, 15: 3, 100: 17}[length]


def test_an_epoch_reads_one_window_of_a_long_text_and_the_next_another():
    texts = [labelled_windows(range(1, 23), 0, 3, 9, f"long {i}") for i in range(3)]
    data = ShuffledData(texts, batch_size=3, micro_batch_tokens=99, seed=0)
    seen = {i: set() for i in range(3)}
    for epoch in range(len(texts[0])):
        (batch,) = data.micro_batches(epoch)
        begins = batch.tokens[0, :27:9].tolist()
        assert len({*begins}) == 3  # different windows in a step
        for begin, name in zip(begins, batch.document_refs[0].split(","), strict=True):
            seen[int(name[-1])].add(begin)
    assert all(len(begins) == len(texts[0]) == 4 for begins in seen.values())


def test_packing():
    examples = [example(n, i) for i, n in enumerate([5, 4, 3, 6, 2, 8, 1])]
    rows = pack(examples, 8)
    assert [[len(e.tokens) for e in row] for row in rows] == [[5, 3], [4, 2, 1], [6], [8]]
    assert sorted(e.reference for row in rows for e in row) == [f"line {i}" for i in range(7)]


def test_packing_many_keeps_every_example_and_fills_rows():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 65, (2000,), generator=generator).tolist()
    rows = pack([example(n, i) for i, n in enumerate(lengths)], 64)
    sizes = [sum(len(e.tokens) for e in row) for row in rows]
    assert max(sizes) <= 64
    assert sum(sizes) == sum(lengths)
    assert sum(sizes) / (64 * len(rows)) > 0.93
    assert Counter(e.reference for row in rows for e in row) == Counter(
        f"line {i}" for i in range(2000)
    )


def test_a_batch_of_packed_rows():
    batch = make_batch([[example(3, 4), example(2, 7)], [example(4, 9)]], 6)
    assert batch.tokens.tolist() == [[5, 5, 5, 8, 8, 0], [10, 10, 10, 10, 0, 0]]
    assert batch.targets.tolist() == [
        [IGNORED, IGNORED, 4, IGNORED, 7, IGNORED],
        [IGNORED, IGNORED, IGNORED, 9, IGNORED, IGNORED],
    ]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]]
    assert batch.document_ids.tolist() == [[0, 0, 0, 1, 1, -1], [0, 0, 0, 0, -1, -1]]
    assert batch.weights.tolist() == [[0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]]
    assert batch.document_refs == ("line 4,line 7", "line 9")
    assert batch.num_real_tokens == 9


def test_single_examples_need_no_mask():
    batch = make_batch([[example(3)], [example(5)]])
    assert batch.tokens.shape == (2, 5)
    assert batch.document_ids is None
    assert batch.position_ids is None


def test_batches_of_similar_length_within_the_limit():
    examples = [example(n, i) for i, n in enumerate([3, 9, 4, 2, 20, 8])]
    batches = list(by_length(examples, 40, 20))
    # Lengths are rounded up to multiples of 16, at most the context, so that few shapes occur.
    assert [tuple(batch.tokens.shape) for batch in batches] == [(2, 20), (2, 16), (2, 16)]
    assert sorted(references(batches)) == [f"line {i}" for i in range(6)]


@pytest.mark.parametrize(("least_rows", "tokens"), [(1, [1631, 730]), (3, [2361])])
def test_texts_of_a_step_share_rows_that_are_nearly_equal(least_rows, tokens):
    lengths = [900, 30, 700, 5, 5, 400, 300, 20, 1]
    examples = [example(n, i) for i, n in enumerate(lengths)]
    batches = list(packed_batches(examples, 2 * MOST_ROW_TOKENS, least_rows))
    assert [batch.tokens.shape[1] for batch in batches] == [912] * len(tokens)
    assert sum(len(batch.tokens) for batch in batches) == 3
    assert [batch.num_real_tokens for batch in batches] == tokens
    assert Counter(references(batches)) == Counter(f"line {i}" for i in range(9))
    (alone,) = packed_batches([example(3, 3)], 2, least_rows)
    assert alone.tokens.shape == (1, 16)
    assert alone.document_ids is None
    assert alone.position_ids.max() == 2  # padding may reach beyond the context


def test_every_example_once_an_epoch_for_a_classifier():
    data = ShuffledData(
        [[example(1 + i % 7, i)] for i in range(21)],
        batch_size=8,
        micro_batch_tokens=20,
        seed=0,
    )
    assert data.steps_per_epoch == 3
    orders = set()
    for epoch in range(3):
        steps = [list(data.micro_batches(3 * epoch + place)) for place in range(3)]
        assert [len(references(step)) for step in steps] == [8, 8, 5]
        names = [name for step in steps for name in references(step)]
        assert sorted(names) == sorted(f"line {i}" for i in range(21))
        orders.add(tuple(names))
    assert len(orders) == 3


def test_a_text_loses_other_tokens_each_time_and_never_its_end():
    text = labelled_windows(range(10, 60), 0, 3, 99, "x:1")
    data = ShuffledData([text], batch_size=1, micro_batch_tokens=99, seed=0, token_dropout=0.3)
    read = [next(data.micro_batches(step)) for step in range(40)]
    kept = [batch.tokens[0, : batch.num_real_tokens].tolist() for batch in read]
    assert len({tuple(tokens) for tokens in kept}) == 40
    assert all(tokens == [*sorted(tokens[:-1]), 0] for tokens in kept)
    assert 30 < sum(len(tokens) - 1 for tokens in kept) / 40 < 40
    assert all(batch.targets[0, batch.num_real_tokens - 1] == 3 for batch in read)
    assert all((batch.targets != IGNORED).sum() == 1 for batch in read)
    again = next(data.micro_batches(7))
    assert torch.equal(again.tokens, read[7].tokens)
    short = labelled_windows([5], 0, 3, 99, "x:2", begin_ids=[1, 2])
    data = ShuffledData([short], batch_size=1, micro_batch_tokens=99, seed=0, token_dropout=0.9)
    assert all(next(data.micro_batches(s)).tokens[0, :4].tolist() == [1, 2, 5, 0] for s in range(9))


@pytest.mark.parametrize("rows_per_step", [1, 2, 5])
def test_every_example_once_an_epoch_when_packed(rows_per_step):
    """Also in epochs whose order packs into fewer rows than the first's did."""
    lengths = [7, 6, 5, 4, 4, 3, 3, 2, 2, 2, 1, 1, 8, 5, 3]
    examples = [example(n, i) for i, n in enumerate(lengths)]
    num_rows = set()
    for seed in range(20):
        data = PackedData(
            examples,
            context_length=8,
            rows_per_step=rows_per_step,
            rows_per_micro_batch=1,
            seed=seed,
        )
        for epoch in range(6):
            names = []
            for place in range(data.steps_per_epoch):
                batches = list(data.micro_batches(epoch * data.steps_per_epoch + place))
                assert batches, "a step without a batch has no gradient"
                names += references(batches)
            assert sorted(names) == sorted(f"line {i}" for i in range(15))
            num_rows.add(len(data.epoch_rows(epoch)))
    assert len(num_rows) > 1


def test_steps_are_pure_functions():
    examples = [example(1 + i % 9, i) for i in range(40)]

    def packed():
        return PackedData(
            examples, context_length=10, rows_per_step=3, rows_per_micro_batch=2, seed=4
        )

    def shuffled():
        return ShuffledData([[e] for e in examples], batch_size=6, micro_batch_tokens=30, seed=4)

    for make in (packed, shuffled):
        whole = make()
        steps = [references(whole.micro_batches(step)) for step in range(20)]
        again = make()
        assert [references(again.micro_batches(s)) for s in reversed(range(20))] == steps[::-1]


def test_every_class_equally_often_and_each_of_its_texts():
    """17 texts, of which 2 and 3 are of the rarer classes: 6 of each class an epoch."""
    classes = [0] * 12 + [1] * 2 + [2] * 3
    data = ShuffledData(
        [[example(1 + i % 7, i)] for i in range(17)],
        batch_size=4,
        micro_batch_tokens=20,
        seed=0,
        classes=classes,
    )
    steps = [references(data.micro_batches(step)) for step in range(20)]
    assert data.steps_per_epoch == 5
    read = [[int(name.removeprefix("line ")) for name in step] for step in steps]
    for epoch in range(4):
        reads = [number for step in read[5 * epoch : 5 * epoch + 5] for number in step]
        assert Counter(classes[number] for number in reads) == {0: 6, 1: 6, 2: 6}
    counts = Counter(number for step in read for number in step)
    assert [counts[number] for number in range(17)] == [2] * 12 + [12] * 2 + [8] * 3
    assert [references(data.micro_batches(step)) for step in reversed(range(20))] == steps[::-1]

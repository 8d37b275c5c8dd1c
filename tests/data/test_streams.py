"""Pretraining batches: what is predicted, how often, in which order; all of it a pure function."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from llmstages.data.batch import IGNORED
from llmstages.data.streams import (
    PretrainingData,
    Window,
    mixture_shares,
    stack_windows,
    validation_batches,
    validation_windows,
)
from llmstages.errors import UserError
from llmstages.evaluate.perplexity import Likelihood

SETTINGS = {"context_length": 8, "rows_per_step": 4, "rows_per_micro_batch": 2, "seed": 0}


def text(count, first=1):
    """Ids that are all different, so that each tells where it stood."""
    return np.arange(first, first + count)


def content(batch):
    return (batch.tokens.tolist(), batch.targets.tolist(), batch.document_refs)


def targets(data, steps):
    """All targets of some steps."""
    return [
        target
        for step in steps
        for batch in data.micro_batches(step)
        for target in batch.targets.flatten().tolist()
        if target != IGNORED
    ]


def test_each_row_predicts_its_own_next_ids(make_shard):
    data = PretrainingData([make_shard(text(500))], **SETTINGS)
    batches = list(data.micro_batches(0))
    assert [tuple(batch.tokens.shape) for batch in batches] == [(2, 8), (2, 8)]
    for batch in batches:
        assert torch.equal(batch.targets, batch.tokens + 1)  # the text counts upwards
        assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
        assert bool((batch.weights == 1).all())
        assert batch.num_real_tokens == 16


def test_short_text_is_read_completely_in_each_epoch(make_shard):
    # 41 ids: five windows of 8 predict every id but the first
    data = PretrainingData([make_shard(text(41))], **{**SETTINGS, "rows_per_step": 5})
    assert data.rows_per_epoch == 5
    for epoch in range(4):
        assert sorted(targets(data, [epoch])) == list(range(2, 42))


def test_no_token_is_predicted_twice_in_an_epoch_and_borders_move(make_shard):
    data = PretrainingData([make_shard(text(1000))], **{**SETTINGS, "rows_per_step": 1})
    windows = data.rows_per_epoch
    assert windows == 999 // 8 - 1
    borders, orders = set(), set()
    for epoch in range(5):
        steps = range(epoch * windows, (epoch + 1) * windows)
        seen = Counter(targets(data, steps))
        assert max(seen.values()) == 1
        assert len(seen) == windows * 8  # all but the room that lets the borders move
        borders.add(min(seen) % 8)
        orders.add(tuple(next(iter(data.micro_batches(step))).document_refs[0] for step in steps))
    assert len(borders) > 1
    assert len(orders) == 5


def test_a_step_is_a_pure_function(make_shard):
    shards = [make_shard(text(700), "a"), make_shard(text(300, 1000), "b")]
    forward = PretrainingData(shards, **SETTINGS)
    steps = [[content(batch) for batch in forward.micro_batches(step)] for step in range(60)]
    backward = PretrainingData(shards, **SETTINGS)
    for step in reversed(range(60)):
        assert [content(batch) for batch in backward.micro_batches(step)] == steps[step]
    late = PretrainingData(shards, **SETTINGS)
    assert [content(batch) for batch in late.micro_batches(47)] == steps[47]
    other = PretrainingData(shards, **{**SETTINGS, "seed": 1})
    assert [content(batch) for batch in other.micro_batches(0)] != steps[0]


def test_micro_batches_do_not_change_a_step(make_shard):
    shards = [make_shard(text(700))]
    whole = PretrainingData(shards, **{**SETTINGS, "rows_per_micro_batch": 4})
    cut = PretrainingData(shards, **{**SETTINGS, "rows_per_micro_batch": 3})
    for step in range(5):
        (one,) = whole.micro_batches(step)
        parts = list(cut.micro_batches(step))
        assert [len(part.tokens) for part in parts] == [3, 1]
        assert torch.equal(one.tokens, torch.cat([part.tokens for part in parts]))


@pytest.mark.parametrize("weights", [(0.5, 0.3, 0.2), (8, 1, 1), (1, 0, 3), (None, None, None)])
def test_mixture_shares(make_shard, weights):
    sizes = (400, 800, 2000)
    shards = [
        make_shard(text(size, 1 + 5000 * number), f"source{number}", weight=weight)
        for number, (size, weight) in enumerate(zip(sizes, weights, strict=True))
    ]
    wanted = np.array(sizes if weights[0] is None else weights, dtype=float)
    wanted /= wanted.sum()
    assert mixture_shares(shards) == pytest.approx(wanted)
    data = PretrainingData(shards, **SETTINGS)
    for first in (0, 17, 12_345):  # every stretch of 100 rows has the shares, not only the sum
        found = np.bincount(data.sources_of(first, 100), minlength=3) / 100
        assert found == pytest.approx(wanted, abs=0.03)
    assert data.counts_before(5000) == pytest.approx(5000 * wanted, abs=5)
    assert data.counts_before(10).sum() == 10


def test_a_step_takes_its_sources_by_their_shares(make_shard):
    shards = [make_shard(text(900), "a", weight=3), make_shard(text(900, 1000), "b", weight=1)]
    data = PretrainingData(shards, **SETTINGS)
    seen = Counter(
        reference.split("/")[0]
        for step in range(50)
        for batch in data.micro_batches(step)
        for reference in batch.document_refs
    )
    assert seen["a"] == pytest.approx(150, abs=3)


def test_references_name_the_document(make_shard):
    ids = text(200)
    ids[99] = 0  # the first document ends here
    data = PretrainingData([make_shard(ids)], **SETTINGS)
    for step in range(10):
        for batch in data.micro_batches(step):
            for row, reference in zip(batch.tokens.tolist(), batch.document_refs, strict=True):
                begin = int(reference.split("+")[1])
                assert row == ids[begin : begin + 8].tolist()
                assert f"document-{int(begin > 99)}+" in reference


def test_a_source_shorter_than_the_context_is_padded(make_shard):
    shards = [make_shard(text(4), "short", weight=1), make_shard(text(100, 50), "long", weight=1)]
    data = PretrainingData(shards, **SETTINGS)
    (batch,) = [b for b in data.micro_batches(0) if "short" in str(b.document_refs)][:1]
    row = next(i for i, ref in enumerate(batch.document_refs) if ref.startswith("short"))
    assert batch.targets[row].tolist() == [2, 3, 4, *[IGNORED] * 5]
    assert batch.weights[row].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert batch.num_real_tokens == int(batch.weights.sum())


def test_weights_that_make_no_mixture(make_shard):
    some = [make_shard(text(50), "a", weight=1.0), make_shard(text(50), "b")]
    with pytest.raises(UserError, match=r"source b has no weight.*corpus\.sources\.b\.weight"):
        mixture_shares(some)
    with pytest.raises(UserError, match="all source weights are 0"):
        mixture_shares([make_shard(text(50), "c", weight=0.0)])


def ended(*lengths, first=1):
    """Documents of ids that are all different, each followed by the end token 0."""
    ids = []
    for length in lengths:
        ids += [*range(first, first + length), 0]
        first += length
    return np.array(ids)


def predicted(windows, rows=4):
    """Targets of the windows, in order."""
    return [
        target
        for batch in validation_batches(windows, rows)
        for target in batch.targets.flatten().tolist()
        if target != IGNORED
    ]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_validation_predicts_every_token_of_the_text_but_the_first_once(make_shard, rows):
    # Documents that end at every place of a window, its first and last tokens included.
    lengths = [*range(1, 20), 7, 6, 8, 15, 16, 17]
    shards = [make_shard(ended(*lengths), "a"), make_shard(ended(30, first=1000), "b")]
    first, second = validation_windows(shards, context_length=8)
    assert all(len(batch.tokens) <= rows for batch in validation_batches(first, rows))
    assert predicted(first, rows) == list(range(2, 1 + sum(lengths)))
    assert predicted(second, rows) == list(range(1001, 1030))
    for batch in validation_batches(first, rows):
        assert torch.equal(batch.weights, (batch.targets != IGNORED).float())


def test_a_sample_of_the_validation_text_is_spread_over_it(make_shard):
    shards = [make_shard(ended(800), "a"), make_shard(ended(*[19] * 10, first=1000), "b")]
    sample = validation_windows(shards, context_length=8, max_tokens=100)
    assert [sum(window.length for window in own) for own in sample] == [80, 20]
    assert [[window.begin for window in own] for own in sample] == [
        [40 + 80 * index for index in range(10)],  # one from the middle of each tenth
        [32, 96, 160],
    ]
    again = validation_windows(shards, context_length=8, max_tokens=100)
    assert again == sample
    whole = validation_windows(shards, context_length=8, max_tokens=10**6)
    assert whole == validation_windows(shards, context_length=8)
    seen = predicted(sample[0])
    assert len(seen) == len(set(seen)) == 80


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 64, 65])
@pytest.mark.parametrize("max_tokens", [1, 7, 8, 9, 60, 63, 64])
def test_a_sample_has_the_size_asked_for(make_shard, length, max_tokens):
    (windows,) = validation_windows(
        [make_shard(ended(length))], context_length=8, max_tokens=max_tokens
    )
    lengths = [window.length for window in windows]
    assert sum(lengths) <= min(length, max_tokens)
    assert sum(lengths) > min(length, max_tokens) - 8
    assert all(1 <= window.length <= 8 for window in windows)
    assert all(window.begin + window.length <= length for window in windows)


def test_stacked_rows_of_different_lengths(make_shard):
    ids = [5, 6, 7, 0, 1, 2, 3]
    shard = make_shard(ids)
    batch = stack_windows([Window(shard, 0, 2), Window(shard, 4, 1)])
    assert batch.tokens.tolist() == [[5, 6], [1, 0]]
    assert batch.targets.tolist() == [[6, 7], [2, IGNORED]]
    assert batch.document_refs == ("source/document-0+0", "source/document-1+4")
    assert batch.position_ids is None
    assert batch.document_ids is None


def test_attention_and_positions_stay_inside_documents(make_shard):
    shard = make_shard([5, 6, 7, 0, 1, 2, 3, 0, 8, 0, 9, 4])
    batch = stack_windows([Window(shard, 0, 10), Window(shard, 1, 4)], mask_documents=True)
    # An end token is read as the beginning of the document after it.
    assert batch.document_ids[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 1, 0]
    assert batch.document_ids[1, :4].tolist() == [0, 0, 1, 1]
    assert batch.position_ids[1, :4].tolist() == [0, 1, 0, 1]
    plain = stack_windows([Window(shard, 0, 10), Window(shard, 1, 4)])
    assert torch.equal(plain.tokens, batch.tokens)
    assert torch.equal(plain.targets, batch.targets)


def test_masked_steps_are_the_plain_ones_with_documents(make_shard):
    rng = np.random.default_rng(0)
    shards = [
        make_shard(ended(*rng.integers(1, 9, 80)), "a", weight=2),
        make_shard(ended(*rng.integers(1, 9, 90), first=1000), "b", weight=1),
    ]
    plain = PretrainingData(shards, **SETTINGS)
    masked = PretrainingData(shards, **SETTINGS, mask_documents=True)
    late = PretrainingData(shards, **SETTINGS, mask_documents=True)
    for step in reversed(range(20)):
        for one, two, three in zip(
            plain.micro_batches(step),
            masked.micro_batches(step),
            late.micro_batches(step),
            strict=True,
        ):
            assert content(one) == content(two)
            assert torch.equal(two.document_ids, three.document_ids)
            for tokens, positions, documents in zip(
                two.tokens.tolist(),
                two.position_ids.tolist(),
                two.document_ids.tolist(),
                strict=True,
            ):
                number = place = -1
                for index, token in enumerate(tokens):
                    begins = index == 0 or token == 0
                    number, place = (number + 1, 0) if begins else (number, place + 1)
                    assert (documents[index], positions[index]) == (number, place)


def test_bits_per_byte():
    # 1,000 targets at 2 bits over 500 bytes
    assert Likelihood(1000 * math.log(4), 1000).bits_per_byte(500) == pytest.approx(4.0)
    assert Likelihood(1000 * math.log(4), 1000).loss == pytest.approx(math.log(4))

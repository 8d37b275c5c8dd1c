"""Scaling rules: exact values, limits, and that the optimum is one."""

import math

import pytest

from llmstages.model.counts import num_parameters
from llmstages.model.scaling import (
    data_constrained_loss,
    default_tokens,
    derived_batch_tokens,
    derived_context_length,
    derived_weight_decay,
    effective_parameters,
    effective_tokens,
    ladder,
    optimal_for_flops,
    optimal_parameters,
    predicted_loss,
    shape_flops_per_token,
    size_for_flops,
    size_for_tokens,
    speed_between,
    tokens_of_steps,
)

PLENTY = 1e15


def test_predicted_loss():
    assert predicted_loss(1, 1) == pytest.approx(1.8172 + 482.01 + 2085.43)
    assert predicted_loss(1e40, 1e40) == pytest.approx(1.8172)
    # 482.01 / 10^3.478 and 2085.43 / 10^4.3896
    assert predicted_loss(1e10, 1e12) == pytest.approx(1.8172 + 0.16034 + 0.08503, abs=2e-5)


@pytest.mark.parametrize("tokens", [1e7, 1e9, 1.4e12])
def test_optimal_parameters_are_the_best_for_their_flops(tokens):
    parameters = optimal_parameters(tokens)
    best = predicted_loss(parameters, tokens)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert predicted_loss(factor * parameters, tokens / factor) > best
    assert 15 < tokens / parameters < 40


@pytest.mark.parametrize("flops", [1e18, 3.14e23])
def test_the_optimum_of_given_flops(flops):
    parameters, tokens = optimal_for_flops(flops)
    assert 6 * parameters * tokens == pytest.approx(flops)
    assert parameters == pytest.approx(optimal_parameters(tokens))


def test_repeated_tokens_are_worth_less():
    assert effective_tokens(50, 100) == 50
    assert effective_tokens(100, 100) == 100
    four = 1 + 15.387756 * (1 - math.exp(-3 / 15.387756))
    assert effective_tokens(400, 100) == pytest.approx(100 * four) == pytest.approx(372.6, abs=0.1)
    assert effective_tokens(1e9, 100) == pytest.approx(100 * (1 + 15.387756))


def test_excess_parameters_are_worth_less():
    useful = optimal_parameters(1e9)
    assert effective_parameters(useful / 2, 1e9) == useful / 2
    twice = 1 + 5.309743 * (1 - math.exp(-1 / 5.309743))
    assert effective_parameters(2 * useful, 1e9) == pytest.approx(twice * useful)
    assert effective_parameters(1e6 * useful, 1e9) == pytest.approx((1 + 5.309743) * useful)


def test_without_repetition_it_is_the_plain_law():
    parameters = optimal_parameters(1e9)
    assert data_constrained_loss(parameters, 1e9, PLENTY) == predicted_loss(parameters, 1e9)


def test_the_ladder_holds_the_shipped_small_shapes():
    shapes = ladder(4096, 2e9, PLENTY)
    told = {(s.num_layers, s.hidden_size, s.context_length) for s in shapes}
    assert {(4, 128, 256), (6, 256, 256), (8, 384, 512), (14, 768, 1024)} <= told
    sizes = [num_parameters(shape) for shape in shapes]
    assert sizes == sorted(sizes)
    assert 1.5e9 < sizes[-1] <= 2e9
    for shape in shapes:
        assert shape.num_heads * shape.head_dim == shape.hidden_size
        assert shape.intermediate_size % 64 == 0
    assert {s.context_length for s in ladder(65, 1e7, PLENTY, 32)} == {32}
    assert len(ladder(100_000, 1, PLENTY)) == 1


@pytest.mark.parametrize(
    ("width", "corpus_tokens", "length"),
    [
        (64, PLENTY, 256),
        (384, PLENTY, 512),
        (768, PLENTY, 1024),
        (1536, PLENTY, 2048),
        (1536, 128 * 512, 512),
        (64, 1000, 64),
    ],
)
def test_context_length(width, corpus_tokens, length):
    assert derived_context_length(width, corpus_tokens) == length


@pytest.mark.parametrize("flops", [1e15, 1e18, 1e21])
@pytest.mark.parametrize("vocab_size", [65, 4096])
def test_size_for_flops(flops, vocab_size):
    shapes = ladder(vocab_size, 2e10, PLENTY)
    size = size_for_flops(shapes, lambda _: flops, PLENTY)
    assert size.tokens == flops / shape_flops_per_token(size.shape)
    losses = [
        data_constrained_loss(num_parameters(s), flops / shape_flops_per_token(s), PLENTY)
        for s in shapes
    ]
    assert losses[shapes.index(size.shape)] == min(losses)
    assert 10 < size.tokens / size.parameters < 60


def test_a_small_corpus_wants_a_smaller_model():
    shapes = ladder(4096, 2e10, PLENTY)
    sizes = [
        size_for_flops(shapes, lambda _: 1e18, unique).parameters
        for unique in (1e7, 1e8, 1e9, PLENTY)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] / 2


def test_a_faster_large_model_is_chosen_sooner():
    shapes = ladder(4096, 2e10, PLENTY)
    equal = size_for_flops(shapes, lambda _: 1e16, PLENTY)
    faster = size_for_flops(shapes, lambda s: 1e16 * (s.hidden_size / 320) ** 2, PLENTY)
    assert faster.parameters > equal.parameters


def test_size_for_tokens():
    shapes = ladder(4096, 1e9, PLENTY)
    size = size_for_tokens(shapes, 1e9, PLENTY)
    larger = shapes[shapes.index(size.shape) + 1]
    assert 20 * size.parameters <= 1e9 < 20 * num_parameters(larger)
    assert size_for_tokens(shapes, 1e9, 1e6).parameters < size.parameters
    assert size_for_tokens(shapes, 1, PLENTY).shape == shapes[0]


def test_speed_between():
    known = [(1e6, 1e9), (1e8, 4e9)]
    assert speed_between(1e7, known) == pytest.approx(2e9)
    assert [speed_between(n, known) for n in (1, 1e6, 1e8, 1e12)] == [1e9, 1e9, 4e9, 4e9]


def test_default_tokens():
    assert default_tokens(1000, 10_000) == 20_000
    assert default_tokens(1000, 1000) == 4000


@pytest.mark.parametrize(
    ("tokens", "batch"),
    [(1000, 512), (10**6, 2048), (2 * 10**7, 8192), (10**9, 65_536), (10**10, 262_144)],
)
def test_derived_batch(tokens, batch):
    assert derived_batch_tokens(tokens) == batch


def test_weight_decay_forgets_an_epoch_or_the_run():
    assert derived_weight_decay(0.01, 1000, 500) == pytest.approx(0.2)
    assert derived_weight_decay(0.01, 100, 500) == pytest.approx(1.0)
    assert derived_weight_decay(0.01, 1, 0.5) == pytest.approx(100)


@pytest.mark.parametrize("steps", [20, 500, 10_000])
def test_tokens_of_steps_are_steps_of_the_derived_batch(steps):
    tokens = tokens_of_steps(steps)
    assert tokens / steps == pytest.approx(derived_batch_tokens(tokens), rel=2**0.5 - 1)

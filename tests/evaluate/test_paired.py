"""The difference of two models on the same items."""

import math
from fractions import Fraction

import numpy as np
import pytest

from llmstages.evaluate.bootstrap import mean
from llmstages.evaluate.paired import differences, mcnemar, weighted


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 5), (30, 12), (700, 640)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    right_a = [True] * only_a + [False] * only_b + [True, False] * 4
    right_b = [False] * only_a + [True] * only_b + [True, False] * 4
    found = mcnemar(right_a, right_b)
    assert (found.only_a, found.only_b) == (only_a, only_b)
    total = only_a + only_b
    tail = sum(math.comb(total, count) for count in range(min(only_a, only_b) + 1))
    assert found.p_value == pytest.approx(min(1, Fraction(2 * tail, 2**total)), rel=1e-9)


def test_what_is_hard_for_both_cancels_out():
    hard = np.random.default_rng(0).random(400) * 100
    a = {"chrf": weighted(mean(hard)), "val_loss": weighted(mean(hard)), "alone": None}
    b = {name: weighted(mean(hard * 1.1 + 1)) for name in ("chrf", "val_loss")}
    found = differences(a, b, 400, seed=0)
    assert found.keys() == {"chrf", "val_loss"}
    chrf = found["chrf"]
    assert chrf.difference == pytest.approx(0.1 * hard.mean() + 1)
    # Of the difference alone: a tenth of what the figures themselves vary by.
    width = chrf.interval[1] - chrf.interval[0]
    assert width == pytest.approx(0.1 * 2 * 1.96 * hard.std() / 20, rel=0.15)
    assert chrf.is_clear
    assert chrf.improvement_percent == pytest.approx(100 * chrf.difference / hard.mean())
    assert chrf.improvement_interval[0] < chrf.improvement_percent < chrf.improvement_interval[1]
    assert found["val_loss"].improvement_percent == -chrf.improvement_percent


def test_nothing_is_a_share_of_nothing():
    found = differences(
        {"accuracy": weighted(mean([0.0, 0.0]))}, {"accuracy": weighted(mean([1.0, 0.0]))}, 2, 0
    )["accuracy"]
    assert (found.difference, found.improvement_percent, found.improvement_interval) == (
        0.5,
        None,
        None,
    )
    assert not found.is_clear


def test_resamples_that_are_all_equal_are_no_interval():
    """Whether the models are alike on every item, or differ by the same on each."""
    for step in (0.0, 0.5):
        shifted = {"chrf": weighted(mean(np.arange(20.0) + step))}
        found = differences({"chrf": weighted(mean(np.arange(20.0)))}, shifted, 20, 0)["chrf"]
        assert (found.difference, found.interval) == (step, None)
        assert found.is_clear == bool(step)

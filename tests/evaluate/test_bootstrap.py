"""Intervals of figures by resampling sums."""

import math

import numpy as np
import pytest

from llmstages.data.order import generator_for
from llmstages.evaluate.bootstrap import (
    NUM_RESAMPLES,
    Measure,
    mean,
    proportion,
    ratio,
    summarised,
)
from llmstages.evaluate.improvement import improvement_percent


def test_a_mean_has_the_interval_of_a_binomial() -> None:
    """Of 400 zeros and ones the middle 95 % of resampled means are 1.96 deviations wide."""
    measure = mean([True] * 100 + [False] * 300)
    deviation = math.sqrt(0.25 * 0.75 / 400)
    low, high = measure.interval(seed=0)
    assert measure.value == 0.25
    assert low == pytest.approx(0.25 - 1.96 * deviation, abs=0.2 * deviation)
    assert high == pytest.approx(0.25 + 1.96 * deviation, abs=0.2 * deviation)


def test_the_draws_are_those_of_philox() -> None:
    values = np.array([1.0, 2.0, 4.0])
    generator = generator_for("bootstrap", 7)
    means = [values[generator.integers(0, 3, 3)].mean() for _ in range(NUM_RESAMPLES)]
    expected = np.quantile(means, [0.025, 0.975])
    assert mean(values).interval(7) == pytest.approx(tuple(expected), rel=1e-12)
    assert mean(np.arange(9.0)).interval(7) != mean(np.arange(9.0)).interval(8)


def test_long_examples_weigh_more() -> None:
    """Nats over targets, and a figure of the sums that is no mean."""
    statistics = np.array([[2.0, 1.0], [3.0, 9.0]])
    assert Measure(statistics).value == 0.5
    assert Measure(statistics, lambda sums: math.exp(ratio(sums))).value == math.exp(0.5)
    assert Measure(statistics).interval(0) == (3 / 9, 2.0)


def test_equal_examples_are_not_certain() -> None:
    """A mean of them has no interval, even where rounding tells resamples apart; a share has."""
    found = summarised({"a": mean([0.1] * 20), "b": proportion([True] * 10)}, seed=3)
    assert found["a"] == pytest.approx(0.1)
    assert found["intervals"]["a"] is None
    assert found["intervals"]["b"] == [pytest.approx(10 / (10 + 1.96**2), abs=1e-4), 1.0]


def test_improvement_is_positive_where_it_is_better() -> None:
    before = {"val_loss": 4.0, "chrf": 20.0, "bleu": 0.0, "intervals": {}}
    after = {"val_loss": 3.0, "chrf": 15.0, "bleu": 1.0, "intervals": {}, "other": 1.0}
    assert improvement_percent(before, after) == {"val_loss": 25.0, "chrf": -25.0, "bleu": None}

"""Two models on the same items: by how much one is better, and whether that may be chance.

Both are measured on the same resamples of the items (paired bootstrap; Efron and Tibshirani 1993,
chapter 16): what makes an item hard for both then cancels out of their difference.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstages.evaluate.bootstrap import Figures, Interval, Measure, middle, resamples
from llmstages.evaluate.improvement import LOWER_IS_BETTER

Weighted = Callable[[NDArray[np.integer[Any]]], Figures]
"""A figure of items, each of which counts as often as it is drawn: [n, r] -> [r]."""


@dataclass(frozen=True)
class Difference:
    """A figure of two models."""

    a: float
    b: float
    difference: float
    """b - a."""
    interval: Interval | None
    """Where the middle 95 % of 1,000 paired resamples of the difference lie; None where they are
    equal."""
    improvement_percent: float | None
    """By how much b is better, in % of what a is; None where that is 0."""
    improvement_interval: Interval | None

    @property
    def is_clear(self) -> bool:
        """Whether 0 lies outside the interval, or every resample has the same difference."""
        if self.interval is None:
            return self.difference != 0
        return not self.interval[0] <= 0 <= self.interval[1]


def weighted(measure: Measure) -> Weighted:
    """A measure as a function of how often each item counts."""
    return lambda counts: np.array([measure.score(sums) for sums in counts.T @ measure.statistics])


def differences(
    a: Mapping[str, Weighted], b: Mapping[str, Weighted], count: int, seed: int
) -> dict[str, Difference]:
    """Each figure that both have, on `count` items, which are the same in both."""
    names = [name for name in a if name in b]
    once = np.ones((count, 1), np.int64)
    found: dict[str, tuple[list[Figures], list[Figures]]] = {name: ([], []) for name in names}
    for counts in resamples(count, seed):
        for name in names:
            found[name][0].append(a[name](counts))
            found[name][1].append(b[name](counts))
    result = {}
    for name in names:
        drawn_a, drawn_b = (np.concatenate(parts) for parts in found[name])
        value_a, value_b = float(a[name](once)[0]), float(b[name](once)[0])
        sign = -1 if name in LOWER_IS_BETTER else 1
        percent = percents = None
        if value_a:
            percent = 100 * sign * (value_b - value_a) / abs(value_a)
        if (drawn_a != 0).all():
            percents = middle(100 * sign * (drawn_b - drawn_a) / np.abs(drawn_a))
        result[name] = Difference(
            *(value_a, value_b, value_b - value_a, middle(drawn_b - drawn_a)),
            *(percent, percents),
        )
    return result


@dataclass(frozen=True)
class McNemar:
    """Items that one model alone gets right, and how likely so uneven a split is by chance."""

    only_a: int
    only_b: int
    p_value: float
    """Two-sided and exact: of a fair coin (McNemar 1947)."""


def mcnemar(right_a: Sequence[bool], right_b: Sequence[bool]) -> McNemar:
    """Compare which items two models get right."""
    pairs = list(zip(right_a, right_b, strict=True))
    only_a, only_b = sum(a > b for a, b in pairs), sum(b > a for a, b in pairs)
    n = only_a + only_b
    tail = sum(
        exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - n * log(2))
        for k in range(min(only_a, only_b) + 1)
    )
    return McNemar(only_a, only_b, min(1.0, 2 * tail))

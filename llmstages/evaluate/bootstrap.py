"""How sure a figure is: percentile intervals over resampled examples (Efron 1979).

A figure of a set is computed from sums over its examples. So a resample needs the sums alone, never
the texts again: corpus scores such as BLEU are resampled like means. Shares of examples have
Wilson's interval instead. A figure all of whose resamples are equal has none: that no example
differs from the others says nothing of those that were not seen.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstages.data.order import generator_for

NUM_RESAMPLES = 1000
INTERVAL_SHARE = 0.95

CHUNK_ENTRIES = 2**24
"""Counts that are held at once: all resamples of a large set would not fit memory."""

Figures = NDArray[np.float64]
Interval = tuple[float, float]


def resamples(count: int, seed: int) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    """How often each of `count` examples is in each of 1,000 resamples of as many, in parts [n, r].

    The draws depend on the seed and the number of examples alone: figures of the same examples are
    resampled alike. The type holds the sum of a resample, and is small, for speed.
    """
    generator = generator_for("bootstrap", seed)
    most = max(1, CHUNK_ENTRIES // count)
    for begin in range(0, NUM_RESAMPLES, most):
        part = np.empty((count, min(most, NUM_RESAMPLES - begin)), np.min_scalar_type(count))
        for column in part.T:
            column[:] = np.bincount(generator.integers(0, count, count), minlength=count)
        yield part


def middle(scores: Figures | list[float]) -> Interval | None:
    """Where the middle 95 % of resampled values lie, NaN left out; None where they are equal."""
    tail = (1 - INTERVAL_SHARE) / 2
    low, high = map(float, np.nanquantile(scores, [tail, 1 - tail]))
    return None if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12) else (low, high)


def ratio(sums: Figures) -> float:
    """The first sum over the second: a mean, with what is averaged over beside it."""
    return float(sums[0] / sums[1]) if sums[1] else 0.0


@dataclass(frozen=True)
class Measure:
    """One figure of a set of examples."""

    statistics: Figures
    """[n, k]: what each example brings to the k sums."""
    score: Callable[[Figures], float] = ratio
    """The figure of the sums, [k]."""

    @property
    def value(self) -> float:
        """The figure of all examples."""
        return self.score(self.statistics.sum(axis=0))

    def interval(self, seed: int) -> Interval | None:
        """Where the middle 95 % of 1,000 resamples lie: as many examples, drawn with return.

        None where they are equal.
        """
        return middle(
            [
                self.score(sums)
                for counts in resamples(len(self.statistics), seed)
                for sums in counts.T @ self.statistics
            ]
        )


def mean(values: Figures | NDArray[np.bool_] | list[float] | list[bool]) -> Measure:
    """The mean of one value an example."""
    column = np.asarray(values, dtype=np.float64)
    return Measure(np.stack([column, np.ones_like(column)], axis=1))


class Proportion(Measure):
    """A share of examples; its interval holds where none, or all, of them count."""

    def interval(self, seed: int) -> Interval:
        """Wilson's, of 95 %."""
        return wilson_interval(self.value, len(self.statistics))


def wilson_interval(share: float, n: int) -> Interval:
    """Wilson's score interval (Wilson 1927), of 95 %, of a share of n examples."""
    z = NormalDist().inv_cdf(0.5 + INTERVAL_SHARE / 2)
    middle_of = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle_of + side * half) / (1 + z * z / n) for side in (-1, 1))
    return min(share, max(0.0, low)), max(share, min(1.0, high))  # but for rounding


def proportion(hits: Figures | NDArray[np.bool_] | list[bool]) -> Proportion:
    """The share of examples that are hits, or half a hit where two are equal."""
    return Proportion(mean(hits).statistics)


def summarised(measures: Mapping[str, Measure], seed: int) -> dict[str, Any]:
    """Values by name, and under `intervals` [low, high] of each, or None."""
    intervals = {name: measure.interval(seed) for name, measure in measures.items()}
    values = {name: measure.value for name, measure in measures.items()}
    return {**values, "intervals": _as_lists(intervals)}


def intervals_of(
    figures: Mapping[str, float], drawn: Sequence[Mapping[str, Figures]], shares: Mapping[str, int]
) -> dict[str, list[float] | None]:
    """[low, high] of each figure, or None.

    Args:
        figures: by name.
        drawn: the same of resamples, in parts [r].
        shares: of which figures are a share of examples, and of how many.
    """
    return _as_lists(
        {
            name: wilson_interval(value, shares[name])
            if name in shares
            else middle(np.concatenate([part[name] for part in drawn]))
            for name, value in figures.items()
        }
    )


def _as_lists(intervals: Mapping[str, Interval | None]) -> dict[str, list[float] | None]:
    """As JSON has them."""
    return {name: None if ends is None else list(ends) for name, ends in intervals.items()}

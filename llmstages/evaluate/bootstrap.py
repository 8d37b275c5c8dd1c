"""How sure a figure is: percentile intervals over resampled examples (Efron 1979).

A figure of a set is computed from sums over its examples. So a resample needs the sums alone, never
the texts again: corpus scores such as BLEU are resampled like means.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstages.data.order import generator_for

NUM_RESAMPLES = 1000
INTERVAL_SHARE = 0.95

Figures = NDArray[np.float64]


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

    def interval(self, seed: int) -> tuple[float, float]:
        """Where the middle 95 % of 1,000 resamples lie, as many examples each, drawn with return.

        The draws depend on the seed and the number of examples alone: figures of the same examples
        are resampled alike.
        """
        count = len(self.statistics)
        generator = generator_for("bootstrap", seed)
        scores = [
            self.score(self.statistics[generator.integers(0, count, count)].sum(axis=0))
            for _ in range(NUM_RESAMPLES)
        ]
        tail = (1 - INTERVAL_SHARE) / 2
        low, high = np.quantile(scores, [tail, 1 - tail])
        return float(low), float(high)


def mean(values: Figures | list[float] | list[bool]) -> Measure:
    """The mean of one value an example."""
    column = np.asarray(values, dtype=np.float64)
    return Measure(np.stack([column, np.ones_like(column)], axis=1))


def summarised(measures: Mapping[str, Measure], seed: int) -> dict[str, Any]:
    """Values by name, and under `intervals` [low, high] of each."""
    intervals = {name: list(measure.interval(seed)) for name, measure in measures.items()}
    values = {name: measure.value for name, measure in measures.items()}
    return {**values, "intervals": intervals}

"""How a label is taken from probabilities, where it is not the likeliest one, or none at all.

A rule is found on held-out texts, kept in `llmstages.json` under `classifier`, and used wherever
labels are given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmstages.data.json_files import as_dataclass
from llmstages.evaluate.bootstrap import wilson_interval

Figures = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Decision:
    """The rule of a classifier with k labels; without any the likeliest label is given."""

    positive: int | None = None
    """Index of the label that is given from `threshold` on; of two labels."""
    threshold: float | None = None
    """Least probability of it."""
    costs: list[list[float]] | None = None
    """`costs[i][j]`: of giving label j to a text of label i; the label of the least expected cost
    is given (Elkan 2001, "The Foundations of Cost-Sensitive Learning")."""
    min_probability: float | None = None
    """Texts whose likeliest label is less likely are out of scope (Hendrycks and Gimpel 2017)."""

    @property
    def has_rule(self) -> bool:
        """Whether another label than the likeliest may be given."""
        return self.threshold is not None or self.costs is not None

    def labels(self, probabilities: Figures) -> Indices:
        """[n] index of the label of each text; probabilities are [n, k]."""
        found: Indices = probabilities.argmax(axis=1)
        if self.positive is not None and self.threshold is not None:
            given = probabilities[:, self.positive] >= self.threshold
            found = np.where(given, self.positive, 1 - self.positive)
        elif self.costs is not None:
            found = (probabilities @ np.array(self.costs)).argmin(axis=1)
        return found

    def accepted(self, probabilities: Figures) -> NDArray[np.bool_]:
        """[n] whether each text is in scope."""
        accepted: NDArray[np.bool_] = probabilities.max(axis=1) >= (self.min_probability or 0.0)
        return accepted

    def as_dict(self) -> dict[str, Any]:
        """What `llmstages.json` says of it: what is not null."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def by_label(self, labels: Sequence[str]) -> dict[str, Any]:
        """The same with labels by name: `costs` as `{TRUE: {GIVEN: cost}}`."""
        found = self.as_dict()
        if self.positive is not None:
            found["positive"] = labels[self.positive]
        if self.costs is not None:
            rows = (dict(zip(labels, row, strict=True)) for row in self.costs)
            found["costs"] = dict(zip(labels, rows, strict=True))
        return found

    def sentences(self, labels: Sequence[str]) -> list[str]:
        """What the rule does, for a reader; none where the likeliest label is given."""
        found = []
        if self.positive is not None and self.threshold is not None:
            label = labels[self.positive]
            found.append(f"{label!r} is given from a probability of {self.threshold:.3f} on")
        elif self.costs is not None:
            found.append("the label of the least expected cost is given")
        if self.min_probability is not None:
            found.append(
                "texts whose likeliest label is less likely than "
                f"{self.min_probability:.3f} are out of scope"
            )
        return found

    @classmethod
    def of(cls, classifier: Mapping[str, Any] | None, num_labels: int) -> "Decision":
        """The rule in the `classifier` section of a checkpoint; that of the likeliest without one.

        Raises `ValueError` for what is no rule for so many labels.
        """
        found = as_dataclass(cls, (classifier or {}).get("decision") or {}, "decision.")
        if found.positive not in (None, 0, 1) or (found.positive is not None and num_labels != 2):
            raise ValueError(f"decision.positive is {found.positive}, of {num_labels} labels")
        if found.costs is not None and np.shape(found.costs) != (num_labels, num_labels):
            raise ValueError(f"decision.costs are not {num_labels} by {num_labels}")
        return found


class LabelCounts(NamedTuple):
    """How often one label is given to texts, and rightly."""

    rows: int
    given: int
    right: int
    missed: int
    """Texts with the label that are given another."""

    @classmethod
    def of(cls, confusion: Sequence[Sequence[int]], label: int) -> "LabelCounts":
        """Those of a confusion matrix: `confusion[i][j]` texts of label i were given label j."""
        right, given = confusion[label][label], sum(row[label] for row in confusion)
        return cls(sum(map(sum, confusion)), given, right, sum(confusion[label]) - right)

    def measured(self, figure: str) -> "MeasuredShare | None":
        """Their `precision` or `recall`; None of no text."""
        of = self.given if figure == "precision" else self.right + self.missed
        if not of:
            return None
        low, high = wilson_interval(self.right / of, of)
        return MeasuredShare(self.right / of, low, high, self.right, of)


class MeasuredShare(NamedTuple):
    """A share with its 95 % interval (Wilson 1927), and of how many texts it is one."""

    value: float
    low: float
    high: float
    right: int
    of: int

    def __str__(self) -> str:
        return (
            f"{self.value:.3f} ({self.right:,} of {self.of:,} rows; 95 % interval {self.low:.3f} "
            f"to {self.high:.3f})"
        )


def thresholds(scores: Figures) -> Figures:
    """Thresholds that divide scores in every possible way, rising: 0, and halfway between
    neighbours, so that rounding moves no text over one; the last is above all of them."""
    found = np.unique(scores)
    above = (found[-1] + 1) / 2 if found[-1] < 1 else np.nextafter(found[-1], np.inf)
    return np.array([0.0, *((found[1:] + found[:-1]) / 2), above])


def cheapest_threshold(scores: Figures, positive: NDArray[np.bool_], fp: float, fn: float) -> float:
    """The threshold with the least cost on texts; of equals the one nearest fp / (fp + fn).

    That is the best where probabilities are exact (Elkan 2001). scores: [n] probability of the
    positive label. fp, fn: cost of giving it wrongly, and of missing it.
    """
    cuts = thresholds(scores)
    given, hits = _counts(scores, positive, cuts)
    costs = fp * (given - hits) + fn * (positive.sum() - hits)
    cheapest = cuts[np.isclose(costs, costs.min(), rtol=1e-9, atol=1e-12)]
    return float(cheapest[np.abs(cheapest - fp / (fp + fn)).argmin()])


def threshold_of_precision(
    scores: Figures, positive: NDArray[np.bool_], least: float
) -> float | None:
    """The threshold that finds most at a precision of at least `least`; None where none has it."""
    cuts = thresholds(scores)[:-1]
    given, hits = _counts(scores, positive, cuts)
    precise = (hits >= least * given - 1e-9) & (hits > 0)
    if not precise.any():
        return None
    return float(cuts[precise & (hits == hits[precise].max())][-1])


def threshold_of_recall(scores: Figures, positive: NDArray[np.bool_], least: float) -> float | None:
    """The highest threshold that finds at least so large a share; None without a positive text."""
    cuts = thresholds(scores)
    _, hits = _counts(scores, positive, cuts)
    return float(cuts[hits >= least * positive.sum() - 1e-9][-1]) if positive.any() else None


def _counts(scores: Figures, positive: NDArray[np.bool_], cuts: Figures) -> tuple[Indices, Indices]:
    """Texts from each cut on, and how many of them are positive."""
    every, true = np.sort(scores), np.sort(scores[positive])
    return len(every) - every.searchsorted(cuts), len(true) - true.searchsorted(cuts)


def min_probability(probabilities: Figures, refused_share: float) -> float:
    """The bound below which at most this share of the texts' largest probabilities lies."""
    largest = np.sort(probabilities.max(axis=1))
    refused = int(refused_share * len(largest))
    return float((largest[refused - 1] + largest[refused]) / 2) if refused else 0.0

"""How good a classifier is: figures with intervals, scores per class, confusion, calibration.

The definitions are scikit-learn's, so that figures can be compared with anybody's; numpy is all it
takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmstages.evaluate.bootstrap import intervals_of, resamples
from llmstages.evaluate.class_figures import NUM_BINS, all_figures, calibration
from llmstages.evaluate.decision import Decision

FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "roc_auc": "ROC-AUC, macro",
    "pr_auc": "PR-AUC, macro",
    "log_loss": "log loss (nats)",
    "ece": "expected calibration error",
}
"""What is measured, and how it is called in tables."""
SCOPE_FIGURES = {
    "coverage": "coverage, not out of scope",
    "accepted_accuracy": "accuracy of these",
}
"""The same where texts may be out of scope."""


class ClassScores(NamedTuple):
    """Figures of one class, each between 0 and 1; a ratio of nothing to nothing is 0."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    """Number of examples that really have this label."""


class ReliabilityBin(NamedTuple):
    """The examples whose largest probability lies above `above` and not above `up_to`."""

    above: float
    up_to: float
    num_examples: int
    confidence: float
    """Mean of their largest probabilities."""
    accuracy: float


@dataclass(frozen=True)
class ClassificationReport:
    """Figures of a classifier on labelled examples."""

    labels: list[str]
    figures: dict[str, float]
    """By name, those of `FIGURES` that have a value."""
    per_class: list[ClassScores]
    confusion: list[list[int]]
    """`confusion[i][j]`: examples of label i that were given label j."""
    reliability: list[ReliabilityBin] = field(default_factory=list)
    """The bins of the calibration error that hold examples."""
    intervals: dict[str, list[float] | None] = field(default_factory=dict)
    """By figure, where the middle 95 % of 1,000 resamples lie, of shares of examples Wilson's, and
    None where all resamples are equal; empty when not asked for."""

    @property
    def num_examples(self) -> int:
        """Number of examples measured on."""
        return sum(scores.support for scores in self.per_class)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values, for `summary.json`."""
        return {
            **{name: self.figures.get(name) for name in FIGURES},
            **{name: self.figures[name] for name in SCOPE_FIGURES if name in self.figures},
            "intervals": dict(self.intervals),
            "num_examples": self.num_examples,
            "labels": list(self.labels),
            "per_class": [scores._asdict() for scores in self.per_class],
            "confusion": [list(row) for row in self.confusion],
            "reliability": [found._asdict() for found in self.reliability],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClassificationReport":
        """The report that `as_dict` wrote; one of an earlier version has fewer figures.

        Raises `KeyError` or `TypeError` for anything else.
        """
        return cls(
            labels=values["labels"],
            figures={
                name: values[name]
                for name in (*FIGURES, *SCOPE_FIGURES)
                if values.get(name) is not None
            },
            per_class=[ClassScores(**scores) for scores in values["per_class"]],
            confusion=values["confusion"],
            reliability=[ReliabilityBin(**found) for found in values.get("reliability", [])],
            intervals=dict(values.get("intervals", {})),
        )


def classification_report(
    labels: Sequence[str],
    truth: NDArray[np.integer[Any]] | Sequence[int],
    probabilities: NDArray[np.floating[Any]],
    seed: int | None = None,
    decision: Decision | None = None,
) -> ClassificationReport:
    """Measure predicted probabilities against the truth.

    Args:
        labels: names of the k classes, in the order of the columns of `probabilities`.
        truth: [n] index of each example's class.
        probabilities: [n, k], each row summing to 1.
        seed: of the resamples for the intervals; None leaves intervals out.
        decision: by which labels are given, also to what it takes to be out of scope; None gives
            the likeliest, the first of equals.

    The areas under curves have no value where a label is true of no example, or of all.

    Raises:
        ValueError: shapes or values that do not fit together, or no example.
    """
    true = np.asarray(truth, dtype=np.int64)
    shares = np.asarray(probabilities, dtype=np.float64)
    if shares.shape != (len(true), len(labels)):
        raise ValueError(
            f"probabilities are {shares.shape}, expected {(len(true), len(labels))}: "
            "a row an example, a column a label"
        )
    if not len(true):
        raise ValueError("no example to measure on")
    if not np.isfinite(shares).all():
        raise ValueError("a probability is not a finite number")
    decision = decision or Decision()
    predicted = decision.labels(shares)
    accepted = None if decision.min_probability is None else decision.accepted(shares)
    confusion = confusion_matrix(true, predicted, len(labels))
    once = np.ones((len(true), 1), dtype=np.int64)
    found = all_figures(true, shares, once, predicted, accepted)
    figures = {name: float(value[0]) for name, value in found.items()}
    if accepted is not None and not accepted.any():
        del figures["accepted_accuracy"]
    if not confusion.sum(axis=1).all() or np.isnan(figures["roc_auc"]):
        del figures["roc_auc"], figures["pr_auc"]
    intervals: dict[str, list[float] | None] = {}
    if seed is not None:
        parts = [
            all_figures(true, shares, part, predicted, accepted)
            for part in resamples(len(true), seed)
        ]
        size = len(true)
        shares_of = {"accuracy": size, "coverage": size}
        if accepted is not None:
            shares_of["accepted_accuracy"] = int(accepted.sum())
        intervals = intervals_of(figures, parts, shares_of)
    return ClassificationReport(
        labels=list(labels),
        figures=figures,
        per_class=[
            ClassScores(label, *scores)
            for label, scores in zip(labels, _class_scores(confusion), strict=True)
        ],
        confusion=confusion.tolist(),
        reliability=_reliability(true, shares),
        intervals=intervals,
    )


def _reliability(
    truth: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> list[ReliabilityBin]:
    found = calibration(truth, probabilities)
    return [
        ReliabilityBin(
            above=number / NUM_BINS,
            up_to=(number + 1) / NUM_BINS,
            num_examples=int(inside.sum()),
            confidence=float(found.confidence[inside].mean()),
            accuracy=float(found.right[inside].mean()),
        )
        for number in range(NUM_BINS)
        if (inside := found.bins == number).any()
    ]


def confusion_matrix(
    truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], num_labels: int
) -> NDArray[np.int64]:
    """[num_labels, num_labels] counts; rows are the truth, columns the predictions."""
    for name, indices in (("truth", truth), ("prediction", predicted)):
        if len(indices) and (indices.min() < 0 or indices.max() >= num_labels):
            raise ValueError(f"a {name} lies outside 0..{num_labels - 1}")
    cells = np.bincount(truth * num_labels + predicted, minlength=num_labels**2)
    return cells.reshape(num_labels, num_labels).astype(np.int64)


def _class_scores(confusion: NDArray[np.int64]) -> list[tuple[float, float, float, int]]:
    """Precision, recall, F1 and support of each class."""
    scores = []
    for index, right in enumerate(np.diag(confusion).tolist()):
        support, chosen = int(confusion[index].sum()), int(confusion[:, index].sum())
        precision = right / chosen if chosen else 0.0
        recall = right / support if support else 0.0
        f1 = 2 * right / (support + chosen) if support + chosen else 0.0
        scores.append((precision, recall, f1, support))
    return scores

"""How good a classifier is whose texts have any number of labels.

The definitions are scikit-learn's; a ratio of nothing to nothing is 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmstages.evaluate.bootstrap import intervals_of, resamples
from llmstages.evaluate.class_figures import average_precisions, multi_label_figures

THRESHOLD = 0.5
"""A label is given whose probability is above this."""
MULTI_LABEL_FIGURES = {
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "subset_accuracy": "subset accuracy",
    "hamming_loss": "Hamming loss",
    "mean_average_precision": "mean average precision",
    "log_loss": "log loss (nats a decision)",
}
"""What is measured, and how it is called in tables."""


class LabelScores(NamedTuple):
    """Figures of one label, each between 0 and 1."""

    label: str
    precision: float
    recall: float
    f1: float
    average_precision: float | None
    """None where the label is true of no example, or of all."""
    support: int
    """Number of examples that really have this label."""


@dataclass(frozen=True)
class MultiLabelReport:
    """Figures of a classifier on examples with any number of labels."""

    labels: list[str]
    num_examples: int
    figures: dict[str, float]
    """By name, those of `MULTI_LABEL_FIGURES` that have a value."""
    per_label: list[LabelScores]
    intervals: dict[str, list[float] | None] = field(default_factory=dict)
    """By figure, where the middle 95 % of 1,000 resamples lie, of shares of examples Wilson's, and
    None where all resamples are equal; empty when not asked for."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values, for `summary.json`."""
        return {
            **{name: self.figures.get(name) for name in MULTI_LABEL_FIGURES},
            "intervals": dict(self.intervals),
            "num_examples": self.num_examples,
            "labels": list(self.labels),
            "per_label": [scores._asdict() for scores in self.per_label],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MultiLabelReport":
        """The report that `as_dict` wrote. Raises `KeyError` or `TypeError` for anything else."""
        figures = {name: values[name] for name in MULTI_LABEL_FIGURES if values[name] is not None}
        return cls(
            labels=values["labels"],
            num_examples=values["num_examples"],
            figures=figures,
            per_label=[LabelScores(**scores) for scores in values["per_label"]],
            intervals=dict(values["intervals"]),
        )


def multi_label_report(
    labels: Sequence[str],
    truth: NDArray[np.bool_],
    probabilities: NDArray[np.floating[Any]],
    seed: int | None = None,
) -> MultiLabelReport:
    """Measure predicted probabilities against the truth.

    Args:
        labels: names of the k labels, in the order of the columns.
        truth: [n, k] whether an example has a label.
        probabilities: [n, k], each of its own; the prediction is what is above `THRESHOLD`.
        seed: of the resamples for the intervals; None leaves intervals out.

    Raises:
        ValueError: shapes that do not fit together, a value that is not finite, or no example.
    """
    true = np.asarray(truth, dtype=np.bool_)
    shares = np.asarray(probabilities, dtype=np.float64)
    if true.shape != shares.shape or true.shape != (len(true), len(labels)):
        raise ValueError(f"truth {true.shape} and probabilities {shares.shape}: one column a label")
    if not len(true) or not np.isfinite(shares).all():
        raise ValueError("no example to measure on, or a probability that is no finite number")
    predicted = shares > THRESHOLD
    found = multi_label_figures(true, shares, predicted, np.ones((len(true), 1), dtype=np.int64))
    figures = {
        name: float(found[name][0]) for name in MULTI_LABEL_FIGURES if not np.isnan(found[name][0])
    }
    intervals: dict[str, list[float] | None] = {}
    if seed is not None:
        parts = [
            multi_label_figures(true, shares, predicted, part)
            for part in resamples(len(true), seed)
        ]
        intervals = intervals_of(figures, parts, {"subset_accuracy": len(true)})
    areas = average_precisions(true, shares, np.ones((len(true), 1), dtype=np.int64))[:, 0]
    per_label = [
        _label_scores(label, true[:, column], predicted[:, column], float(areas[column]))
        for column, label in enumerate(labels)
    ]
    return MultiLabelReport(list(labels), len(true), figures, per_label, intervals)


def _label_scores(
    label: str, truth: NDArray[np.bool_], predicted: NDArray[np.bool_], area: float
) -> LabelScores:
    hits, support, chosen = int((truth & predicted).sum()), int(truth.sum()), int(predicted.sum())
    return LabelScores(
        label=label,
        precision=hits / chosen if chosen else 0.0,
        recall=hits / support if support else 0.0,
        f1=2 * hits / (support + chosen) if support + chosen else 0.0,
        average_precision=None if np.isnan(area) else area,
        support=support,
    )

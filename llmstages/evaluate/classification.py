"""How good a classifier is: accuracy, macro F1, log loss, figures per class, confusion matrix.

The definitions are scikit-learn's, so that figures can be compared with anybody's; numpy is all it
takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# A probability below this counts as this in the log loss: one certain mistake must not make it
# infinite. scikit-learn's bound for float64.
MIN_PROBABILITY = float(np.finfo(np.float64).eps)


class ClassScores(NamedTuple):
    """Figures of one class, each between 0 and 1; a ratio of nothing to nothing is 0."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    """Number of examples that really have this label."""


@dataclass(frozen=True)
class ClassificationReport:
    """Figures of a classifier on labelled examples."""

    labels: list[str]
    accuracy: float
    macro_f1: float
    """Mean F1 over the labels that occur among the true or the predicted ones."""
    log_loss: float
    """Mean negative log probability of the true label, in nats an example."""
    per_class: list[ClassScores]
    confusion: list[list[int]]
    """`confusion[i][j]`: examples of label i that were given label j."""

    @property
    def num_examples(self) -> int:
        """Number of examples measured on."""
        return sum(scores.support for scores in self.per_class)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values, for `summary.json`."""
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "log_loss": self.log_loss,
            "num_examples": self.num_examples,
            "labels": list(self.labels),
            "per_class": [scores._asdict() for scores in self.per_class],
            "confusion": [list(row) for row in self.confusion],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClassificationReport":
        """The report that `as_dict` wrote. Raises `KeyError` or `TypeError` for anything else."""
        return cls(
            labels=values["labels"],
            accuracy=values["accuracy"],
            macro_f1=values["macro_f1"],
            log_loss=values["log_loss"],
            per_class=[ClassScores(**scores) for scores in values["per_class"]],
            confusion=values["confusion"],
        )


def classification_report(
    labels: Sequence[str],
    truth: NDArray[np.integer[Any]] | Sequence[int],
    probabilities: NDArray[np.floating[Any]],
) -> ClassificationReport:
    """Measure predicted probabilities against the truth.

    Args:
        labels: names of the k classes, in the order of the columns of `probabilities`.
        truth: [n] index of each example's class.
        probabilities: [n, k], each row summing to 1; the prediction is the largest, the first of
            equals.

    Raises:
        ValueError: shapes or values that do not fit together, or no example.
    """
    truth = np.asarray(truth, dtype=np.int64)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.shape != (len(truth), len(labels)):
        raise ValueError(
            f"probabilities are {probabilities.shape}, expected {(len(truth), len(labels))}: "
            "a row an example, a column a label"
        )
    if not len(truth):
        raise ValueError("no example to measure on")
    if not np.isfinite(probabilities).all():
        raise ValueError("a probability is not a finite number")
    of_truth = probabilities[np.arange(len(truth)), truth]
    log_loss = float(-np.log(np.clip(of_truth, MIN_PROBABILITY, 1.0)).mean())
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(truth, predicted, len(labels))
    per_class = [
        ClassScores(label, *scores)
        for label, scores in zip(labels, _class_scores(confusion), strict=True)
    ]
    accuracy, macro_f1 = accuracy_and_macro_f1(truth, predicted, len(labels))
    return ClassificationReport(
        labels=list(labels),
        accuracy=accuracy,
        macro_f1=macro_f1,
        log_loss=log_loss,
        per_class=per_class,
        confusion=confusion.tolist(),
    )


def accuracy_and_macro_f1(
    truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], num_labels: int
) -> tuple[float, float]:
    """Accuracy and macro F1 of predicted class indices, both [n]."""
    confusion = confusion_matrix(truth, predicted, num_labels)
    occurs = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    f1 = np.array([scores[2] for scores in _class_scores(confusion)])
    return float(np.trace(confusion) / confusion.sum()), float(f1[occurs].mean())


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

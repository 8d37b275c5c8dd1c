"""Figures of texts with any number of labels are scikit-learn's."""

import numpy as np
import pytest

from llmstages.evaluate.baselines import commonest_set_baseline, tfidf_labels_baseline
from llmstages.evaluate.multi_label import MultiLabelReport, multi_label_report

metrics = pytest.importorskip("sklearn.metrics")


def test_figures_are_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random((40, 4)) < [0.5, 0.2, 0.1, 0.0]
    shares = np.clip(0.6 * truth + 0.6 * generator.random((40, 4)), 0, 1)
    report = multi_label_report(["a", "b", "c", "d"], truth, shares, seed=0)
    predicted = shares > 0.5
    areas = [metrics.average_precision_score(truth[:, k], shares[:, k]) for k in range(3)]
    expected = {
        "micro_f1": metrics.f1_score(truth, predicted, average="micro"),
        "macro_f1": metrics.f1_score(truth, predicted, average="macro", zero_division=0),
        "subset_accuracy": metrics.accuracy_score(truth, predicted),
        "hamming_loss": metrics.hamming_loss(truth, predicted),
        "mean_average_precision": np.mean(areas),
        "log_loss": np.mean(
            [metrics.log_loss(truth[:, k], shares[:, k], labels=[0, 1]) for k in range(4)]
        ),
    }
    assert report.figures == pytest.approx(expected)
    for name in ("micro_f1", "subset_accuracy", "hamming_loss", "log_loss"):
        low, high = report.intervals[name]
        assert low < report.figures[name] < high
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, predicted, zero_division=0
    )
    for number, scores in enumerate(report.per_label):
        assert scores[1:4] == pytest.approx((precision[number], recall[number], f1[number]))
        assert scores.support == support[number]
    assert report.per_label[3].average_precision is None
    assert MultiLabelReport.from_dict(report.as_dict()) == report


def test_baselines() -> None:
    texts = [f"{'red' if n % 2 else 'blue'} {'big' if n % 3 else 'small'} {n}" for n in range(30)]
    truth = np.array([[n % 2 == 1, n % 3 == 0, False] for n in range(30)])
    found = tfidf_labels_baseline(texts, truth, texts, truth)
    assert found == {"micro_f1": 1.0, "macro_f1": pytest.approx(2 / 3), "subset_accuracy": 1.0}
    # Red and big, and blue and big, are as common; both lack the label `small`.
    assert commonest_set_baseline(truth, truth)["subset_accuracy"] == pytest.approx(1 / 3)

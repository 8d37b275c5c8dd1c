"""The figures of a classifier are those that scikit-learn gives."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from sklearn import metrics

from llmstages.evaluate.classification import ClassificationReport, classification_report
from llmstages.report.classification import render_classification

LABELS = ["a", "b", "c", "never"]
TRUTH = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [
        [0.7, 0.1, 0.1, 0.1],
        [0.4, 0.4, 0.1, 0.1],  # the first of equals: a
        [0.2, 0.5, 0.2, 0.1],
        [0.1, 0.8, 0.1, 0.0],
        [0.25, 0.5, 0.25, 0.0],
        [0.9, 0.1, 0.0, 0.0],  # the truth had probability 0
    ]
)


def shown(report: object) -> str:
    output = io.StringIO()
    Console(width=100, file=output).print(report)
    return output.getvalue()


def test_exact_figures() -> None:
    report = classification_report(LABELS, TRUTH, PROBABILITIES)
    assert report.confusion == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert report.accuracy == 4 / 6
    assert [tuple(scores) for scores in report.per_class] == [
        ("a", 2 / 3, 2 / 3, 2 / 3, 3),
        ("b", 2 / 3, 1.0, 0.8, 2),
        ("c", 0.0, 0.0, 0.0, 1),
        ("never", 0.0, 0.0, 0.0, 0),
    ]
    # `never` occurs neither in truth nor in prediction, and does not count.
    assert report.macro_f1 == pytest.approx((2 / 3 + 0.8 + 0.0) / 3, abs=1e-15)
    certain = -math.log(np.finfo(np.float64).eps)
    wanted = -sum(map(math.log, (0.7, 0.4, 0.2, 0.8, 0.5))) + certain
    assert report.log_loss == pytest.approx(wanted / 6, rel=1e-12)
    assert report.num_examples == 6


def test_equal_to_scikit_learn() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(5) / 2, size=400)
    truth = random.integers(0, 4, size=400)  # one label occurs in predictions only
    report = classification_report(list("abcde"), truth, probabilities)
    predicted = probabilities.argmax(1)
    assert report.accuracy == pytest.approx(metrics.accuracy_score(truth, predicted), abs=1e-12)
    assert report.macro_f1 == pytest.approx(
        metrics.f1_score(truth, predicted, average="macro", zero_division=0), abs=1e-12
    )
    assert report.log_loss == pytest.approx(
        metrics.log_loss(truth, probabilities, labels=range(5)), abs=1e-9
    )
    assert report.confusion == metrics.confusion_matrix(truth, predicted).tolist()


def test_as_dict_is_json_and_is_read_back() -> None:
    report = classification_report(LABELS, TRUTH, PROBABILITIES)
    values = report.as_dict()
    assert ClassificationReport.from_dict(json.loads(json.dumps(values))) == report
    assert json.loads(json.dumps(values)) == values
    assert values["per_class"][1] == {
        "label": "b",
        "precision": 2 / 3,
        "recall": 1.0,
        "f1": 0.8,
        "support": 2,
    }


@pytest.mark.parametrize(
    ("truth", "probabilities"),
    [
        ([0, 1], [[1.0, 0.0]]),
        ([0], [[1.0, 0.0, 0.0]]),
        ([2], [[1.0, 0.0]]),
        ([0], [[float("nan"), 1.0]]),
        ([], np.zeros((0, 2))),
    ],
)
def test_what_does_not_fit(truth: list[int], probabilities: list[list[float]]) -> None:
    with pytest.raises((ValueError, IndexError)):
        classification_report(["a", "b"], np.array(truth, dtype=int), np.array(probabilities))


def test_tables_show_labels_as_they_are() -> None:
    report = classification_report(["[red]x[/red]", "[/]"], [0, 1, 1], np.eye(2)[[0, 1, 0]])
    text = shown(render_classification(report, title="on [bold]"))
    for expected in ("[red]x[/red]", "[/]", "on [bold]", "macro F1", "0.667"):
        assert expected in text


def test_many_labels_show_their_commonest_mistakes() -> None:
    labels = [f"label {n:02}" for n in range(20)]
    predicted = np.arange(20)
    predicted[3] = 7
    text = shown(
        render_classification(classification_report(labels, range(20), np.eye(20)[predicted]))
    )
    mistakes = text[text.index("commonest mistakes") :]
    assert "label 03" in mistakes
    assert "label 07" in mistakes
    assert "label 04" not in mistakes

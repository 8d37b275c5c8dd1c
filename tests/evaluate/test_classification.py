"""The figures of a classifier are those that scikit-learn gives."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from sklearn import metrics

from llmstages.evaluate import class_figures
from llmstages.evaluate.class_figures import all_figures
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
    assert report.figures["accuracy"] == 4 / 6
    assert [tuple(scores) for scores in report.per_class] == [
        ("a", 2 / 3, 2 / 3, 2 / 3, 3),
        ("b", 2 / 3, 1.0, 0.8, 2),
        ("c", 0.0, 0.0, 0.0, 1),
        ("never", 0.0, 0.0, 0.0, 0),
    ]
    # `never` occurs neither in truth nor in prediction, and does not count.
    assert report.figures["macro_f1"] == pytest.approx((2 / 3 + 0.8 + 0.0) / 3, abs=1e-15)
    certain = -math.log(np.finfo(np.float64).eps)
    wanted = -sum(map(math.log, (0.7, 0.4, 0.2, 0.8, 0.5))) + certain
    assert report.figures["log_loss"] == pytest.approx(wanted / 6, rel=1e-12)
    assert report.num_examples == 6


def scikit_learn(truth: np.ndarray, p: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    predicted, labels = p.argmax(1), range(p.shape[1])
    given = {"sample_weight": counts}
    hot = np.eye(p.shape[1])[truth]
    return {
        "accuracy": metrics.accuracy_score(truth, predicted, **given),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, predicted, **given),
        "macro_f1": metrics.f1_score(truth, predicted, average="macro", zero_division=0, **given),
        "weighted_f1": metrics.f1_score(
            truth, predicted, average="weighted", zero_division=0, **given
        ),
        "roc_auc": metrics.roc_auc_score(hot, p, **given),
        "pr_auc": metrics.average_precision_score(hot, p, **given),
        "log_loss": metrics.log_loss(truth, p, labels=labels, **given),
    }


def test_equal_to_scikit_learn_with_ties_and_in_resamples() -> None:
    random = np.random.default_rng(0)
    probabilities = np.round(random.dirichlet(np.ones(4) / 2, size=300), 1) + 0.01
    probabilities /= probabilities.sum(1, keepdims=True)
    truth = random.integers(0, 4, size=300)
    counts = np.stack([np.ones(300, int), random.poisson(1, 300)], axis=1)
    found = all_figures(truth, probabilities, counts)
    for column in range(2):
        expected = scikit_learn(truth, probabilities, counts[:, column])
        assert {name: found[name][column] for name in expected} == pytest.approx(expected, abs=1e-9)
    report = classification_report(list("abcd"), truth, probabilities, seed=1)
    assert report.figures == pytest.approx({name: found[name][0] for name in found})
    assert report.confusion == metrics.confusion_matrix(truth, probabilities.argmax(1)).tolist()
    assert report.intervals.keys() == report.figures.keys()
    for name, (low, high) in report.intervals.items():
        assert low < high, name
        assert name == "ece" or low < report.figures[name] < high  # resampling adds to this error
    # Of 300 draws the share of right answers has the deviation of a binomial.
    low, high = report.intervals["accuracy"]
    right = report.figures["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(right * (1 - right) / 300), rel=0.15)


def test_forty_right_answers_are_not_certain() -> None:
    truth = np.arange(40) % 2
    report = classification_report(["a", "b"], truth, np.eye(2)[truth] * 0.8 + 0.1, seed=0)
    assert report.figures["macro_f1"] == report.figures["accuracy"] == 1
    assert report.intervals["macro_f1"] is None
    assert report.intervals["accuracy"] == [pytest.approx(40 / (40 + 1.96**2), abs=1e-4), 1.0]
    assert report.from_dict(json.loads(json.dumps(report.as_dict()))) == report


def test_no_area_where_a_label_has_no_example() -> None:
    report = classification_report(LABELS, TRUTH, PROBABILITIES, seed=0)
    assert report.as_dict()["roc_auc"] is None
    assert report.as_dict()["pr_auc"] is None
    assert "roc_auc" not in report.intervals
    # The recalls of the three labels that occur.
    assert report.figures["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_calibration_by_hand() -> None:
    confident = [0.5, 0.52, 0.8, 0.8, 1.0]  # bins (7/15, 8/15], (11/15, 12/15] and (14/15, 1]
    p = np.array([[share, 1 - share] for share in confident])
    report = classification_report(["a", "b"], [0, 1, 0, 1, 0], p)
    assert [(found.num_examples, found.accuracy) for found in report.reliability] == [
        (2, 0.5),
        (2, 0.5),
        (1, 1.0),
    ]
    assert [found.confidence for found in report.reliability] == pytest.approx([0.51, 0.8, 1.0])
    assert report.reliability[1].above == 11 / 15
    assert report.figures["ece"] == pytest.approx((2 * 0.01 + 2 * 0.3 + 0) / 5)


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


def test_what_labels_without_examples_do_to_the_figures_is_said() -> None:
    def note(predicted: list[int]) -> str:
        report = classification_report(["a", "b", "c"], [0, 0], np.eye(3)[predicted])
        return " ".join(shown(render_classification(report)).split())

    said = "no example has the label b, c: no ROC-AUC and PR-AUC; "
    assert said + "0 each in macro F1 where some are given it (c)" in note([0, 2])
    assert said + "no part in macro F1" in note([0, 0])


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


def test_both_ways_to_rank_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    p = np.round(random.dirichlet(np.ones(3), size=90), 1)
    truth = random.integers(0, 3, size=90)
    counts = np.stack([random.poisson(1, 90), truth == 0, np.zeros(90, int)], axis=1)
    found = []
    for many in (0, 1000):
        monkeypatch.setattr(class_figures, "MANY_POSITIVE", many)
        found.append(class_figures.ranking_figures(truth, p, counts))
    for name, areas in found[0].items():
        np.testing.assert_allclose(found[1][name], areas, rtol=1e-12)
        assert np.isfinite(areas).tolist() == [True, False, False]

"""Labels by a threshold, by costs, or none: each rule against what trying everything gives."""

import numpy as np
import pytest

from llmstages.evaluate.classification import classification_report
from llmstages.evaluate.decision import (
    Decision,
    LabelCounts,
    cheapest_threshold,
    min_probability,
    threshold_of_precision,
    threshold_of_recall,
)

SCORES = np.array([0.1, 0.2, 0.2, 0.4, 0.6, 0.7, 0.9, 0.9])
POSITIVE = np.array([0, 0, 1, 0, 1, 0, 1, 1], dtype=bool)


def of_threshold(threshold):
    given = np.greater_equal(SCORES, threshold)
    hits = (given & POSITIVE).sum()
    return given.sum(), hits, POSITIVE.sum() - hits  # given, right, missed


@pytest.mark.parametrize(("fp", "fn"), [(1, 1), (1, 5), (5, 1), (0, 1), (1, 0)])
def test_no_threshold_costs_less(fp, fn):
    def cost(threshold):
        given, hits, missed = of_threshold(threshold)
        return fp * (given - hits) + fn * missed

    found = cheapest_threshold(SCORES, POSITIVE, fp, fn)
    assert cost(found) == min(cost(t) for t in np.linspace(0, 1.1, 111))
    assert found not in SCORES


def test_of_equally_cheap_thresholds_the_one_that_theory_gives():
    scores, positive = np.array([0.1, 0.3, 0.5, 0.9]), np.array([0, 0, 1, 1], dtype=bool)
    assert cheapest_threshold(scores, positive, 1, 1) == 0.4
    # All, one of which is wrong, or none, with one missed.
    assert cheapest_threshold(np.array([0.2, 0.6]), np.array([1, 0], dtype=bool), 1, 1) == 0.8


def test_a_threshold_above_all_is_a_number():
    found = cheapest_threshold(np.array([0.5, 1.0]), np.array([1, 0], dtype=bool), 5, 1)
    assert 1 < found < 1.001


def test_the_most_found_at_a_precision_and_the_highest_threshold_of_a_recall():
    # From 0.8 on both are right; from 0.5 on three of four; from 0.2 on four of seven.
    assert threshold_of_precision(SCORES, POSITIVE, 0.99) == pytest.approx(0.8)
    assert threshold_of_precision(SCORES, POSITIVE, 0.75) == pytest.approx(0.5)
    assert threshold_of_precision(-SCORES + 1, POSITIVE, 0.9) is None
    assert threshold_of_recall(SCORES, POSITIVE, 0.5) == pytest.approx(0.8)
    assert threshold_of_recall(SCORES, POSITIVE, 0.51) == pytest.approx(0.5)
    assert threshold_of_recall(SCORES, POSITIVE, 1.0) == pytest.approx(0.15)
    assert threshold_of_recall(SCORES, POSITIVE & False, 0.5) is None


def test_rules_give_labels():
    p = np.array([[0.7, 0.3], [0.9, 0.1]])
    assert Decision().labels(p).tolist() == [0, 0]
    assert Decision(positive=1, threshold=0.3).labels(p).tolist() == [1, 0]
    assert Decision(positive=0, threshold=0.8).labels(p).tolist() == [1, 0]
    # To give 0 to a text of label 1 costs 5: 0.3 * 5 > 0.7 * 1, 0.1 * 5 < 0.9 * 1.
    rule = Decision(costs=[[0, 1], [5, 0]])
    assert rule.labels(p).tolist() == [1, 0]
    assert Decision.of({"decision": rule.as_dict()}, 2) == rule
    assert Decision.of(None, 3) == Decision.of({"temperature": 2.0}, 3) == Decision()


@pytest.mark.parametrize(
    "decision", [{"positive": 2}, {"costs": [[0.0]]}, {"positive": "a"}, {"other": 1}]
)
def test_what_is_no_rule_of_two_labels(decision):
    with pytest.raises(ValueError, match=r"decision\."):
        Decision.of({"decision": decision}, 2)


def test_out_of_scope_is_the_least_sure_share_and_is_reported():
    largest = np.linspace(0.51, 1, 40)
    p = np.stack([largest, 1 - largest], 1)
    bound = min_probability(p, 0.05)
    decision = Decision(min_probability=bound)
    assert decision.accepted(p).tolist() == [False] * 2 + [True] * 38
    assert min_probability(p, 0.02) == 0
    truth = [1] * 3 + [0] * 37
    report = classification_report(["a", "b"], truth, p, seed=0, decision=decision)
    assert report.figures["coverage"] == 38 / 40
    assert report.figures["accepted_accuracy"] == 37 / 38
    assert report.figures["accuracy"] == 37 / 40
    low, high = report.intervals["coverage"]
    assert low < 38 / 40 < high
    assert report.from_dict(report.as_dict()).figures == report.figures
    assert "coverage" not in classification_report(["a", "b"], truth, p).as_dict()


def test_how_sure_a_precision_and_a_recall_are():
    counts = LabelCounts.of([[70, 2], [3, 22]], 1)
    assert counts == (97, 24, 22, 3)
    assert str(LabelCounts.of([[70, 0], [3, 22]], 1).measured("precision")) == (
        "1.000 (22 of 22 rows; 95 % interval 0.851 to 1.000)"  # 22 / (22 + 1.96**2)
    )
    assert counts.measured("recall").value == 22 / 25
    assert LabelCounts.of([[5, 0], [0, 0]], 1).measured("recall") is None

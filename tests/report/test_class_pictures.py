"""Pictures of a classification report: readable with many labels, which are shown as they are."""

import numpy as np

from llmstages.evaluate.classification import classification_report
from llmstages.report.class_pictures import (
    confusion_figure,
    draw_classification,
    reliability_figure,
)


def report_of(labels, predicted):
    return classification_report(labels, np.arange(len(labels)), np.eye(len(labels))[predicted])


def names(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


def test_labels_are_no_formulas_and_counts_stand_in_the_cells(tmp_path):
    labels = ["$x_", "<b>", "a label of more than thirty characters"]
    report = report_of(labels, [0, 2, 2])
    (axes, _) = confusion_figure(report, "on $1").axes
    assert names(axes) == ["$x_", "<b>", "a label of more than thirty c…"]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "1", (2, 1): "1", (2, 2): "1"}
    written = draw_classification(tmp_path, "on $1", report, report)
    assert [path.name for path in written] == ["confusion.png", "reliability.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_many_labels_are_all_named_and_as_many_as_there_is_room_for():
    (axes, _) = confusion_figure(report_of([f"label {n}" for n in range(150)], range(150)), "").axes
    assert len(names(axes)) == 150
    assert not axes.texts
    label = axes.get_yticklabels()[0]
    inches = axes.get_position().height * axes.figure.get_size_inches()[1]
    assert label.get_fontsize() / 72 < inches / 150 * 1.1  # no name lies on the next
    (axes, _) = confusion_figure(report_of([str(n) for n in range(450)], range(450)), "").axes
    assert names(axes)[:2] == ["0", "3"]


def test_reliability_before_and_after():
    p = np.array([[0.9, 0.1]] * 4)
    before = classification_report(["a", "b"], [0, 0, 1, 1], p)
    after = classification_report(["a", "b"], [0, 0, 1, 1], p**0 / 2)
    axes = reliability_figure(after, "", before).axes[0]
    _, first, second = axes.get_lines()
    assert first.get_xydata().tolist() == [[0.9, 0.5]]
    assert second.get_xydata().tolist() == [[0.5, 0.5]]

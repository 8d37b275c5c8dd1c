"""A classification report as tables for the terminal, with the most confident mistakes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmstages.data.rows import located
from llmstages.evaluate.classification import FIGURES, ClassificationReport
from llmstages.evaluate.multi_label import MULTI_LABEL_FIGURES, MultiLabelReport
from llmstages.report.terminal import plain, some_of

# A confusion matrix wider than this does not fit a terminal; its largest mistakes are listed.
MAX_MATRIX_LABELS = 12
SHOWN_MISTAKES = 10
SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class PredictedRow:
    """A line of `predictions.jsonl`: a row of a labelled file and what the classifier said."""

    file: str
    line: int
    text: str
    label: str
    """The true one."""
    predicted: str
    probabilities: dict[str, float]
    out_of_scope: bool | None = None
    """None where the classifier has no rule for it."""

    def as_dict(self) -> dict[str, Any]:
        """The line."""
        return {name: value for name, value in vars(self).items() if value is not None}


def render_classification(
    report: ClassificationReport,
    *,
    title: str = "",
    num_confusions: int = 10,
    predictions: Sequence[PredictedRow] = (),
) -> RenderableType:
    """The figures per class and in all, their calibration, and the confusion matrix or (with many
    labels) the commonest mistakes; of predictions the most confident mistakes.

    Labels and texts are shown as they are: nothing in them is taken for markup.
    """
    tables = [
        _per_class(report, title),
        _figures(report, FIGURES),
        _reliability(report),
        _confusion(report, num_confusions),
        _mistakes(predictions),
    ]
    return Group(*(table for table in tables if table.row_count), *_without_examples(report))


@dataclass(frozen=True)
class PredictedLabels:
    """The same of a text with any number of labels."""

    file: str
    line: int
    text: str
    labels: list[str]
    """The true ones."""
    predicted: list[str]
    probabilities: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The line."""
        return dict(vars(self))


def render_multi_label(
    report: MultiLabelReport, *, title: str = "", predictions: Sequence[PredictedLabels] = ()
) -> RenderableType:
    """The figures per label and in all; of predictions those with the surest wrong decision."""
    per_label = _table(title, "label")
    for name in ("precision", "recall", "F1", "average precision", "examples"):
        per_label.add_column(name, justify="right")
    for scores in report.per_label:
        figures = (scores.precision, scores.recall, scores.f1, scores.average_precision)
        shown = ("" if value is None else f"{value:.3f}" for value in figures)
        per_label.add_row(plain(scores.label), *shown, f"{scores.support:,}")
    tables = [per_label, _figures(report, MULTI_LABEL_FIGURES), _wrong_labels(predictions)]
    missing = [scores.label for scores in report.per_label if not scores.support]
    note = f"no example has the label {some_of(missing)}: 0 each in macro F1"
    notes = [plain(note)] if missing else []
    return Group(*(table for table in tables if table.row_count), *notes)


def _without_examples(report: ClassificationReport) -> list[Text]:
    """What labels that are true of no example do to the figures; nothing where there are none."""
    missing = [scores.label for scores in report.per_class if not scores.support]
    if not missing:
        return []
    given = [
        label
        for label, counts in zip(report.labels, zip(*report.confusion, strict=True), strict=True)
        if label in missing and any(counts)
    ]
    zeros = f"0 each in macro F1 where some are given it ({some_of(given)})"
    macro_f1 = zeros if given else "no part in macro F1"
    return [
        plain(f"no example has the label {some_of(missing)}: no ROC-AUC and PR-AUC; {macro_f1}")
    ]


def _wrong_labels(predictions: Sequence[PredictedLabels]) -> Table:
    def error(row: PredictedLabels) -> float:
        """How far the probability of the label that is most wrong is from what is true."""
        return max(abs(share - (name in row.labels)) for name, share in row.probabilities.items())

    table = _table("most confident mistakes", "line", "text", "true labels", "predicted")
    wrong = [row for row in predictions if set(row.predicted) != set(row.labels)]
    for row in sorted(wrong, key=lambda row: -error(row))[:SHOWN_MISTAKES]:
        text = _excerpt(row.text)
        cells = (text, ", ".join(row.labels), ", ".join(row.predicted))
        table.add_row(_place(row, predictions), *(plain(cell) for cell in cells))
    return table


def _place(
    row: PredictedRow | PredictedLabels, predictions: Sequence[PredictedRow | PredictedLabels]
) -> Text:
    """Where a text stands: its line, of texts in several files after the file's name below the
    folder of all."""
    files = {other.file for other in predictions}
    if len(files) == 1:
        return plain(str(row.line))
    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    return plain(located(os.path.relpath(row.file, folder), row.line))


def _excerpt(text: str) -> str:
    """A text on one line, its middle left out when it is long."""
    line = " ".join(text.split())
    if len(line) <= SHOWN_CHARACTERS:
        return line
    return f"{line[: SHOWN_CHARACTERS * 2 // 3]} ... {line[-SHOWN_CHARACTERS // 3 :]}"


def most_confident_mistakes(
    predictions: Sequence[PredictedRow], count: int = SHOWN_MISTAKES
) -> list[PredictedRow]:
    """Those with the largest probability of a wrong label, the surest first."""
    wrong = [row for row in predictions if row.predicted != row.label]
    return sorted(wrong, key=lambda row: -row.probabilities[row.predicted])[:count]


def _per_class(report: ClassificationReport, title: str) -> Table:
    table = _table(title, "label")
    for name in ("precision", "recall", "F1", "examples"):
        table.add_column(name, justify="right")
    for scores in report.per_class:
        figures = (f"{value:.3f}" for value in (scores.precision, scores.recall, scores.f1))
        table.add_row(plain(scores.label), *figures, f"{scores.support:,}")
    return table


def _figures(report: ClassificationReport | MultiLabelReport, names: Mapping[str, str]) -> Table:
    table = _table(f"{report.num_examples:,} examples", "figure")
    table.add_column("value", justify="right")
    if report.intervals:
        table.add_column("95 % interval", justify="right")
    for name, label in names.items():
        if name in report.figures:
            ends = " to ".join(f"{end:.3f}" for end in report.intervals.get(name) or [])
            table.add_row(label, f"{report.figures[name]:.3f}", *([ends] if ends else []))
    return table


def _reliability(report: ClassificationReport) -> Table:
    table = _table("calibration", "probability of the prediction")
    for name in ("mean", "accuracy", "examples"):
        table.add_column(name, justify="right")
    for found in report.reliability:
        table.add_row(
            f"{found.above:.2f} to {found.up_to:.2f}",
            f"{found.confidence:.3f}",
            f"{found.accuracy:.3f}",
            f"{found.num_examples:,}",
        )
    return table


def _confusion(report: ClassificationReport, num_confusions: int) -> Table:
    if len(report.labels) <= MAX_MATRIX_LABELS:
        table = _table("rows: true label, columns: predicted", "")
        for label in report.labels:
            table.add_column(plain(label), justify="right", overflow="fold")
        for index, (label, row) in enumerate(zip(report.labels, report.confusion, strict=True)):
            cells = (
                Text(f"{count:,}", style="bold" if index == column else "" if count else "dim")
                for column, count in enumerate(row)
            )
            table.add_row(plain(label), *cells)
        return table
    mistakes = [
        (count, report.labels[true], report.labels[given])
        for true, row in enumerate(report.confusion)
        for given, count in enumerate(row)
        if count and true != given
    ]
    mistakes.sort(key=lambda mistake: -mistake[0])
    table = _table("commonest mistakes", "true label", "predicted")
    table.add_column("examples", justify="right")
    for count, true_label, given_label in mistakes[:num_confusions]:
        table.add_row(plain(true_label), plain(given_label), f"{count:,}")
    return table


def _mistakes(predictions: Sequence[PredictedRow]) -> Table:
    table = _table("most confident mistakes", "line", "text", "true label", "predicted")
    table.add_column("probability", justify="right")
    for row in most_confident_mistakes(predictions):
        cells = (_excerpt(row.text), row.label, row.predicted)
        shown = (plain(cell) for cell in cells)
        table.add_row(_place(row, predictions), *shown, f"{row.probabilities[row.predicted]:.3f}")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=plain(title) if title else None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table

"""A classification report as tables for the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmstages.evaluate.classification import ClassificationReport
from llmstages.report.terminal import plain

# A confusion matrix wider than this does not fit a terminal; its largest mistakes are listed.
MAX_MATRIX_LABELS = 12


def render_classification(
    report: ClassificationReport, *, title: str = "", num_confusions: int = 10
) -> RenderableType:
    """The figures per class, and the confusion matrix or (with many labels) the commonest mistakes.

    Labels are shown as they are: nothing in them is taken for markup.
    """
    return Group(_per_class(report, title), _confusion(report, num_confusions))


def _per_class(report: ClassificationReport, title: str) -> Table:
    table = Table(title=plain(title) if title else None, title_justify="left")
    table.add_column("label", overflow="fold")
    for name in ("precision", "recall", "F1", "examples"):
        table.add_column(name, justify="right")
    for scores in report.per_class:
        figures = (f"{value:.3f}" for value in (scores.precision, scores.recall, scores.f1))
        table.add_row(plain(scores.label), *figures, f"{scores.support:,}")
    table.add_section()
    table.add_row("macro F1", "", "", f"{report.macro_f1:.3f}", f"{report.num_examples:,}")
    table.add_row("accuracy", "", "", f"{report.accuracy:.3f}", "")
    table.add_row("log loss (nats)", "", "", f"{report.log_loss:.3f}", "")
    return table


def _confusion(report: ClassificationReport, num_confusions: int) -> Table:
    if len(report.labels) <= MAX_MATRIX_LABELS:
        table = Table(title="rows: true label, columns: predicted", title_justify="left")
        table.add_column("")
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
    table = Table(title="commonest mistakes", title_justify="left")
    table.add_column("true label", overflow="fold")
    table.add_column("predicted", overflow="fold")
    table.add_column("examples", justify="right")
    for count, true_label, given_label in mistakes[:num_confusions]:
        table.add_row(plain(true_label), plain(given_label), f"{count:,}")
    return table

"""What a page shows of one run: figures, curves, and of a classifier its charts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from llmstages.evaluate.classification import (
    ClassificationReport,
    ClassScores,
)
from llmstages.evaluate.multi_label import LabelScores, MultiLabelReport
from llmstages.report.curves import CHANCE, loss_range, positions, validation_panels
from llmstages.report.html.charts import (
    Bar,
    Cell,
    Chart,
    Line,
    LineChart,
    Part,
    Table,
    bar_chart,
    confusion_matrix,
    line_chart,
)
from llmstages.report.html.records import (
    RunRecord,
    read_answers,
    read_mistakes,
)
from llmstages.report.html.section import Section
from llmstages.report.html.words import (
    NATS,
    STAGES,
    count,
    duration,
    figure,
    figure_name,
    known,
    memory,
    steps_text,
)
from llmstages.report.metrics import Curve
from llmstages.report.smoothing import smoothed, thinned

CURVE_POINTS = 240
FEW_POINTS = 50
MAX_LINES = 12
"""In one chart: more names than that do not stand beside it."""
MAX_CLASS_BARS = 30
BASELINES = {
    "majority": "majority class",
    "tfidf": "TF-IDF",
    "probe": "linear probe",
    "random_weights": "from random weights",
}
HEADLINES = {
    "pretrain": ("val_bits_per_byte", "val_loss"),
    "finetune-instruct": ("val_loss", "preference_accuracy", "chrf", "exact_match"),
    "finetune-classify": ("macro_f1", "micro_f1", "accuracy"),
}
"""What is said of a run in one line, the first first."""


def run_section(run: RunRecord, anchor: str, *, is_open: bool) -> Section:
    shape = run.shape
    layers, width = shape.get("num_layers"), shape.get("hidden_size")
    facts = known(
        ("stage", STAGES.get(run.stage, run.stage)),
        ("status", "finished" if run.is_finished else "not finished"),
        ("method", run.method),
        ("data", ", ".join(Path(path).name for path in run.data) if not run.is_pretraining else ""),
        *((f"{name} examples", count(number)) for name, number in run.examples.items()),
        ("parameters", f"{run.parameters:,}" if run.parameters else ""),
        ("shape", f"{layers:.0f} layers of width {width:.0f}" if layers and width else ""),
        ("context, tokens", count(shape.get("context_length"))),
        ("vocabulary", count(shape.get("vocab_size"))),
        ("temperature", figure(run.temperature) if run.temperature else ""),
        ("steps", steps_text(run)),
        ("tokens read", f"{run.tokens:,.0f}" if run.tokens else ""),
        ("time", duration(run.seconds)),
        ("tokens a second", f"{run.tokens_per_second:,.0f}" if run.tokens_per_second else ""),
        ("peak memory", memory(run)),
        ("machine", run.machine),
    )
    charts = [*_curve_charts(run), *_class_charts(run)]
    tables = [table for table in (_figures_table(run), _per_class_table(run)) if table.rows]
    return Section(
        anchor=anchor,
        name=run.name,
        line="; ".join(f"{name} {value}" for name, value in outcome(run)),
        facts=facts,
        charts=[chart for chart in charts if chart is not None],
        tables=tables,
        answers=read_answers(run.directory),
        mistakes=read_mistakes(run.directory),
        is_open=is_open,
    )


def _curve_charts(run: RunRecord) -> Iterable[Chart | None]:
    training, validation = run.curves.training, run.curves.validation
    if (loss := training.get("loss")) is None:
        return
    tokens = training.get("tokens")
    unit = "optimizer steps" if tokens is None else "tokens"
    lines = _noisy(loss, tokens, "training", smooth=True)
    shown = "faintly each step, over it the running mean" if len(lines) > 1 else "each step"
    if (held_out := validation.get("val_loss")) is not None:
        lines.append(_marked(held_out, tokens, "validation", "second"))
    yield line_chart(
        f"Loss, {NATS.get(run.stage, 'loss, nats a target').removeprefix('loss, ')}",
        f"Training ({shown}) from {figure(loss.values[0])} to {figure(smoothed(loss.values)[-1])}"
        + (f"; validation at the end {figure(held_out.values[-1])}" if held_out else "")
        + ".",
        lines,
        unit,
        y_range=loss_range(run.curves),
    )
    for name, panel in validation_panels(validation).items():
        by_chance = {source: validation.get(f"{name}{CHANCE}/{source}") for source in panel}
        yield _validation_chart(name, panel, by_chance, tokens, unit, run.stage)
    if (rate := training.get("lr")) is not None:
        peak = f"Its peak is {figure(rate.values.max())}."
        yield line_chart("Learning rate", peak, _noisy(rate, tokens, "rate", smooth=False), unit)
    if (speed := training.get("tokens_per_second")) is not None:
        middle, high = float(np.median(speed.values)), float(speed.values.max())
        yield line_chart(
            "Throughput, tokens a second",
            f"Half of the steps are faster than {middle:,.0f} tokens a second.",
            _noisy(speed, tokens, "tokens/s", smooth=True),
            unit,
            y_range=(0.0, high * 1.05 or 1.0),
        )


def _validation_chart(
    name: str,
    panel: Mapping[str, Curve],
    by_chance: Mapping[str, Curve | None],
    tokens: Curve | None,
    unit: str,
    stage: str,
) -> LineChart | None:
    """What evaluations measured, of all and of each source, and what chance comes to."""
    lines = [
        _marked(curve, tokens, source, "other")
        for source, curve in panel.items()
        if source != "all"
    ][: MAX_LINES - 1]
    if (whole := panel.get("all")) is not None:
        lines.append(_marked(whole, tokens, "all" if lines else "validation", "first"))
    ends = [curve.values for curve in panel.values()] if whole is None else [whole.values]
    missing = len(panel) - len(lines)
    found = [line.name for line in lines]
    for source in found:
        if (chance := by_chance.get(source)) is not None:
            called = "chance" if len(found) == 1 else f"{source}, chance"
            lines.append(_marked(chance, tokens, called, "second"))
    return line_chart(
        figure_name(name, stage),
        f"From {figure(ends[0][0])} to {figure(ends[0][-1])}"
        + (", of all sources together and of each" if whole and len(panel) > 1 else "")
        + (f"; {missing} more sources are not drawn" if missing else "")
        + ".",
        lines,
        unit,
    )


def _noisy(curve: Curve, tokens: Curve | None, name: str, *, smooth: bool) -> list[Line]:
    """A curve of all steps: the values faintly with their running mean over them."""
    x, y = positions(tokens, curve.steps), curve.values
    lines = []
    if smooth and len(y) > FEW_POINTS:
        lines.append(Line("", *thinned(x, y, CURVE_POINTS), look="faint"))
        y = smoothed(y)
    if smooth and len(y) > CURVE_POINTS:
        kept = np.unique(np.linspace(0, len(y) - 1, CURVE_POINTS).round().astype(int))
        return [*lines, Line(name, x[kept], y[kept], look="first")]
    return [*lines, Line(name, *thinned(x, y, CURVE_POINTS), look="first")]


def _marked(curve: Curve, tokens: Curve | None, name: str, look: str) -> Line:
    x, y = positions(tokens, curve.steps), curve.values
    x, y = thinned(x, y, CURVE_POINTS)
    return Line(name, x, y, look, [2.5] * len(x) if len(x) <= FEW_POINTS else [])


def _class_charts(run: RunRecord) -> Iterable[Chart | None]:
    report = run.classes
    if report is None:
        return
    if isinstance(report, ClassificationReport):
        right = sum(row[index] for index, row in enumerate(report.confusion))
        yield confusion_matrix(
            "Confusion: of each true label (rows) the labels given (columns)",
            f"{right:,} of {sum(map(sum, report.confusion)):,} test texts got their true label.",
            report.labels,
            report.confusion,
        )
        yield _reliability_chart(run, report)
    scores = sorted(_scores(report), key=lambda each: each.f1)
    some = f" (the {MAX_CLASS_BARS} lowest of {len(scores)})"
    bars = [
        Bar(
            each.label,
            [Part(0, each.f1, "first")],
            f"{each.f1:.3f}",
            f"{each.label}: F1 {each.f1:.3f}, precision {each.precision:.3f}, "
            f"recall {each.recall:.3f}, {each.support:,} texts",
        )
        for each in scores[:MAX_CLASS_BARS]
    ]
    table = Table(("label", "F1"), [(each.label, each.f1) for each in scores])
    title = f"F1 of each label{some if len(scores) > MAX_CLASS_BARS else ''}"
    yield bar_chart(title, "The lowest first.", bars, table, top=1.0)


def _reliability_chart(run: RunRecord, report: ClassificationReport) -> Chart | None:
    """How often predictions are right against how sure they are."""
    bins = report.reliability
    most = max((found.num_examples for found in bins), default=0) or 1
    line = Line(
        "classifier",
        np.array([found.confidence for found in bins], dtype=np.float64),
        np.array([found.accuracy for found in bins], dtype=np.float64),
        "first",
        [round(2 + 6 * (max(found.num_examples, 0) / most) ** 0.5, 1) for found in bins],
    )
    error, before = report.figures.get("ece"), run.uncalibrated_error
    chart = line_chart(
        "Reliability: share that is right",
        "Texts by how sure the classifier is; below the diagonal it is too sure. Large dots are "
        "many texts."
        + (f" Expected calibration error {figure(error)}" if error is not None else "")
        + (f", before the temperature {figure(before)}." if before is not None else "."),
        [line],
        "probability of the prediction",
        y_range=(0.0, 1.0),
        x_range=(0.0, 1.0),
        diagonal=True,
    )
    return chart


def _figures_table(run: RunRecord) -> Table:
    """All figures, with intervals and what they are compared with."""
    before = {} if run.stage == "finetune-classify" else run.metrics_before
    compared = compared_with(run)
    rows: list[list[Cell]] = []
    for name, value in run.metrics.items():
        if name == "num_examples":
            continue
        ends = run.intervals.get(name)
        rows.append(
            [
                figure_name(name, run.stage),
                before.get(name),
                *(figures.get(name) for figures in compared.values()),
                value,
                f"{figure(ends[0])} to {figure(ends[1])}" if ends else None,
            ]
        )
    after = "after" if before else "value"
    columns = ("figure", "before", *compared, after, "95 % interval")
    return Table(columns, rows, "Figures").without_empty()


def _scores(
    report: ClassificationReport | MultiLabelReport | None,
) -> Sequence[ClassScores | LabelScores]:
    if report is None:
        return []
    return report.per_class if isinstance(report, ClassificationReport) else report.per_label


def _per_class_table(run: RunRecord) -> Table:
    columns = ("label", "precision", "recall", "F1", "texts")
    rows = [
        (each.label, each.precision, each.recall, each.f1, each.support)
        for each in _scores(run.classes)
    ]
    return Table(columns, rows, "Labels")


# -------------------------------------------------------------------------------------------------
# what it came to


def outcome(run: RunRecord) -> list[tuple[str, str]]:
    """The figures of a run in short, those before beside."""
    told = []
    for name in HEADLINES.get(run.stage, ()):
        if name not in run.metrics:
            continue
        value = figure(run.metrics[name])
        before = run.metrics_before.get(name)
        if before is not None and run.stage != "finetune-classify":
            value = f"{figure(before)} → {value}"
        if name in run.intervals:
            value += " ({} to {})".format(*map(figure, run.intervals[name]))
        told.append((figure_name(name, run.stage), value))
    if not told and (latest := run.curves.validation.get("val_loss")) is not None:
        told.append((figure_name("val_loss", run.stage), figure(latest.values[-1]) + " so far"))
    elif not told and (loss := run.curves.training.get("loss")) is not None:
        told.append(("training loss", figure(smoothed(loss.values)[-1]) + " so far"))
    compared = {
        name: figures["macro_f1"]
        for name, figures in compared_with(run).items()
        if "macro_f1" in figures
    }
    if told and compared:
        best = max(compared, key=lambda name: compared[name])
        told[1:] = [("best baseline, macro F1", f"{figure(compared[best])} ({best})")]
    return told[:2]


def compared_with(run: RunRecord) -> dict[str, dict[str, float]]:
    """What a classifier is compared with, by the name it is called."""
    found = dict(run.baselines)
    if run.stage == "finetune-classify" and run.metrics_before:
        found["probe"] = run.metrics_before
    return {BASELINES.get(name, name): figures for name, figures in found.items()}

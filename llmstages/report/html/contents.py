"""From records to what a page shows: facts, tables and charts, in the order in which they stand."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llmstages.data.corpus import Counts
from llmstages.evaluate.classification import (
    FIGURES,
    SCOPE_FIGURES,
    ClassificationReport,
    ClassScores,
)
from llmstages.evaluate.multi_label import MULTI_LABEL_FIGURES, LabelScores, MultiLabelReport
from llmstages.report.answers import LABELS as ANSWER_FIGURES
from llmstages.report.answers import AnsweredQuestion
from llmstages.report.corpus import changed, sizes, waterfall
from llmstages.report.curves import CHANCE, loss_range, positions, validation_panels
from llmstages.report.curves import LABELS as CURVE_FIGURES
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
    short_number,
)
from llmstages.report.html.records import (
    CorpusRecord,
    Mistake,
    Records,
    RunRecord,
    read_answers,
    read_mistakes,
)
from llmstages.report.metrics import Curve
from llmstages.report.smoothing import smoothed, thinned

MAX_RUNS_IN_FULL = 12
"""With their charts; of more runs the figures alone, which keeps a page at a few megabytes."""
OPEN_RUNS = 3
"""Whose charts are unfolded at first."""
CURVE_POINTS = 240
FEW_POINTS = 50
MAX_LINES = 12
"""In one chart: more names than that do not stand beside it."""
MAX_CLASS_BARS = 30
HASH_CHARACTERS = 12
STAGES = {
    "pretrain": "pre-training",
    "finetune-instruct": "instruction tuning",
    "finetune-classify": "classification",
}
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
NATS = {"pretrain": "loss, nats a token", "finetune-classify": "loss, nats a text"}
"""What `val_loss` is, of other stages than instruction tuning."""


@dataclass(frozen=True)
class Step:
    """A box of the three steps."""

    title: str
    what: str
    name: str
    """Of the corpus or run; empty where there is none."""
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """What is shown of one corpus or run."""

    anchor: str
    name: str
    line: str
    """What it came to."""
    facts: list[tuple[str, str]]
    charts: Sequence[Chart]
    tables: Sequence[Table] = ()
    answers: Sequence[AnsweredQuestion] = ()
    mistakes: Sequence[Mistake] = ()
    is_open: bool = True


@dataclass(frozen=True)
class Page:
    """All of it."""

    title: str
    steps: list[Step]
    comparison: Table
    runs: Table
    anchors: list[str]
    """Of the runs of the table, in its order; empty for one that is not shown in full."""
    spread: Table
    """Of several trainings of one setting."""
    corpora: list[Section]
    sections: list[Section]
    lineage: Table
    ways: Sequence[Table] = ()
    """From raw text to a model, step by step."""
    notes: list[str] = field(default_factory=list)


def page_of(records: Records, ways: Sequence[Table] = ()) -> Page:
    """The page of what was read, and of the ways that led to its models."""
    base, tuned, corpus = story(records)
    first = [run for run in (base, *tuned) if run is not None]
    in_full = [*first, *(run for run in records.runs if run not in first)][:MAX_RUNS_IN_FULL]
    anchors = {id(run): f"run-{index}" for index, run in enumerate(in_full, 1)}
    notes = list(records.notes)
    if left := len(records.runs) - len(in_full):
        notes.append(f"{left} of {len(records.runs)} runs are in the table alone")
    return Page(
        title=_title(records, tuned),
        steps=_steps(base, tuned, corpus),
        comparison=_comparison(base, tuned, corpus),
        runs=_all_runs(records.runs),
        anchors=[anchors.get(id(run), "") for run in records.runs],
        spread=_spread(records),
        corpora=[
            _corpus_section(found, f"corpus-{index}", base if found is corpus else None)
            for index, found in enumerate(records.corpora, 1)
        ],
        sections=[
            _run_section(run, anchors[id(run)], is_open=index < OPEN_RUNS)
            for index, run in enumerate(in_full)
        ],
        lineage=_lineage(records),
        ways=ways,
        notes=notes,
    )


def _title(records: Records, tuned: Sequence[RunRecord]) -> str:
    names = [run.name for run in tuned] or [run.name for run in records.runs][:1]
    if not names:
        return records.corpora[0].directory.name
    more = len(records.runs) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def story(
    records: Records,
) -> tuple[RunRecord | None, list[RunRecord], CorpusRecord | None]:
    """A base, what was made of it, and its corpus: the first run of each kind that is finished."""
    tuned: list[RunRecord] = []
    for stage in STAGES:
        of_stage = [run for run in records.runs if run.stage == stage and not run.is_pretraining]
        bases_so_far = [run.base_dir for run in tuned] or [run.base_dir for run in of_stage]
        of_stage.sort(key=lambda run: (not run.is_finished, run.base_dir not in bases_so_far))
        tuned += of_stage[:1]
    bases = sorted(
        (run for run in records.runs if run.is_pretraining),
        key=lambda run: (
            all(run.directory.resolve() != found.base_dir for found in tuned),
            not run.is_finished,
        ),
    )
    base = bases[0] if bases else None
    corpora = sorted(
        records.corpora, key=lambda corpus: base is None or corpus.directory != base.corpus_dir
    )
    return base, tuned, corpora[0] if corpora else None


# -------------------------------------------------------------------------------------------------
# the three steps, and the comparison


def _steps(
    base: RunRecord | None, tuned: Sequence[RunRecord], corpus: CorpusRecord | None
) -> list[Step]:
    collected: list[tuple[str, str]] = []
    if corpus is not None:
        train, sources = corpus.manifest.train, corpus.manifest.sources
        collected = _known(
            ("sources", f"{len(sources)}"),
            ("text", size_text(train.bytes)),
            ("documents", f"{train.documents:,}"),
            ("words", short_number(train.words)),
            ("tokens", short_number(sum(corpus.tokens.values())) if corpus.tokens else ""),
            ("time", duration(corpus.seconds)),
        )
    pretrained: list[tuple[str, str]] = []
    if base is not None:
        pretrained = _known(
            ("parameters", short_number(base.parameters) if base.parameters else ""),
            ("steps", _steps_text(base)),
            ("tokens read", short_number(base.tokens) if base.tokens else ""),
            ("time", duration(base.seconds)),
            *_outcome(base),
        )
    boxes = [
        Step("Collect", "raw text → corpus", corpus.directory.name if corpus else "", collected),
        Step("Pre-train", "corpus → base model", base.name if base else "", pretrained),
    ]
    for run in tuned:
        facts = _known(
            ("method", run.method),
            ("labelled examples", _count(run.examples.get("train"))),
            ("labels", str(len(run.classes.labels)) if run.classes else ""),
            ("steps", _steps_text(run)),
            ("time", duration(run.seconds)),
            *_outcome(run),
        )
        title = f"Fine-tune: {STAGES[run.stage]}"
        boxes.append(Step(title, "base model → specialist", run.name, facts))
    if not tuned:
        boxes.append(Step("Fine-tune", "base model → specialist", "", []))
    return boxes


def _comparison(
    base: RunRecord | None, tuned: Sequence[RunRecord], corpus: CorpusRecord | None
) -> Table:
    """Pre-training beside fine-tuning: objective, data, volume, cost, outcome."""
    runs = [*([base] if base else []), *tuned]
    ways = [
        ("objective", _objective),
        ("data", lambda run: _data_kind(run, corpus)),
        ("volume", lambda run: _volume(run, corpus)),
        ("cost", _cost),
        ("outcome", lambda run: "; ".join(f"{name} {value}" for name, value in _outcome(run))),
    ]
    rows = [(name, *(way(run) for run in runs)) for name, way in ways]
    kinds = ["Pre-training" if run.is_pretraining else "Fine-tuning" for run in runs]
    heads = [f"{kind}: {run.name}" for kind, run in zip(kinds, runs, strict=True)]
    return Table(("", *heads), rows if runs else [])


def _objective(run: RunRecord) -> str:
    if run.is_pretraining:
        return "the next token of any text: cross-entropy, no labels"
    if isinstance(run.classes, MultiLabelReport):
        return "all labels of a text: cross-entropy of each"
    if run.stage == "finetune-classify":
        return f"the label of a text: {(run.loss or 'cross_entropy').replace('_', '-')}"
    if run.objective == "preferences":
        return "the better of two answers (DPO)"
    return "the next token of answers alone: cross-entropy"


def _data_kind(run: RunRecord, corpus: CorpusRecord | None) -> str:
    if run.is_pretraining:
        if corpus is None:
            return "unlabelled text"
        kinds = ", ".join(sorted({source.kind for source in corpus.manifest.sources}))
        return f"unlabelled text of {_counted(len(corpus.manifest.sources), 'source')} ({kinds})"
    names = ", ".join(Path(path).name for path in run.data)
    kind = "labelled texts" if run.stage == "finetune-classify" else "prompts with answers"
    labels = f", {len(run.classes.labels):,} labels" if run.classes else ""
    return f"{kind}{labels}" + (f" ({names})" if names else "")


def _volume(run: RunRecord, corpus: CorpusRecord | None) -> str:
    parts = []
    if run.is_pretraining and corpus is not None:
        train = corpus.manifest.train
        parts.append(f"{size_text(train.bytes)}, {train.documents:,} documents")
        if corpus.tokens:
            parts.append(f"{short_number(sum(corpus.tokens.values()))} tokens")
    if run.examples:
        told = ", ".join(f"{short_count(count)} {part}" for part, count in run.examples.items())
        parts.append(f"examples: {told}")
    if run.tokens:
        parts.append(f"{short_number(run.tokens)} tokens read in {_steps_text(run)} steps")
    return "; ".join(parts)


def _cost(run: RunRecord) -> str:
    parts = [
        duration(run.seconds),
        run.machine,
        f"{run.tokens_per_second:,.0f} tokens/s" if run.tokens_per_second else "",
        _memory(run) + " of memory" if run.peak_memory_bytes else "",
    ]
    if run.parameters and run.tokens and run.method in ("", "full"):
        parts.append(f"{6 * run.parameters * run.tokens:.2g} FLOPs (6 N D)")
    return ", ".join(part for part in parts if part)


def _outcome(run: RunRecord) -> list[tuple[str, str]]:
    """The figures of a run in short, those before beside."""
    told = []
    for name in HEADLINES.get(run.stage, ()):
        if name not in run.metrics:
            continue
        value = _figure(run.metrics[name])
        before = run.metrics_before.get(name)
        if before is not None and run.stage != "finetune-classify":
            value = f"{_figure(before)} → {value}"
        if name in run.intervals:
            value += " ({} to {})".format(*map(_figure, run.intervals[name]))
        told.append((figure_name(name, run.stage), value))
    if not told and (latest := run.curves.validation.get("val_loss")) is not None:
        told.append((figure_name("val_loss", run.stage), _figure(latest.values[-1]) + " so far"))
    elif not told and (loss := run.curves.training.get("loss")) is not None:
        told.append(("training loss", _figure(smoothed(loss.values)[-1]) + " so far"))
    compared = {
        name: figures["macro_f1"]
        for name, figures in _baselines(run).items()
        if "macro_f1" in figures
    }
    if told and compared:
        best = max(compared, key=lambda name: compared[name])
        told[1:] = [("best baseline, macro F1", f"{_figure(compared[best])} ({best})")]
    return told[:2]


def _baselines(run: RunRecord) -> dict[str, dict[str, float]]:
    """What a classifier is compared with, by the name it is called."""
    found = dict(run.baselines)
    if run.stage == "finetune-classify" and run.metrics_before:
        found["probe"] = run.metrics_before
    return {BASELINES.get(name, name): figures for name, figures in found.items()}


# -------------------------------------------------------------------------------------------------
# tables of all runs


def _all_runs(runs: Sequence[RunRecord]) -> Table:
    rows: list[list[Cell]] = []
    for run in runs:
        metric = run.headline or next(iter(HEADLINES.get(run.stage, ("",))))
        ends = run.intervals.get(metric)
        baselines = [found[metric] for found in _baselines(run).values() if metric in found]
        rows.append(
            [
                run.name,
                STAGES.get(run.stage, run.stage),
                figure_name(metric, run.stage),
                run.metrics.get(metric),
                f"{_figure(ends[0])} to {_figure(ends[1])}" if ends else "",
                max(baselines, default=None),
                "finished" if run.is_finished else "not finished",
                _steps_text(run),
                short_number(run.tokens) if run.tokens else "",
                duration(run.seconds),
            ]
        )
    columns = ("run", "stage", "figure", "value", "95 % of resamples", "best baseline", "status")
    return without_empty(Table((*columns, "steps", "tokens", "time"), rows))


def _spread(records: Records) -> Table:
    rows = [
        (
            spread.name,
            spread.num_runs,
            figure_name(spread.figure, "finetune-classify"),
            spread.mean,
            spread.standard_deviation,
            " to ".join(map(_figure, spread.interval)) if spread.interval else "",
        )
        for spread in records.spreads
    ]
    columns = ("runs in", "trainings", "figure", "mean", "standard deviation")
    return without_empty(Table((*columns, "95 % interval of the mean"), rows))


def _lineage(records: Records) -> Table:
    """What each checkpoint was made from, by its hash; what is on the page has its name."""
    weights = {run.weights_sha256: run.name for run in records.runs if run.weights_sha256}
    corpora = {corpus.sha256: corpus.directory.name for corpus in records.corpora}
    rows: list[list[Cell]] = []
    for run in records.runs:
        if not run.checkpoint:
            continue
        step = run.checkpoint.get("step")
        rows.append(
            [
                run.name,
                step if isinstance(step, int) else None,
                _hash(run.weights_sha256, {}),
                _hash(run.lineage("parent"), weights) or run.lineage("base"),
                _hash(run.lineage("corpus_manifest"), corpora),
                _hash(run.lineage("tokenizer"), {}),
                _hash(run.lineage("data"), {}),
                _hash(run.lineage("replay"), corpora),
            ]
        )
    columns = ("run", "best step", "weights", "made from", "corpus", "tokenizer", "labelled rows")
    return without_empty(Table((*columns, "replayed corpus"), rows))


def _hash(value: str | None, names: Mapping[str, str]) -> str | None:
    """The beginning of a hash, after the name of what has it."""
    if value is None:
        return None
    short = value[:HASH_CHARACTERS]
    return f"{names[value]} ({short})" if value in names else short


def without_empty(table: Table) -> Table:
    """A table without the columns that hold nothing."""
    kept = [
        index
        for index in range(len(table.columns))
        if any(row[index] not in (None, "") for row in table.rows)
    ]
    rows = [[row[index] for index in kept] for row in table.rows]
    return Table([table.columns[index] for index in kept], rows, table.title)


# -------------------------------------------------------------------------------------------------
# corpora


def _corpus_section(corpus: CorpusRecord, anchor: str, base: RunRecord | None) -> Section:
    manifest = corpus.manifest
    read = sum((source.extracted for source in manifest.sources), Counts())
    kept = manifest.train + manifest.validation
    facts = _known(
        ("recipe", manifest.recipe),
        ("to train on", _documents(manifest.train)),
        ("held out", _documents(manifest.validation)),
        ("vocabulary", f"{corpus.vocabulary:,} tokens" if corpus.vocabulary else ""),
        ("collected in", duration(corpus.seconds)),
        ("licences", ", ".join(sorted({s.license for s in manifest.sources if s.license}))),
    )
    by_source = [
        Table(
            ("", "documents", "words", "MB"),
            [[_plain(cell) for cell in row] for row in waterfall(source)],
            source.name,
        )
        for source in manifest.sources
    ]
    charts = [_waterfall_chart(corpus), _mixture_chart(corpus, base)]
    line = f"{read.documents:,} documents read, {kept.documents:,} kept"
    found = [chart for chart in charts if chart is not None]
    return Section(anchor, corpus.directory.name, line, facts, found, by_source)


def _documents(counts: Counts) -> str:
    return f"{counts.documents:,} documents, {size_text(counts.bytes)}"


def _plain(value: object) -> Cell:
    return value if isinstance(value, (str, int, float)) or value is None else str(value)


def _waterfall_chart(corpus: CorpusRecord) -> Chart | None:
    """Documents from those read to those kept, over all sources."""
    sources = corpus.manifest.sources
    read = sum((source.extracted for source in sources), Counts())
    dropped: dict[str, Counts] = {}
    for source in sources:
        for rule, counts in source.dropped.items():
            dropped[rule] = dropped.get(rule, Counts()) + counts
    rows: list[list[Cell]] = [["read", *sizes(read), 100.0]]
    bars = [_bar("read", 0, read.documents, "other", read)]
    left = read.documents
    for rule, counts in sorted(dropped.items(), key=lambda drop: -drop[1].documents):
        after = max(left - counts.documents, 0)
        bars.append(_bar(f"− {rule}", after, left, "second", counts))
        rows.append([f"− {rule}", *sizes(counts), _percent(counts.documents, read.documents)])
        left = after
    cut = sum((changed(source) for source in sources), Counts())
    if cut.documents or cut.words:
        low, high = sorted((left, max(left + cut.documents, 0)))
        bars.append(_bar("cut and cleaned", low, high, "other", cut))
        rows.append(["cut and cleaned", *sizes(cut), _percent(cut.documents, read.documents)])
    train, validation = corpus.manifest.train, corpus.manifest.validation
    for name, begin, counts in (("train", 0, train), ("validation", train.documents, validation)):
        bars.append(_bar(name, begin, begin + counts.documents, "first", counts))
        rows.append([name, *sizes(counts), _percent(counts.documents, read.documents)])
    return bar_chart(
        "Documents read, dropped by each filter, and kept",
        f"Of {read.documents:,} documents {train.documents:,} are kept to train on and "
        f"{validation.documents:,} to validate.",
        bars,
        Table(("", "documents", "words", "MB", "% of those read"), rows),
    )


def _bar(name: str, begin: float, end: float, look: str, counts: Counts) -> Bar:
    tip = (
        f"{name}: {counts.documents:,} documents, {counts.words:,} words, {size_text(counts.bytes)}"
    )
    return Bar(name, [Part(begin, end, look)], short_number(counts.documents), tip)


def _mixture_chart(corpus: CorpusRecord, base: RunRecord | None) -> Chart | None:
    """The share of the training text that is drawn from each source, beside that of its size."""
    manifest = corpus.manifest
    shares = manifest.shares
    asked = {name: base.weights.get(name, 0.0) for name in shares} if base and base.weights else {}
    if (total := sum(asked.values())) > 0:
        shares = {name: weight / total for name, weight in asked.items()}
    size = manifest.train.bytes or 1
    read = base.tokens if base else None
    bars, rows = [], []
    for source in manifest.sources:
        share, of_size = shares[source.name], source.train.bytes / size
        tokens = corpus.tokens.get(source.name)
        times = share * read / tokens if read and tokens else None
        bars.append(
            Bar(
                source.name,
                [Part(0, share, "first")],
                f"{share:.1%}",
                f"{source.name}: {share:.1%} of what is read, {of_size:.1%} of the text"
                + (f", read {times:.3g} times" if times else ""),
                mark=of_size,
            )
        )
        rows.append([source.name, *sizes(source.train), tokens, 100 * of_size, 100 * share, times])
    columns = ("source", "documents", "words", "MB", "tokens", "% of the text", "% drawn")
    return bar_chart(
        "Mixture: share of the training text drawn from each source",
        "Bars: share drawn. Line across: share of the text by its size.",
        bars,
        without_empty(Table((*columns, "times read"), rows)),
    )


# -------------------------------------------------------------------------------------------------
# runs


def _run_section(run: RunRecord, anchor: str, *, is_open: bool) -> Section:
    shape = run.shape
    layers, width = shape.get("num_layers"), shape.get("hidden_size")
    facts = _known(
        ("stage", STAGES.get(run.stage, run.stage)),
        ("status", "finished" if run.is_finished else "not finished"),
        ("method", run.method),
        ("data", ", ".join(Path(path).name for path in run.data) if not run.is_pretraining else ""),
        *((f"{name} examples", _count(count)) for name, count in run.examples.items()),
        ("parameters", f"{run.parameters:,}" if run.parameters else ""),
        ("shape", f"{layers:.0f} layers of width {width:.0f}" if layers and width else ""),
        ("context, tokens", _count(shape.get("context_length"))),
        ("vocabulary", _count(shape.get("vocab_size"))),
        ("temperature", _figure(run.temperature) if run.temperature else ""),
        ("steps", _steps_text(run)),
        ("tokens read", f"{run.tokens:,.0f}" if run.tokens else ""),
        ("time", duration(run.seconds)),
        ("tokens a second", f"{run.tokens_per_second:,.0f}" if run.tokens_per_second else ""),
        ("peak memory", _memory(run)),
        ("machine", run.machine),
    )
    charts = [*_curve_charts(run), *_class_charts(run)]
    tables = [table for table in (_figures_table(run), _per_class_table(run)) if table.rows]
    return Section(
        anchor=anchor,
        name=run.name,
        line="; ".join(f"{name} {value}" for name, value in _outcome(run)),
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
        f"Training ({shown}) from {_figure(loss.values[0])} to {_figure(smoothed(loss.values)[-1])}"
        + (f"; validation at the end {_figure(held_out.values[-1])}" if held_out else "")
        + ".",
        lines,
        unit,
        y_range=loss_range(run.curves),
    )
    for name, panel in validation_panels(validation).items():
        by_chance = {source: validation.get(f"{name}{CHANCE}/{source}") for source in panel}
        yield _validation_chart(name, panel, by_chance, tokens, unit, run.stage)
    if (rate := training.get("lr")) is not None:
        peak = f"Its peak is {_figure(rate.values.max())}."
        yield line_chart("Learning rate", peak, _noisy(rate, tokens, "rate", smooth=False), unit)
    if (speed := training.get("tokens_per_second")) is not None:
        middle, high = float(np.median(speed.values)), float(speed.values.max())
        yield line_chart(
            "Throughput, tokens a second",
            f"Half of the steps are faster than {middle:,.0f} tokens a second.",
            _noisy(speed, tokens, "tokens/s", smooth=True),
            unit,
            y_range=(0.0, min(high, 2.5 * middle) * 1.05 or 1.0),
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
        f"From {_figure(ends[0][0])} to {_figure(ends[0][-1])}"
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
        + (f" Expected calibration error {_figure(error)}" if error is not None else "")
        + (f", before the temperature {_figure(before)}." if before is not None else "."),
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
    compared = _baselines(run)
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
                f"{_figure(ends[0])} to {_figure(ends[1])}" if ends else None,
            ]
        )
    after = "after" if before else "value"
    columns = ("figure", "before", *compared, after, "95 % of resamples")
    return without_empty(Table(columns, rows, "Figures"))


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
# words and numbers


def figure_name(name: str, stage: str) -> str:
    """What a metric is called; `name/<source>` by both."""
    name, _, source = name.partition("/")
    if name == "val_loss" and stage in NATS:
        called = f"validation {NATS[stage]}"
    elif stage == "finetune-instruct" and name in ANSWER_FIGURES:
        called = ANSWER_FIGURES[name]
    else:
        names = MULTI_LABEL_FIGURES | CURVE_FIGURES | SCOPE_FIGURES | FIGURES
        called = names.get(name) or name.replace("val_", "validation ").replace("_", " ")
    return f"{called}: {source}" if source else called


def duration(seconds: float | None) -> str:
    """`12.3 s`, `4 min 5 s`, `3 h 20 min`; empty where it is not known."""
    if seconds is None or seconds < 0:
        return ""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def size_text(num_bytes: float) -> str:
    """`12.8 MB`."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(num_bytes) >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} bytes"


def _memory(run: RunRecord) -> str:
    return f"{run.peak_memory_bytes / 2**30:.3g} GiB" if run.peak_memory_bytes else ""


def short_count(count: float) -> str:
    """A whole number."""
    return f"{count:,.0f}"


def _count(count: float | None) -> str:
    return "" if count is None else short_count(count)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _figure(value: float) -> str:
    return f"{value:.4g}"


def _percent(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None


def _steps_text(run: RunRecord) -> str:
    if run.steps is None:
        return ""
    if not run.is_finished and run.planned_steps:
        return f"{run.steps:,} of {run.planned_steps:,}"
    return f"{run.steps:,}"


def _known(*facts: tuple[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in facts if value]

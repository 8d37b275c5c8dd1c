"""From records to what a page shows, in the order in which it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmstages.evaluate.multi_label import MultiLabelReport
from llmstages.report.flops import flops_text
from llmstages.report.html.charts import (
    Cell,
    Table,
    short_number,
)
from llmstages.report.html.corpus_part import corpus_section
from llmstages.report.html.records import (
    CorpusRecord,
    Records,
    RunRecord,
)
from llmstages.report.html.run_part import HEADLINES, compared_with, outcome, run_section
from llmstages.report.html.section import Section
from llmstages.report.html.words import (
    STAGES,
    count,
    counted,
    duration,
    figure,
    figure_name,
    known,
    memory,
    short_count,
    size_text,
    steps_text,
)

MAX_RUNS_IN_FULL = 12
"""With their charts; of more runs the figures alone, which keeps a page at a few megabytes."""
OPEN_RUNS = 3
"""Whose charts are unfolded at first."""
HASH_CHARACTERS = 12


@dataclass(frozen=True)
class Step:
    """A box of the three steps."""

    title: str
    what: str
    name: str
    """Of the corpus or run; empty where there is none."""
    facts: list[tuple[str, str]]


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
            corpus_section(found, f"corpus-{index}", base if found is corpus else None)
            for index, found in enumerate(records.corpora, 1)
        ],
        sections=[
            run_section(run, anchors[id(run)], is_open=index < OPEN_RUNS)
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
    """A base, of each kind of specialist the one last made of it, and its corpus.

    Of several such stories the one with most stages that are finished, and of equals the newest.
    """
    parents = _parents(records.runs)
    groups: dict[str, list[RunRecord]] = {}
    for run in records.runs:
        groups.setdefault(_beginning(run, parents), []).append(run)
    stories = []
    for group in groups.values():
        newest = sorted(group, key=lambda run: (not run.is_finished, -run.made_at))
        by_stage = [[run for run in newest if run.stage == stage][:1] for stage in STAGES]
        runs = [run for found in by_stage for run in found]
        stories.append((runs, _corpus_of(runs, records.corpora)))
    if not stories:
        return None, [], records.corpora[0] if records.corpora else None
    runs, corpus = max(
        stories,
        key=lambda told: (
            sum(run.is_finished for run in told[0]) + (told[1] is not None),
            max((run.made_at for run in told[0]), default=0.0),
        ),
    )
    bases = [run for run in runs if run.is_pretraining]
    return (
        bases[0] if bases else None,
        [run for run in runs if not run.is_pretraining],
        corpus,
    )


def _beginning(run: RunRecord, parents: Mapping[int, RunRecord]) -> str:
    """Names what a run was made of: the last pre-training before it, or else what is known."""
    seen: set[int] = set()
    while not run.is_pretraining and id(run) in parents and id(run) not in seen:
        seen.add(id(run))
        run = parents[id(run)]
    if run.is_pretraining:
        return str(run.directory)
    return run.lineage("parent") or run.lineage("base") or str(run.base_dir or run.directory)


def _parents(runs: Sequence[RunRecord]) -> dict[int, RunRecord]:
    """By the id of a run that from whose weights it started: the one with their hash, or else the
    one in their place, of which another checkpoint may be known."""
    by_weights = {run.weights_sha256: run for run in runs if run.weights_sha256}
    by_place = {run.directory.resolve(): run for run in runs}
    parents = {}
    for run in runs:
        parent = by_weights.get(run.lineage("parent") or "")
        if parent is None and run.base_dir is not None:
            parent = by_place.get(run.base_dir)
        if parent is not None:
            parents[id(run)] = parent
    return parents


def _corpus_of(runs: Sequence[RunRecord], corpora: Sequence[CorpusRecord]) -> CorpusRecord | None:
    """The corpus that the first of these runs was trained on, or goes back to."""
    if not runs:
        return None
    recorded = runs[0].lineage("corpus_manifest")
    for corpus in corpora:
        if corpus.sha256 == recorded if recorded else corpus.directory == runs[0].corpus_dir:
            return corpus
    return None


# -------------------------------------------------------------------------------------------------
# the three steps, and the comparison


def _steps(
    base: RunRecord | None, tuned: Sequence[RunRecord], corpus: CorpusRecord | None
) -> list[Step]:
    collected: list[tuple[str, str]] = []
    if corpus is not None:
        train, sources = corpus.manifest.train, corpus.manifest.sources
        collected = known(
            ("sources", f"{len(sources)}"),
            ("text", size_text(train.bytes)),
            ("documents", f"{train.documents:,}"),
            ("words", short_number(train.words)),
            ("tokens", short_number(sum(corpus.tokens.values())) if corpus.tokens else ""),
            ("time", duration(corpus.seconds)),
        )
    pretrained: list[tuple[str, str]] = []
    if base is not None:
        pretrained = known(
            ("parameters", short_number(base.parameters) if base.parameters else ""),
            ("steps", steps_text(base)),
            ("tokens read", short_number(base.tokens) if base.tokens else ""),
            ("time", duration(base.seconds)),
            *outcome(base),
        )
    boxes = [
        Step("Collect", "raw text → corpus", corpus.directory.name if corpus else "", collected),
        Step("Pre-train", "corpus → base model", base.name if base else "", pretrained),
    ]
    for run in tuned:
        facts = known(
            ("method", run.method),
            ("labelled examples", count(run.examples.get("train"))),
            ("labels", str(len(run.classes.labels)) if run.classes else ""),
            ("steps", steps_text(run)),
            ("time", duration(run.seconds)),
            *outcome(run),
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
        ("outcome", lambda run: "; ".join(f"{name} {value}" for name, value in outcome(run))),
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
        return f"unlabelled text of {counted(len(corpus.manifest.sources), 'source')} ({kinds})"
    names = ", ".join(Path(path).name for path in run.data)
    kind = "labelled texts" if run.stage == "finetune-classify" else "prompts with answers"
    labels = f", {len(run.classes.labels):,} labels" if run.classes else ""
    return f"{kind}{labels}" + (f" ({names})" if names else "")


def _volume(run: RunRecord, corpus: CorpusRecord | None) -> str:
    parts = []
    if run.is_pretraining and corpus is not None:
        train = corpus.manifest.train
        parts.append(f"{size_text(train.bytes)}, {train.documents:,} documents")
        if tokens := corpus.tokens_for(run):
            parts.append(f"{short_number(sum(tokens.values()))} tokens")
    if run.examples:
        told = ", ".join(f"{short_count(count)} {part}" for part, count in run.examples.items())
        parts.append(f"examples: {told}")
    if run.tokens:
        parts.append(f"{short_number(run.tokens)} tokens read in {steps_text(run)} steps")
    return "; ".join(parts)


def _cost(run: RunRecord) -> str:
    parts = [
        duration(run.seconds),
        run.machine,
        f"{run.tokens_per_second:,.0f} tokens/s" if run.tokens_per_second else "",
        memory(run) + " of memory" if run.peak_memory_bytes else "",
    ]
    if run.flops is not None:
        parts.append(flops_text(run.flops))
    return ", ".join(part for part in parts if part)


# -------------------------------------------------------------------------------------------------
# tables of all runs


def _all_runs(runs: Sequence[RunRecord]) -> Table:
    rows: list[list[Cell]] = []
    for run in runs:
        metric = run.headline or next(iter(HEADLINES.get(run.stage, ("",))))
        ends = run.intervals.get(metric)
        baselines = [found[metric] for found in compared_with(run).values() if metric in found]
        rows.append(
            [
                run.name,
                STAGES.get(run.stage, run.stage),
                figure_name(metric, run.stage),
                run.metrics.get(metric),
                f"{figure(ends[0])} to {figure(ends[1])}" if ends else "",
                max(baselines, default=None),
                "finished" if run.is_finished else "not finished",
                steps_text(run),
                short_number(run.tokens) if run.tokens else "",
                duration(run.seconds),
            ]
        )
    columns = ("run", "stage", "figure", "value", "95 % interval", "best baseline", "status")
    return Table((*columns, "steps", "tokens", "time"), rows).without_empty()


def _spread(records: Records) -> Table:
    rows = [
        (
            spread.name,
            spread.num_runs,
            figure_name(spread.figure, "finetune-classify"),
            spread.mean,
            spread.standard_deviation,
            " to ".join(map(figure, spread.interval)) if spread.interval else "",
        )
        for spread in records.spreads
    ]
    columns = ("runs in", "trainings", "figure", "mean", "standard deviation")
    return Table((*columns, "95 % interval of the mean"), rows).without_empty()


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
    return Table((*columns, "replayed corpus"), rows).without_empty()


def _hash(value: str | None, names: Mapping[str, str]) -> str | None:
    """The beginning of a hash, after the name of what has it."""
    if value is None:
        return None
    short = value[:HASH_CHARACTERS]
    return f"{names[value]} ({short})" if value in names else short

"""What is known of runs and of the corpora they were made from.

Read so that nothing ends a page: a file that is missing, torn, damaged or of another version leaves
out what it would have said.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, get_type_hints

from llmstages.data.corpus import MANIFEST_FILE, Manifest
from llmstages.data.json_files import as_dataclass, as_type, parse_json
from llmstages.data.json_values import (
    at,
    number_at,
    numbers_at,
    object_at,
    read_json,
    read_json_lines,
    read_yaml,
    text_at,
    texts_at,
    whole_at,
)
from llmstages.data.shards import TokenIndex
from llmstages.errors import UserError
from llmstages.evaluate.classification import ClassificationReport, ClassScores, ReliabilityBin
from llmstages.evaluate.multi_label import LabelScores, MultiLabelReport
from llmstages.report.answers import AnsweredQuestion
from llmstages.report.flops import recorded_flops
from llmstages.report.metrics import Curves, read_entries
from llmstages.text.tokenizer import Tokenizer

MAX_DEPTH = 3
"""Folders below a directory of runs: a sweep's jobs and members lie inside."""
MAX_ANCESTORS = 20
SHOWN_ANSWERS = 6
SHOWN_MISTAKES = 8
INFO_FILE = "llmstages.json"
"""Of a checkpoint."""
PARENTS = 4
"""Directories above a run in which what it names by a relative path is looked for."""


@dataclass(frozen=True)
class Mistake:
    """A test text that was given a wrong label."""

    text: str
    true: str
    given: str
    probability: float
    """Of the label given; of several labels how far the most wrong one is from what is true."""


@dataclass(frozen=True)
class RunRecord:
    """One run; None and empty where it is not known."""

    directory: Path
    name: str
    stage: str
    is_finished: bool
    made_at: float
    """Seconds since 1970: when it was finished, or else when its metrics were last written."""
    steps: int | None
    """Done so far."""
    planned_steps: int | None
    tokens: float | None
    flops: float | None
    """Of training, as `recorded_flops` counts them."""
    seconds: float | None
    tokens_per_second: float | None
    peak_memory_bytes: float | None
    machine: str
    parameters: int | None
    shape: dict[str, float]
    """Numbers of `model_shape`."""
    method: str
    objective: str
    """Of the method: `answers` or `preferences`."""
    loss: str
    """Of a classifier: `cross_entropy` or `focal`."""
    data: list[str]
    """Paths of the labelled files."""
    temperature: float | None
    """By which a classifier was calibrated."""
    uncalibrated_error: float | None
    """Expected calibration error before that."""
    headline: str | None
    metrics: dict[str, float]
    metrics_before: dict[str, float]
    baselines: dict[str, dict[str, float]]
    intervals: dict[str, tuple[float, float]]
    examples: dict[str, float]
    classes: ClassificationReport | MultiLabelReport | None
    curves: Curves
    checkpoint: dict[str, Any]
    """`llmstages.json` of the best checkpoint, or else of the last."""
    weights: dict[str, float]
    """Shares of the sources that were asked for, by source."""
    corpus_dir: Path | None
    base_dir: Path | None

    @property
    def is_pretraining(self) -> bool:
        return self.stage == "pretrain"

    @property
    def weights_sha256(self) -> str | None:
        """Of the checkpoint's weights, by which runs made from it name it."""
        return text_at(self.checkpoint, "files", "model.safetensors")

    def lineage(self, name: str) -> str | None:
        """A hash or name of what the checkpoint was made from."""
        return text_at(self.checkpoint, "lineage", name)


@dataclass(frozen=True)
class CorpusRecord:
    """One corpus."""

    directory: Path
    manifest: Manifest
    sha256: str
    """Of the manifest: names the corpus in the lineage of checkpoints."""
    seconds: float | None
    """That collecting took."""
    tokens: dict[str, int]
    """Of the training text, by source; empty where it is not tokenized."""
    vocabulary: int | None
    """Of the tokenizer with which these were counted: the corpus's own, or else that of runs."""
    tokens_by_tokenizer: dict[str, dict[str, int]]
    """The same by the hash of a tokenizer, of all with which it was read."""

    def tokens_for(self, run: RunRecord) -> dict[str, int]:
        """By source, as the tokenizer of a run counts them."""
        return self.tokens_by_tokenizer.get(run.lineage("tokenizer") or "", self.tokens)


@dataclass(frozen=True)
class SpreadRecord:
    """A figure of several trainings that differ by their seed or fold."""

    name: str
    """Of the directory that they lie in."""
    figure: str
    num_runs: int
    mean: float
    standard_deviation: float | None
    interval: tuple[float, float] | None
    """Of the mean, 95 %."""


@dataclass(frozen=True)
class Records:
    """All that a page is made of."""

    runs: list[RunRecord]
    """Pretraining first."""
    corpora: list[CorpusRecord]
    spreads: list[SpreadRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be read, a sentence each."""


# -------------------------------------------------------------------------------------------------
# finding


def read_records(places: Sequence[Path]) -> Records:
    """Runs at or in the places, the runs they go back to, and their corpora.

    Raises `UserError` for a place with nothing to show.
    """
    named: dict[Path, str] = {}
    corpus_dirs: list[Path] = []
    for place in places:
        if (place / MANIFEST_FILE).is_file():
            corpus_dirs.append(place)
            continue
        found = list(find_runs(place))
        if not found:
            raise UserError(
                f"{place}: "
                + (
                    "neither a run (plan.json), nor a directory of runs, nor a corpus "
                    f"({MANIFEST_FILE})"
                    if place.is_dir()
                    else "no such directory: `llmstages pretrain` makes a run"
                )
            )
        for run_dir in found:
            name = place.name if run_dir == place else run_dir.relative_to(place).as_posix()
            named.setdefault(run_dir.resolve(), name or run_dir.resolve().name)
    runs = [read_run(directory, name) for directory, name in named.items()]
    for run in runs:  # grows while it is read: the base of a base is looked for too
        base = run.base_dir
        if base is not None and base not in named and len(named) < len(runs) + MAX_ANCESTORS:
            named[base] = base.name
            runs.append(read_run(base, base.name))
    runs = _named_apart(runs)
    notes = [
        f"{run.name}: not finished"
        + (f", {run.steps or 0:,} of {run.planned_steps:,} steps" if run.planned_steps else "")
        for run in runs
        if not run.is_finished
    ]
    corpora: dict[Path, CorpusRecord] = {}
    wanted: dict[Path, set[str | None]] = {directory.resolve(): {None} for directory in corpus_dirs}
    for run in runs:
        if run.corpus_dir is not None:
            wanted.setdefault(run.corpus_dir, set()).add(run.lineage("corpus_manifest"))
    for directory, hashes in wanted.items():
        try:
            corpus = read_corpus(directory, [run for run in runs if run.corpus_dir == directory])
        except UserError as error:
            notes.append(str(error))
            continue
        if corpus.sha256 in hashes or None in hashes:
            corpora[directory] = corpus
        else:
            notes.append(f"{directory}: another corpus now than the runs were trained on")
    if not runs and not corpora:
        raise UserError(notes[0] if notes else "nothing is named that could be shown")
    runs.sort(key=lambda run: not run.is_pretraining)
    spreads = [
        spread
        for directory in dict.fromkeys(run.directory.parent for run in runs)
        for spread in read_spreads(directory)
    ]
    return Records(runs, list(corpora.values()), spreads, notes)


def find_runs(place: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    """Directories of runs at or below a place, sorted; links are not followed below it."""
    if any((place / name).is_file() for name in ("plan.json", "metrics.jsonl")):
        yield place
    elif depth and place.is_dir():
        try:
            inside = sorted(path for path in place.iterdir() if not path.is_symlink())
        except OSError:
            return
        for path in inside:
            if path.is_dir():
                yield from find_runs(path, depth - 1)


def _named_apart(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Runs of one name are called by as much of their paths as tells them apart."""
    runs = list(runs)
    paths = [run.directory.resolve() for run in runs]
    names = Counter(run.name for run in runs)
    for index, run in enumerate(runs):
        if names[run.name] == 1:
            continue
        parts = 1
        while sum(path.parts[-parts:] == paths[index].parts[-parts:] for path in paths) > 1:
            parts += 1
        runs[index] = replace(run, name="/".join(paths[index].parts[-parts:]))
    return runs


def located(path: str | None, run_dir: Path) -> Path | None:
    """Where a path lies that a run's config names, from here or from a directory above the run."""
    if path is None or "://" in path:
        return None
    try:
        for place in (Path(), *run_dir.absolute().parents[:PARENTS]):
            if (found := place / Path(path).expanduser()).is_dir():
                return found.resolve()
    except (OSError, RuntimeError, ValueError):
        pass
    return None


# -------------------------------------------------------------------------------------------------
# reading


def read_run(directory: Path, name: str) -> RunRecord:
    """What the files of a run say."""
    summary, plan = read_json(directory / "summary.json"), read_json(directory / "plan.json")
    config = read_yaml(directory / "config.yaml")
    curves = Curves.of(_entries(directory))
    checkpoint: dict[str, Any] = {}
    for link in ("best", "last"):
        if isinstance(found := read_json(directory / link / INFO_FILE), dict):
            checkpoint = checkpoint or found
    stage = text_at(summary, "stage") or text_at(plan, "stage") or text_at(checkpoint, "stage")
    seen = {name: curve.values[-1] for name, curve in curves.training.items()}
    last_step = max((int(curve.steps[-1]) for curve in curves.training.values()), default=None)
    metrics = at(summary, "metrics")
    runs_dir = text_at(config, "runs_dir") or "runs"
    return RunRecord(
        directory=directory,
        name=name,
        stage=stage or "",
        is_finished=at(summary, "status") == "finished",
        made_at=_made_at(text_at(summary, "date"), directory),
        steps=whole_at(summary, "steps") or last_step,
        planned_steps=whole_at(plan, "steps"),
        tokens=number_at(summary, "tokens") or seen.get("tokens"),
        flops=recorded_flops(summary),
        seconds=number_at(summary, "seconds") or seen.get("seconds"),
        tokens_per_second=number_at(summary, "tokens_per_second") or seen.get("tokens_per_second"),
        peak_memory_bytes=number_at(summary, "peak_memory_bytes"),
        machine=_machine(at(summary, "machine") or at(plan, "machine")),
        parameters=whole_at(summary, "model_shape", "parameters"),
        shape=numbers_at(summary, "model_shape") or numbers_at(plan, "model_shape"),
        method=text_at(config, "method", "name") or "",
        objective=text_at(config, "method", "objective") or "",
        loss=text_at(config, "loss") or "",
        data=texts_at(config, "data"),
        temperature=number_at(summary, "calibration", "temperature"),
        uncalibrated_error=number_at(summary, "calibration", "ece_before"),
        headline=text_at(summary, "headline"),
        metrics=numbers_at(metrics),
        metrics_before=numbers_at(summary, "metrics_before") or numbers_at(plan, "metrics_before"),
        baselines=_baselines(at(summary, "baselines")),
        intervals=_intervals(at(metrics, "intervals")),
        examples=numbers_at(summary, "examples"),
        classes=_classes(metrics),
        curves=curves,
        checkpoint=checkpoint,
        weights=_weights(at(plan, "settings", "inputs", "weights")),
        corpus_dir=_corpus_dir(config, directory) if stage == "pretrain" else None,
        base_dir=_base_dir(text_at(config, "base"), stage, runs_dir, directory),
    )


def read_spreads(directory: Path) -> Iterator[SpreadRecord]:
    """What several trainings in a directory have in common, as their summary says."""
    summary = read_json(directory / "summary.json")
    spread, members = object_at(summary, "spread"), texts_at(summary, "members")
    for figure in spread:
        mean = number_at(spread, figure, "mean")
        if members and mean is not None:
            deviation = number_at(spread, figure, "standard_deviation")
            interval = _intervals({"": at(spread, figure, "interval")}).get("")
            name = directory.resolve().name
            yield SpreadRecord(name, figure, len(members), mean, deviation, interval)


def _entries(directory: Path) -> list[dict[str, Any]]:
    try:
        return read_entries(directory / "metrics.jsonl")
    except OSError:
        return []


def _made_at(date: str | None, directory: Path) -> float:
    try:
        found = datetime.fromisoformat(date or "")
        return found.replace(tzinfo=found.tzinfo or UTC).timestamp()
    except (OverflowError, ValueError):
        pass
    try:
        return (directory / "metrics.jsonl").stat().st_mtime
    except OSError:
        return 0.0


def _machine(machine: object) -> str:
    """`cpu, 2 threads`."""
    device = text_at(machine, "gpu") or text_at(machine, "device")
    parts = [device] if device else []
    processes = whole_at(machine, "processes")
    if device == "cpu" and (threads := whole_at(machine, "threads")):
        parts.append(f"{threads} thread{'s' if threads > 1 else ''}")
    if processes and processes > 1:
        parts.append(f"{processes} processes")
    return ", ".join(parts)


def _baselines(value: object) -> dict[str, dict[str, float]]:
    found = {str(name): numbers_at(value, name) for name in object_at(value)}
    return {name: figures for name, figures in found.items() if figures}


def _intervals(value: object) -> dict[str, tuple[float, float]]:
    found = {}
    for name, ends in object_at(value).items():
        if isinstance(ends, list) and len(ends) == 2:
            low, high = number_at({"": ends[0]}, ""), number_at({"": ends[1]}, "")
            if low is not None and high is not None and low < high:  # one of no width is none
                found[str(name)] = (low, high)
    return found


def _classes(metrics: object) -> ClassificationReport | MultiLabelReport | None:
    """The report of a classifier, if all of it is as it should be."""
    try:
        if at(metrics, "confusion") is not None:
            report = ClassificationReport.from_dict(metrics)  # type: ignore[arg-type]
            as_type(list[str], report.labels, "labels")
            as_type(list[list[int]], report.confusion, "confusion")
            number = len(report.labels)
            if {len(row) for row in report.confusion} | {len(report.confusion)} != {number}:
                return None
            if any(count < 0 for row in report.confusion for count in row):
                return None
            _check(report.per_class, ClassScores)
            _check(report.reliability, ReliabilityBin)
            return report
        if at(metrics, "per_label") is not None:
            several = MultiLabelReport.from_dict(metrics)  # type: ignore[arg-type]
            as_type(int, several.num_examples, "num_examples")
            _check(several.per_label, LabelScores)
            return several
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return None


def _check(entries: Sequence[Any], kind: type) -> None:
    """Raise `ValueError` for a named tuple whose parts are of other types than declared."""
    for entry in entries:
        for name, declared in get_type_hints(kind).items():
            as_type(declared, getattr(entry, name), name)


def read_answers(run_dir: Path) -> list[AnsweredQuestion]:
    """The first answers to test questions."""
    found = []
    for line in read_json_lines(run_dir / "answers.jsonl"):
        parts = [text_at(line, name) or "" for name in ("question", "reference", "before", "after")]
        if parts[0]:
            found.append(AnsweredQuestion(*parts))
        if len(found) == SHOWN_ANSWERS:
            break
    return found


def read_mistakes(run_dir: Path) -> list[Mistake]:
    """The most confident mistakes on test texts. The file may be large: a second for 100 MB."""
    wrong = _wrong(run_dir / "predictions.jsonl")
    return heapq.nlargest(SHOWN_MISTAKES, wrong, key=lambda mistake: mistake.probability)


def _wrong(path: Path) -> Iterator[Mistake]:
    for line in read_json_lines(path):
        several = isinstance(at(line, "labels"), list)  # a text with any number of them
        true, given = texts_at(line, "labels" if several else "label"), texts_at(line, "predicted")
        text = text_at(line, "text")
        if text is None or set(true) == set(given):
            continue
        shares = numbers_at(line, "probabilities")
        if several:
            share = max((abs(p - (name in true)) for name, p in shares.items()), default=0.0)
        else:
            share = shares.get(given[0], 0.0) if given else 0.0
        yield Mistake(text, ", ".join(true), ", ".join(given), share)


def _weights(value: object) -> dict[str, float]:
    """Shares of the sources, which stand in the plan as JSON inside JSON."""
    try:
        return numbers_at(parse_json(value)) if isinstance(value, str) else {}
    except ValueError:
        return {}


def _corpus_dir(config: object, directory: Path) -> Path | None:
    data = texts_at(config, "data")
    place = f"{text_at(config, 'corpora_dir')}/{text_at(config, 'corpus', 'name')}"
    return located(data[0] if data else place, directory)


def _base_dir(base: str | None, stage: str | None, runs_dir: str, directory: Path) -> Path | None:
    """The run that a run started from."""
    if base is None and not (stage or "").startswith("finetune"):
        return None
    place = located(base or f"{runs_dir}/pretrain", directory)
    while place is not None and place != place.parent:
        if (place / "plan.json").is_file():
            return None if place == directory.resolve() else place
        if place.parent.name != "checkpoints":
            return None
        place = place.parent.parent
    return None


def read_corpus(directory: Path, runs: Sequence[RunRecord]) -> CorpusRecord:
    """What the files of a corpus say. Raises `UserError` where its manifest cannot be read."""
    manifest = Manifest.read(directory / MANIFEST_FILE)
    counted: dict[str, dict[str, int]] = {}
    for path in sorted(directory.glob("tokens/*/index.json")):
        try:
            index = as_dataclass(TokenIndex, read_json(path))
        except ValueError:
            continue
        shards = [shard for shard in index.shards if shard.split == "train"]
        counted[index.tokenizer_hash] = {shard.source: shard.tokens for shard in shards}
    own = _own_tokenizer(directory)
    if own is not None:
        chosen, vocabularies = own.hash, {own.vocab_size}
    else:
        names = [name for run in runs if (name := run.lineage("tokenizer")) in counted]
        chosen = next(iter([*names, *counted]), "")
        vocabularies = {int(run.shape["vocab_size"]) for run in runs if "vocab_size" in run.shape}
    return CorpusRecord(
        directory=directory,
        manifest=manifest,
        sha256=sha256((directory / MANIFEST_FILE).read_bytes()).hexdigest(),
        seconds=number_at(read_json(directory / "collect.json"), "seconds"),
        tokens=counted.get(chosen, {}),
        vocabulary=vocabularies.pop() if len(vocabularies) == 1 else None,
        tokens_by_tokenizer=counted,
    )


def _own_tokenizer(directory: Path) -> Tokenizer | None:
    """The one that was trained with a corpus; None where it is missing or broken."""
    try:
        return Tokenizer.load(directory / "tokenizer")
    except (AttributeError, KeyError, OSError, TypeError, UserError, ValueError):
        return None

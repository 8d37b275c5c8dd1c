"""`llmstages collect`: raw text -> a corpus with its tokenizer and token shards.

Everything is built in `<corpora_dir>/<name>.tmp` and renamed when complete: a mistake, an
interruption or a crash leaves no corpus that is half there, and an existing one is replaced only by
a finished one.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmstages.config.stages import CollectConfig
from llmstages.data.corpus import FORMAT_VERSION, Corpus, Counts, Manifest, SourceManifest
from llmstages.errors import UserError
from llmstages.report.terminal import progress, say, table

EXTRA_MODULES = ("daft", "ftfy", "trafilatura", "py3langid")
VERSIONED_PACKAGES = ("daft", "ftfy", "trafilatura", "py3langid", "sentencepiece")
LEAST_WORDS = 1000
"""With fewer words there is nothing to learn from and no tokenizer to be trained."""
SOURCE_KEYS = ("kind", "weight", "license")
SHAPING_KEYS = {
    "files": (*SOURCE_KEYS, "text_column"),
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
    require_extra()
    from llmstages.collect.pipeline import clean, recipe_sources
    from llmstages.collect.sources import list_inputs

    started = time.monotonic()
    directory = Path(config.corpora_dir) / (config.name or config.corpus.name)
    sources = recipe_sources(config)
    check_names(config.name or config.corpus.name, list(sources))
    if not sources:
        raise UserError(
            f"the recipe {config.corpus.name} has no sources: name files or folders, as in "
            "`llmstages collect corpus=local my_texts/`"
        )
    check_replaceable(directory, config)
    inputs, notes = list_inputs(sources)

    settings = shaping_settings(config)
    finished = up_to_date(
        directory,
        config,
        settings,
        {
            name: [(entry.locator, entry.sha256) for entry in entries]
            for name, entries in inputs.items()
        },
    )
    if finished is not None:
        say(f"{directory} is up to date: same inputs, same settings")
        return float(finished.manifest.train.words)

    new_folders = [path for path in directory.parents if not path.exists()]
    staging = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)  # of an earlier run that was killed
    staging.mkdir(parents=True)
    try:
        with progress("reading and cleaning", unit="documents") as advance:
            cleaned = clean(inputs, config, staging, advance)
        say_notes(notes + cleaned.notes)
        manifest = Manifest(
            FORMAT_VERSION, config.corpus.name, cleaned.sources, settings, versions()
        )
        check_size(", ".join(config.paths) or directory.name, manifest)
        corpus = Corpus(staging, manifest)
        tokenize(corpus, config)
        seconds = time.monotonic() - started
        write_collect_json(staging, manifest, seconds)
        manifest.write(staging)
        replace(directory, staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for path in new_folders:
            with suppress(OSError):  # somebody else put something there
                path.rmdir()
        raise
    show(directory, manifest, seconds)
    return float(manifest.train.words)


def require_extra() -> None:
    """Raise a `UserError` that names the extra to install when a package of it is missing."""
    missing = [name for name in EXTRA_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"collect needs {', '.join(missing)}: run pip install 'llmstages[collect]'")


def check_names(name: str, sources: Sequence[str]) -> None:
    """Corpus and source names are parts of file names."""
    for kind, text in [("name", name), *(("corpus.sources", source) for source in sources)]:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text) or text.endswith(".tmp"):
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


def shaping_settings(config: CollectConfig) -> dict[str, Any]:
    """The settings that shape documents and tokenizer; paths are left to the input hashes."""
    from llmstages.collect.pipeline import recipe_sources

    settings = asdict(config)
    for key in ("paths", "name", "corpora_dir", "overwrite"):
        del settings[key]
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
    dropped = sum(sum(source.dropped.values()) for source in manifest.sources)
    if words < LEAST_WORDS:
        after = f" ({read:,} before {dropped:,} documents were dropped)" if read > words else ""
        raise UserError(
            f"{what}: {words:,} words are too few{after}: at least {LEAST_WORDS:,} are "
            "needed, add more text"
        )
    if not manifest.validation.words:
        raise UserError(
            f"{what}: no text is left to validate on: add more documents or raise "
            "corpus.validation_share"
        )


def tokenize(corpus: Corpus, config: CollectConfig) -> None:
    """Train the tokenizer on a sample of the training documents and turn all documents into ids."""
    from llmstages.data.shards import write_token_shards
    from llmstages.text.tokenizer import train_tokenizer

    with progress("training the tokenizer"):
        tokenizer = train_tokenizer(
            tokenizer_sample(corpus, config.tokenizer.sample_bytes), config.tokenizer
        )
        tokenizer.save(corpus.tokenizer_dir)
    documents = corpus.manifest.train.documents + corpus.manifest.validation.documents
    with progress("writing token shards", documents, "documents") as advance:
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


def write_collect_json(directory: Path, manifest: Manifest, seconds: float) -> None:
    """Time and machine of this run: what the manifest leaves out to be reproducible."""
    words = manifest.train.words + manifest.validation.words
    size = manifest.train.bytes + manifest.validation.bytes
    record = {
        "format_version": 1,
        "seconds": round(seconds, 3),
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


def show(directory: Path, manifest: Manifest, seconds: float) -> None:
    """The waterfall: what came in from each source, what was dropped, what is left."""
    rules = sorted({rule for source in manifest.sources for rule in source.dropped})
    columns = [waterfall(source, rules) for source in manifest.sources]
    names = [source.name for source in manifest.sources]
    if len(columns) > 1:
        names.append("all")
        columns.append({step: sum(column[step] for column in columns) for step in columns[0]})
    rows = [[step, *(column[step] for column in columns)] for step in columns[0]]
    table(str(directory), ["", *names], rows)
    say(
        f"{directory}: {manifest.train.words:,} words to train on, "
        f"{manifest.validation.words:,} to validate on, in {seconds:.1f} s"
    )


def waterfall(source: SourceManifest, rules: Sequence[str]) -> dict[str, float]:
    """One column of the waterfall, from top to bottom."""
    steps = sizes("read", source.extracted)
    steps |= {f"- {rule}": -source.dropped.get(rule, 0) for rule in rules}
    return steps | sizes("train", source.train) | sizes("validation", source.validation)


def sizes(step: str, counts: Counts) -> dict[str, float]:
    """Documents, words and megabytes of one step."""
    return {
        f"{step}: documents": counts.documents,
        f"{step}: words": counts.words,
        f"{step}: MB": round(counts.bytes / 1e6, 3),
    }

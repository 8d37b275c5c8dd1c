"""The chain from a run back to the text it was made of: is each link still what was recorded?

A checkpoint names what it was made from by hashes (`lineage` in `llmstages.json`); where those
things lay stands in the run's `config.yaml`. Each is looked for there and hashed again, and so on
from the base's run to its base, down to the documents of a corpus. What is not there any more
cannot be checked, and is said to be missing; what is there and differs is an error.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmstages.config.compose import from_file
from llmstages.data.corpus import Corpus
from llmstages.data.shards import open_token_shards, token_shards_dir
from llmstages.errors import CheckFailed, UserError
from llmstages.stages.training import data_hash
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import (
    file_hash,
    is_complete,
    read_info,
    resolve_checkpoint,
    verify_files,
)
from llmstages.train.records import read_sealed

MISSING = "not there"


@dataclass(frozen=True)
class Link:
    """One thing that something else was made from."""

    what: str
    where: Path
    sha256: str
    """As recorded; `MISSING` where the thing is not found."""


def check_lineage(run_dir: Path) -> Iterator[Link]:
    """Check all that a run was made from, from the nearest to the farthest.

    Raises `CheckFailed` at the first thing that is not what was recorded.
    """
    stage = str(read_sealed(run_dir / "plan.json")["stage"])
    config = from_file(stage, run_dir / "config.yaml")
    newest = resolve_checkpoint(str(run_dir))
    lineage = read_info(newest).lineage
    tokenizer = Tokenizer.load(newest)
    yield checked("tokenizer", newest / "tokenizer.json", lineage.tokenizer, tokenizer.hash)
    if stage == "pretrain":
        directory = Path(config.data or f"{config.corpora_dir}/{config.corpus.name}")
        yield from check_corpus(directory, lineage.corpus_manifest, tokenizer)
    else:
        paths = [Path(path) for path in config.data_paths]
        found = data_hash(config.data_paths) if all(path.exists() for path in paths) else None
        yield checked("labelled rows", paths[0], lineage.data, found)
    if lineage.parent is not None:
        base = config.base or f"{config.runs_dir}/pretrain"
        yield from check_parent(base, lineage.parent)


def checked(what: str, where: Path, recorded: str | None, found: str | None) -> Link:
    """A link of the chain; found: None where the thing is not there."""
    if found is None:
        return Link(what, where, MISSING)
    if found != recorded:
        raise CheckFailed(
            f"not proved: {where}: the {what} is not what was recorded: its sha256 was {recorded}, "
            f"is {found}"
        )
    return Link(what, where, found)


def check_corpus(directory: Path, recorded: str | None, tokenizer: Tokenizer) -> Iterator[Link]:
    """A corpus by its manifest, the documents of each source, and the tokens made of them."""
    if not directory.is_dir():
        yield checked("corpus", directory, recorded, None)
        return
    corpus = Corpus.open(directory)
    yield checked("corpus manifest", directory, recorded, corpus.manifest_hash)
    for source in corpus.manifest.sources:
        yield checked(
            f"documents of {source.name}",
            directory / "documents",
            source.documents_sha256,
            corpus.documents_sha256(source.name),
        )
    tokens = token_shards_dir(corpus, tokenizer)
    if not (tokens / "index.json").is_file():
        yield checked("tokens", tokens, None, None)
        return
    for shard in open_token_shards(tokens).shards:
        path = tokens / f"{shard.stem}.bin"
        if shard.info.sha256 is not None:
            yield checked("tokens", path, shard.info.sha256, file_hash(path))


def check_parent(base: str, recorded: str) -> Iterator[Link]:
    """The checkpoint that a run started from, and what that was made from."""
    try:
        directory = resolve_checkpoint(base)
    except UserError:
        yield checked("base model", Path(base), recorded, None)
        return
    if is_complete(directory):
        try:
            verify_files(directory, read_info(directory), trainer=True)
        except UserError as error:
            raise CheckFailed(f"not proved: {error}") from error
    found = file_hash(directory / "model.safetensors")
    yield checked("base model", directory, recorded, found)
    run_dir = directory.parent.parent
    if directory.parent.name == "checkpoints" and (run_dir / "plan.json").is_file():
        yield from check_lineage(run_dir)

"""The chain from a run back to the text it was made of: is each link still what was recorded?

A checkpoint names what it was made from by hashes (`lineage` in `llmstages.json`); where those
things lay stands in the run's `config.yaml`. Each is looked for there and hashed again, and so on
from the base's run to its base, down to the documents of a corpus, a replayed one included. What is
not there any more cannot be checked, and is said to be missing; what is there and differs is an
error.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmstages.config.compose import from_file
from llmstages.config.stages import FinetuneInstructConfig
from llmstages.data.corpus import Corpus
from llmstages.data.shards import open_token_shards, token_shards_dir, tokens_sha256
from llmstages.errors import CheckFailed, UserError
from llmstages.stages.shared.base_run import pretraining_of
from llmstages.stages.shared.rows import data_hash
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import (
    WEIGHTS_NAME,
    complete_checkpoints,
    file_hash,
    is_complete,
    read_info,
    resolve_checkpoint,
    verify_files,
    weights_hash,
)
from llmstages.train.hub import fetched, is_on_hub
from llmstages.train.run import read_plan

MISSING = "not there"


@dataclass(frozen=True)
class Link:
    """One thing that something else was made from."""

    what: str
    where: Path | str
    """A place, or the name of a checkpoint on a hub."""
    recorded: str | None
    """Hash when it was used."""
    found: str | None
    """Hash now; None where the thing is not there."""

    @property
    def sha256(self) -> str:
        """As it is now; `MISSING` where the thing is not found."""
        return MISSING if self.found is None else self.found

    @property
    def differs(self) -> bool:
        """Whether it is there and is not what was recorded."""
        return self.found is not None and self.found != self.recorded


def check_lineage(run_dir: Path) -> Iterator[Link]:
    """Check all that a run was made from, from the nearest to the farthest.

    Raises `CheckFailed` at the first thing that is not what was recorded.
    """
    for link in links_of(run_dir):
        if link.differs:
            raise CheckFailed(
                f"not proved: {link.where}: not what was recorded ({link.what}): its sha256 was "
                f"{link.recorded}, is {link.found}"
            )
        yield link


def links_of(run_dir: Path) -> Iterator[Link]:
    """All that a run was made from, changed or not. Raises `CheckFailed` for a damaged base."""
    plan = read_plan(run_dir)
    stage = str(plan["stage"])
    config = from_file(stage, run_dir / "config.yaml")
    newest = resolve_checkpoint(str(run_dir))
    lineage = read_info(newest).lineage
    tokenizer = Tokenizer.load(newest)
    yield Link("tokenizer", newest / "tokenizer.json", lineage.tokenizer, tokenizer.hash)
    if stage == "pretrain":
        directory, tokens = Path(config.corpus_dir), plan.get("tokens")
        yield from corpus_links(directory, lineage.corpus_manifest, tokens, tokenizer)
    else:
        paths = [Path(path).expanduser() for path in config.data_paths]
        found = data_hash(config.data_paths) if all(path.exists() for path in paths) else None
        yield Link("labelled rows", paths[0], lineage.data, found)
    if lineage.replay is not None:
        directory = replayed_dir(config)
        yield from corpus_links(directory, lineage.replay, plan.get("tokens"), tokenizer)
    if lineage.parent is not None:
        yield from parent_links(lineage.base or config.base_path, lineage.parent)


def replayed_dir(config: FinetuneInstructConfig) -> Path:
    """The corpus that was replayed; the base's place where it does not say which that is."""
    if config.replay.data is not None:
        return Path(config.replay.data).expanduser()
    try:
        settings = pretraining_of(resolve_checkpoint(config.base_path))
    except UserError:  # of the base more is said where it is looked for
        settings = None
    return Path(config.base_path if settings is None else settings.corpus_dir)


def corpus_links(
    directory: Path, recorded: str | None, recorded_tokens: str | None, tokenizer: Tokenizer
) -> Iterator[Link]:
    """A corpus by its manifest, the documents of each source, and the tokens made of them."""
    if not directory.is_dir():
        yield Link("corpus", directory, recorded, None)
        return
    corpus = Corpus.open(directory)
    yield Link("corpus manifest", directory, recorded, corpus.manifest_hash)
    for source in corpus.manifest.sources:
        yield Link(
            f"documents of {source.name}",
            directory / "documents",
            source.documents_sha256,
            corpus.documents_sha256(source.name),
        )
    tokens = token_shards_dir(corpus, tokenizer)
    if not (tokens / "index.json").is_file():
        yield Link("tokens", tokens, None, None)
        return
    shards = open_token_shards(tokens).shards
    if recorded_tokens is not None:
        yield Link("list of tokens", tokens / "index.json", recorded_tokens, tokens_sha256(shards))
    for shard in shards:
        known = shard.info.sha256  # shards of an older version have none
        found = None if known is None else file_hash(shard.path)
        yield Link("tokens", shard.path, known, found)


def parent_links(base: str, recorded: str) -> Iterator[Link]:
    """The checkpoint that a run started from, and what that was made from.

    The base may have gone on since, so all its checkpoints are looked at. Of those that are kept
    one has the weights that were recorded, or it is not there any more.
    """
    if is_on_hub(base):
        try:
            directory = fetched(base, from_cache=True)
        except UserError:  # what the cache has lost counts as gone: nothing is fetched for a proof
            yield Link("base model", base, recorded, None)
            return
        yield Link("base model", base, recorded, hash_or_failure(directory))
        return
    place = Path(base).expanduser()
    if not place.exists():
        yield Link("base model", place, recorded, None)
        return
    try:
        chosen = resolve_checkpoint(base)
        run_dir = chosen.parent.parent if chosen.parent.name == "checkpoints" else None
        candidates = [chosen] if run_dir is None else complete_checkpoints(run_dir)
        hashes = {verified_hash(directory): directory for directory in candidates}
    except UserError as error:
        raise CheckFailed(f"not proved: {error}") from error
    if recorded in hashes:
        yield Link("base model", hashes[recorded], recorded, recorded)
    elif run_dir is not None:
        yield Link("base model", place, recorded, None)
    else:
        yield Link("base model", chosen, recorded, next(iter(hashes)))
    if run_dir is not None and (run_dir / "plan.json").is_file():
        yield from links_of(run_dir)


def hash_or_failure(directory: Path) -> str:
    """`verified_hash`. Raises `CheckFailed` for a damaged one."""
    try:
        return verified_hash(directory)
    except UserError as error:
        raise CheckFailed(f"not proved: {error}") from error


def verified_hash(directory: Path) -> str:
    """Hash of a checkpoint's weights; all its files are compared with theirs, if it has any.

    Raises `UserError` for a damaged one.
    """
    if not is_complete(directory):  # another program's
        return weights_hash(directory)
    info = read_info(directory)
    verify_files(directory, info, trainer=True)
    return info.files[WEIGHTS_NAME]

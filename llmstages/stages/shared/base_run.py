"""What the run that made a base tells of it: its optimizer, and the corpus it was pretrained on.

All of it is found by places that were written down (`config.yaml`), so it may be gone: then None.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from llmstages.config.compose import from_file
from llmstages.config.groups import OptimConfig
from llmstages.config.stages import PretrainConfig, TrainingConfig
from llmstages.data.corpus import Corpus
from llmstages.data.shards import Shard, token_shards_dir
from llmstages.errors import UserError
from llmstages.report.terminal import say, warn
from llmstages.stages.shared.mixture import open_shards
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import Checkpoint, read_info, resolve_checkpoint
from llmstages.train.hub import is_on_hub
from llmstages.train.optimizer import derived_lr

MAX_ANCESTORS = 20
"""Runs that are looked through, so that a base that names itself ends too."""


@dataclass(frozen=True)
class BaseText:
    """The text that a base was made of, in its tokens."""

    corpus: Corpus
    train: list[Shard]
    validation: list[Shard]
    mask_documents: bool
    """As the base was trained."""

    @property
    def words_per_token(self) -> float:
        """Of the training text."""
        words = sum(shard.info.words for shard in self.train)
        return words / sum(shard.info.tokens for shard in self.train)


def config_of_run(directory: Path) -> TrainingConfig | None:
    """The settings of the run that a checkpoint lies in; None where it lies alone."""
    directory = directory.resolve()
    path = directory.parent.parent / "config.yaml"
    if directory.parent.name != "checkpoints" or not path.is_file():
        return None
    try:
        return _config_in(read_info(directory).stage, path, path.stat().st_mtime_ns)
    except (UserError, KeyError):
        return None  # of another version: nothing depends on it


@lru_cache(maxsize=8)
def _config_in(stage: str, path: Path, written: int) -> TrainingConfig:
    """Read once in the state it was written in: a stage asks several times, each 0.1 s."""
    found: TrainingConfig = from_file(stage, path)
    return found


def pretraining_of(directory: Path) -> PretrainConfig | None:
    """Settings of the pretraining run that a checkpoint, by its directory, goes back to."""
    for _ in range(MAX_ANCESTORS):
        config = config_of_run(directory)
        if config is None or isinstance(config, PretrainConfig):
            return config
        if is_on_hub(config.base_path):
            return None  # no run lies there, so the network is left alone
        try:
            directory = resolve_checkpoint(config.base_path)
        except UserError:
            return None
    return None


def base_text(base: Checkpoint, asked: str | None, needed: bool) -> BaseText | None:
    """The corpus that a base goes back to, or the one asked for by its directory.

    Raises:
        UserError: the corpus asked for cannot be used; or `needed`, and there is none.
    """
    found = text_of(base, asked)
    if isinstance(found, BaseText):
        return found
    if needed:
        raise UserError(
            f"replay.share needs the corpus of the base ({found}): set replay.data=CORPUS_DIR"
        )
    warn(
        f"what is forgotten of the base's corpus is not measured: {found}; replay.data=CORPUS_DIR "
        "names one"
    )
    return None


def text_of(base: Checkpoint, asked: str | None = None) -> BaseText | str:
    """The same, or the reason why there is none.

    The base's own counts only when it is the one that the base was trained on and has its tokens.
    """
    settings = pretraining_of(base.directory)
    mask_documents = settings is not None and settings.mask_documents
    if asked is not None:
        return _opened(Corpus.open(Path(asked)), base.tokenizer, mask_documents)
    if settings is None:
        return "the run of the base does not say which"
    directory = Path(settings.corpus_dir)
    try:
        corpus = Corpus.open(directory)
        recorded = base.info.lineage.corpus_manifest if base.info else None
        if corpus.manifest_hash != recorded:
            return f"{directory} is another one now"
        if not (token_shards_dir(corpus, base.tokenizer) / "index.json").is_file():
            return f"{directory} has no tokens of the base's tokenizer any more"
        return _opened(corpus, base.tokenizer, mask_documents)
    except UserError as error:
        return str(error)


def _opened(corpus: Corpus, tokenizer: Tokenizer, mask_documents: bool) -> BaseText:
    train, validation = open_shards(corpus, tokenizer)
    return BaseText(corpus, train, validation, mask_documents)


def inherited(optim: OptimConfig, base: Checkpoint | None) -> OptimConfig:
    """An optimizer's settings with the name of the one the base was pretrained with, if asked for.

    Muon where the base does not say. Raises `UserError` where there is no base.
    """
    if optim.name != "inherited":
        return optim
    if base is None:
        raise UserError("optim=inherited is for going on from base=: choose muon or adamw")
    settings = pretraining_of(base.directory)
    return replace(optim, name="muon" if settings is None else settings.optim.name)


def pretraining_lr(base: Checkpoint, optimizer: str) -> float:
    """Peak rate at which the base was pretrained, or would be with this optimizer."""
    settings = pretraining_of(base.directory)
    if settings is not None and settings.optim.name == optimizer and settings.optim.lr is not None:
        return settings.optim.lr
    return derived_lr(optimizer, base.model.config.hidden_size)


def say_optimizer(
    base: Checkpoint, name: str, lr: float, lr_share: float | None, length: str
) -> None:
    """One line: which optimizer, its peak rate and where that comes from, and how long a run is.

    lr_share: of `pretraining_lr`; None where the rate was given.
    """
    settings = pretraining_of(base.directory)
    if settings is None:
        of_base = ""
    elif settings.optim.name == name:
        of_base = ", as the base was trained,"
    else:
        of_base = f" (the base was trained with {settings.optim.name}: optim={settings.optim.name})"
    origin = "optim.lr" if lr_share is None else f"{lr_share:g} of pretraining's"
    say(f"optimizer {name}{of_base} peak rate {lr:.3g} ({origin}), {length}")

"""The text that is planned with: a corpus, or a recipe whose text is still to be collected."""

from dataclasses import dataclass, field
from pathlib import Path

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.config.stages import PlanConfig
from llmstages.data.corpus import MANIFEST_FILE, Corpus
from llmstages.data.shards import Shard
from llmstages.data.streams import mixture_shares
from llmstages.errors import UserError
from llmstages.stages.shared.mixture import asked_weights, open_shards
from llmstages.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Source:
    """One source of the training text."""

    name: str
    tokens: float
    share: float
    """Of the training text."""
    published_epochs: float | None


@dataclass(frozen=True)
class Collected:
    """What there is of a corpus that was collected."""

    tokenizer: Tokenizer
    train: list[Shard]
    validation: list[Shard]
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedText:
    """What is trained on."""

    name: str
    sources: list[Source]
    vocab_size: int
    collected: Collected | None
    """None: it is still to be collected."""

    @property
    def tokens(self) -> int:
        """Of all sources, each read once."""
        return round(sum(source.tokens for source in self.sources))


def planned_text(config: PlanConfig, tokenizer: Tokenizer | None) -> PlannedText:
    """The corpus that pretraining would read, or what its recipe says of it.

    tokenizer: of the model that training goes on from. Raises `UserError` where neither says how
    much text there is.
    """
    directory = Path(config.corpus_dir)
    if (directory / MANIFEST_FILE).exists():
        return text_of_corpus(config, Corpus.open(directory), tokenizer)
    vocab_size = config.vocab_size or config.model.published.vocab_size
    vocab_size = vocab_size or TokenizerConfig().vocab_size
    recipe = config.corpus
    if tokenizer is not None:
        vocab_size = tokenizer.vocab_size
    if config.corpus_tokens is not None:
        name = f"{config.corpus_tokens:,.0f} tokens of text"
        return PlannedText(name, [Source(name, config.corpus_tokens, 1.0, None)], vocab_size, None)
    known = {
        name: source.published_tokens
        for name, source in recipe.sources.items()
        if source.published_tokens is not None
    }
    if not known or len(known) < len(recipe.sources):
        raise UserError(
            f"{directory}: no corpus yet, and corpus={recipe.name} does not say how much text it "
            "has: collect it first, or give corpus_tokens="
        )
    # All sources of a recipe have a weight, or none has.
    amounts = {name: recipe.sources[name].weight or tokens for name, tokens in known.items()}
    total = sum(amounts.values())
    sources = [
        Source(name, tokens, amounts[name] / total, recipe.sources[name].published_epochs)
        for name, tokens in known.items()
    ]
    return PlannedText(recipe.name, sources, vocab_size, None)


def text_of_corpus(config: PlanConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> PlannedText:
    """The same of a corpus; it is tokenized now where that has not been done."""
    tokenizer = tokenizer or Tokenizer.load(corpus.tokenizer_dir)
    weights = asked_weights(config, corpus)
    train, validation = open_shards(corpus, tokenizer)
    published = {source.name: source.published_epochs for source in corpus.manifest.sources}
    sources = [
        Source(shard.info.source, shard.info.tokens, float(share), published.get(shard.info.source))
        for shard, share in zip(train, mixture_shares(train, weights), strict=True)
    ]
    collected = Collected(tokenizer, train, validation, weights)
    return PlannedText(str(corpus.directory), sources, tokenizer.vocab_size, collected)

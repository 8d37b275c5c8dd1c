"""The text that pretraining reads: shards of a corpus, weights, how often each is seen."""

from collections.abc import Sequence

from llmstages.config.stages import PretrainConfig
from llmstages.data.corpus import Corpus
from llmstages.data.shards import Shard, token_shards_dir, verify_shards, write_token_shards
from llmstages.data.streams import PretrainingData
from llmstages.errors import UserError
from llmstages.model.scaling import MAX_DEFAULT_EPOCHS
from llmstages.report.terminal import progress, table, warn
from llmstages.text.tokenizer import Tokenizer
from llmstages.train import parallel


def open_shards(corpus: Corpus, tokenizer: Tokenizer) -> tuple[list[Shard], list[Shard]]:
    """Training and validation shards, tokenized now if the corpus has none for this tokenizer."""
    with parallel.first_alone():
        return _open_shards(corpus, tokenizer)


def _open_shards(corpus: Corpus, tokenizer: Tokenizer) -> tuple[list[Shard], list[Shard]]:
    if (token_shards_dir(corpus, tokenizer) / "index.json").is_file():
        shards = write_token_shards(corpus, tokenizer)
    else:
        total = corpus.counts("train").documents + corpus.counts("validation").documents
        with progress("tokenizing", total=total, unit="documents") as advance:
            shards = write_token_shards(corpus, tokenizer, advance)
    train_shards, validation = shards.of_split("train"), shards.of_split("validation")
    if parallel.is_first():  # the others read the same files
        verify_shards([*train_shards, *validation])
    if not train_shards or not validation:
        raise UserError(
            f"{corpus.directory}: no {'validation' if train_shards else 'training'} text: "
            "collect more documents, or set corpus.validation_share"
        )
    return train_shards, validation


def asked_weights(config: PretrainConfig, corpus: Corpus) -> dict[str, float]:
    """Mixture weights given at pretraining (corpus.sources.NAME.weight=...), by source."""
    weights = {
        name: source.weight
        for name, source in config.corpus.sources.items()
        if source.weight is not None
    }
    if unknown := sorted(weights.keys() - set(corpus.sources)):
        raise UserError(
            f"corpus.sources.{unknown[0]}.weight is given, but {corpus.directory} has the sources "
            f"{', '.join(corpus.sources)}"
        )
    return weights


def show_epochs(corpus: Corpus, data: PretrainingData, tokens: float) -> None:
    """Say how often the run will see each source of a mixture."""
    published = {source.name: source.published_epochs for source in corpus.manifest.sources}
    rows: list[Sequence[object]] = [
        [
            shard.info.source,
            shard.info.tokens,
            100 * float(share),
            float(share) * tokens / shard.info.tokens,
            published[shard.info.source],
        ]
        for shard, share in zip(data.shards, data.shares, strict=True)
    ]
    columns = ["source", "tokens", "share in %", "epochs", "published epochs"]
    if not any(published.values()):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    if len(rows) > 1:
        table(f"{tokens:,.0f} tokens of {corpus.directory}", columns, rows)


def warn_of_repeats(data: PretrainingData, tokens: float, *, measured: bool) -> None:
    """Say which sources the run reads more often than repeated text is worth.

    measured: the number of tokens is what the machine's speed lets one expect of the time given.
    """
    most = MAX_DEFAULT_EPOCHS * 1.05
    passes = {
        shard.info.source: float(share) * tokens / shard.info.tokens
        for shard, share in zip(data.shards, data.shares, strict=True)
    }
    if max(passes.values()) <= most:
        return
    if len(passes) == 1 or min(passes.values()) > most:
        often = f"the corpus {tokens / data.num_tokens:.1f} times"
    else:
        named = [f"{source} {count:.1f} times" for source, count in passes.items() if count > most]
        often = ", ".join(named)
    warn(
        f"{'about ' if measured else ''}{tokens:,.0f} tokens read {often}; beyond "
        f"{MAX_DEFAULT_EPOCHS} passes repeated text teaches little"
    )

"""Bits a byte and next-word accuracy of a language model on held-out text, with their intervals.

Text, windows and bytes are those of `llmstages.evaluate.held_out`, and so are the bits a byte. A
word goes up to the next space, line or sign, and a sign is a word of its own, as in
`llmstages.evaluate.next_words`; it is known where each of its tokens was the likeliest one after
those before it. What a window's borders cut is not counted. Windows are what is resampled.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmstages.data.batch import IGNORED, Batch
from llmstages.data.shards import Shard
from llmstages.data.streams import validation_batches, validation_windows
from llmstages.evaluate.bootstrap import Figures, Measure
from llmstages.evaluate.continuations import Subject, counted, token_scores
from llmstages.evaluate.next_words import continues_word, ends_in_word
from llmstages.evaluate.perplexity import row_values
from llmstages.model.transformer import Transformer
from llmstages.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class HeldOut:
    """Figures of some held-out text."""

    num_words: int
    """Of those that the accuracy is about."""
    measures: dict[str, Measure]
    """`bits_per_byte` and `next_word_accuracy`."""
    chances: dict[str, float]
    """With every token equally likely, and always the commonest word of this text."""


class WordTokens(NamedTuple):
    """What each token of a vocabulary is to words, bool [vocab_size] each."""

    goes_on: Tensor
    """It begins with what can go on with a word."""
    in_word: Tensor
    """Its end can be gone on with."""
    blank: Tensor
    """It is white space alone."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int) -> "WordTokens":
        texts = [tokenizer.token_text(token) for token in range(tokenizer.vocab_size)]
        texts += [""] * (vocab_size - len(texts))  # rows that pad the embedding
        return cls(
            torch.tensor([continues_word(text) for text in texts]),
            torch.tensor([ends_in_word(text) for text in texts]),
            torch.tensor([not text.strip() for text in texts]),
        )


def held_out_words(
    subject: Subject,
    shards: Sequence[Shard],
    *,
    max_tokens: int | None = None,
    mask_documents: bool = False,
) -> dict[str, HeldOut]:
    """Figures of each source's text, and under `all` of all of it where there are several.

    shards: of one split, tokenized as the model reads. max_tokens: as for `held_out_metrics`.
    """
    context_length = subject.model.config.context_length
    vocab_size = subject.model.config.vocab_size
    tokens = WordTokens.of(subject.tokenizer, vocab_size)
    on_device = WordTokens(*(tensor.to(subject.device) for tensor in tokens))

    def compute(model: Transformer, batch: Batch) -> Tensor:
        return window_scores(model, batch, on_device)

    rows = max(1, subject.batch_tokens // context_length)
    parts: dict[str, tuple[Figures, Counter[bytes], float]] = {}
    windows = validation_windows(shards, context_length=context_length, max_tokens=max_tokens)
    for shard, own in zip(shards, windows, strict=True):
        words: Counter[bytes] = Counter()
        batches = validation_batches(own, rows, mask_documents=mask_documents)
        with counted(counting(batches, words, tokens), len(own), quiet=subject.quiet) as seen:
            scores = row_values(subject.model, compute, seen, subject.device, subject.dtype)
        # Of all tokens the first is not predicted, nor are end tokens.
        bytes_per_token = shard.info.bytes / max(1, shard.info.tokens - 1 - shard.info.documents)
        nats, targets, known, num_words = scores.T
        table = np.stack([nats / math.log(2), targets * bytes_per_token, known, num_words], axis=1)
        parts[shard.info.source] = (table, words, float(targets.sum()))
    if len(parts) > 1:
        tables, counters, counts = zip(*parts.values(), strict=True)
        together: Counter[bytes] = sum(counters, Counter())
        parts = {"all": (np.concatenate(tables), together, sum(counts)), **parts}
    return {name: _figures(*part, vocab_size) for name, part in parts.items()}


def _figures(table: Figures, words: Counter[bytes], targets: float, vocab_size: int) -> HeldOut:
    num_bytes, num_words = table[:, 1].sum(), table[:, 3].sum()
    commonest = words.most_common(1)[0][1] if words else 0
    return HeldOut(
        round(num_words),
        {
            "bits_per_byte": Measure(table[:, :2]),
            "next_word_accuracy": Measure(table[:, 2:]),
        },
        {
            "bits_per_byte": float(targets * math.log2(vocab_size) / max(1.0, num_bytes)),
            "next_word_accuracy": commonest / max(1, words.total()),
        },
    )


def window_scores(model: Transformer, batch: Batch, words: WordTokens) -> Tensor:
    """[B, 4] of windows: nats and number of targets, words that were known, and words."""
    hidden = model(batch.tokens, batch.position_ids, batch.document_ids)
    targeted = batch.targets != IGNORED
    found, best = token_scores(model, hidden[targeted], batch.targets[targeted])
    wrong = torch.zeros(targeted.shape, device=found.device).masked_scatter(
        targeted, (~best).float()
    )
    nats = torch.zeros(targeted.shape, device=found.device).masked_scatter(targeted, -found)
    whole, number = word_places(batch, words)
    mistakes = torch.zeros(len(number), number.shape[1] + 1, device=found.device)
    mistakes = mistakes.scatter_add(1, number, wrong)
    known = whole & (mistakes.gather(1, number) == 0)
    columns = (nats, targeted, known, whole)
    return torch.stack([column.float().sum(dim=1) for column in columns], dim=1)


def word_places(batch: Batch, words: WordTokens) -> tuple[Tensor, Tensor]:
    """Of targets, [B, T] each: where a word begins that ends in the window too, bool; and the
    number of the word that each belongs to, 0 before the first."""
    targeted = batch.targets != IGNORED
    targets = batch.targets.clamp(min=0)
    joined = words.goes_on[targets] & words.in_word[batch.tokens]
    begins = ~(joined & targeted)
    number = begins.long().cumsum(dim=1)
    blank = words.blank[targets] | ~targeted
    last = (number * targeted).amax(dim=1, keepdim=True)  # its word may go on after the window
    return begins & ~blank & (number < last), number


def counting(
    batches: Iterable[Batch], words: Counter[bytes], tokens: WordTokens
) -> Iterator[Batch]:
    """The same batches, whose words are counted as they go by."""
    for batch in batches:
        words.update(words_of(batch, tokens))
        yield batch


def words_of(batch: Batch, words: WordTokens) -> list[bytes]:
    """The ids of each whole word among the targets of a batch, as bytes."""
    whole, number = word_places(batch, words)
    found: list[bytes] = []
    for targets, starts, places in zip(batch.targets, whole, number, strict=True):
        ids: NDArray[np.int64] = targets.numpy()
        ends = np.searchsorted(places.numpy(), places[starts].numpy(), side="right")
        begin = starts.nonzero()[:, 0].numpy()
        found += [ids[a:b].tobytes() for a, b in zip(begin, ends, strict=True)]
    return found

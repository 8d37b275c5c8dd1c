"""What a language model makes of held-out text: nats a token and bits a byte, by source.

What is counted: each token of a source's text but the very first, once, from the tokens before it
in its window of `context_length` tokens; windows follow one another without overlap. End tokens
between documents are read, never predicted: neither their nats nor their number count, so that the
figures are about the text alone. Bytes are those of the documents in UTF-8, all of them. A file
compressor that is given the same documents one after the other is measured alike.
"""

from collections.abc import Sequence

import torch

from llmstages.data.shards import Shard
from llmstages.data.streams import validation_batches, validation_windows
from llmstages.evaluate.perplexity import Likelihood, likelihood
from llmstages.model.transformer import Transformer
from llmstages.train.losses import LossFn, dense_loss

BITS_PER_BYTE = "val_bits_per_byte"


def held_out_metrics(
    model: Transformer,
    shards: Sequence[Shard],
    *,
    context_length: int,
    rows_per_batch: int,
    device: torch.device,
    dtype: torch.dtype,
    max_tokens: int | None = None,
    mask_documents: bool = False,
    loss: LossFn = dense_loss,
) -> dict[str, float]:
    """`val_loss` (nats a token), `val_bits_per_byte`, and `val_bits_per_byte/<source>` of several.

    shards: of one split, tokenized as the model reads. dtype: autocast type of matrix products.
    max_tokens: measure a sample of about so many, the same at each call, spread over all documents;
    its bytes are those of as many tokens of the source on the average. None: all, bytes exact.
    mask_documents: attention stays inside a document, as the model was trained.
    """
    total, total_bytes = Likelihood(), 0.0
    by_source: dict[str, float] = {}
    windows = validation_windows(shards, context_length=context_length, max_tokens=max_tokens)
    for shard, own in zip(shards, windows, strict=True):
        batches = validation_batches(own, rows_per_batch, mask_documents=mask_documents)
        part = likelihood(model, loss, batches, device, dtype)
        # Of all tokens the first is not predicted, nor are end tokens.
        targets = max(1, shard.info.tokens - 1 - shard.info.documents)
        num_bytes = shard.info.bytes * part.targets / targets
        by_source[f"{BITS_PER_BYTE}/{shard.info.source}"] = part.bits_per_byte(num_bytes)
        total.nats += part.nats
        total.targets += part.targets
        total_bytes += num_bytes
    metrics = {"val_loss": total.loss, BITS_PER_BYTE: total.bits_per_byte(total_bytes)}
    return metrics if len(by_source) == 1 else metrics | by_source

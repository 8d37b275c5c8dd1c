"""The seam between a stage and the loop: a loss is a sum over targets and their number."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from llmstages.data.batch import IGNORED, Batch
from llmstages.model.transformer import Transformer

LossFn = Callable[[Transformer, Batch], tuple[Tensor, Tensor]]
"""(model, batch) -> (weighted sum of losses, sum of weights), both scalars."""


def dense_loss(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats where nearly every position has a target (pretraining).

    Shapes do not depend on the data, as `torch.compile` wants.
    """
    hidden = model(batch.tokens, batch.position_ids, batch.document_ids)
    logits = model.logits(hidden).float().flatten(0, 1)
    losses = F.cross_entropy(
        logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return (losses * batch.weights.flatten()).sum(), batch.weights.sum()


def sparse_loss(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same where few positions have one: the head is applied to these alone."""
    hidden = model(batch.tokens, batch.position_ids, batch.document_ids)
    supervised = batch.targets != IGNORED
    logits = model.logits(hidden[supervised]).float()
    losses = F.cross_entropy(logits, batch.targets[supervised], reduction="none")
    return (losses * batch.weights[supervised]).sum(), batch.weights.sum()


@torch.inference_mode()
def label_probabilities(model: Transformer, batch: Batch) -> Tensor:
    """[B, num_labels] float32 softmax at each row's one target position."""
    hidden = model(batch.tokens, batch.position_ids, batch.document_ids)
    return model.logits(hidden[batch.targets != IGNORED]).float().softmax(dim=-1)

"""The seam between a stage and the loop: a loss is a sum over targets and their number."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from llmstages.data.batch import IGNORED, Batch
from llmstages.model.transformer import Transformer
from llmstages.train.cross_entropy import linear_cross_entropy, linear_log_probabilities

LossFn = Callable[[Transformer, Batch], tuple[Tensor, Tensor]]
"""(model, batch) -> (weighted sum of losses, sum of weights), both scalars."""


def dense_loss(model: Transformer, batch: Batch, z_loss: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats where nearly every position has a target (pretraining).

    Shapes do not depend on the data, as `torch.compile` wants.

    z_loss: coefficient of the squared log-sum-exp of the logits, which is part of the loss.
    """
    hidden = model(batch.tokens, batch.position_ids, batch.document_ids)
    loss = linear_cross_entropy(
        hidden.flatten(0, 1),
        model.output_weight,
        batch.targets.flatten(),
        batch.weights.flatten(),
        z_loss=z_loss,
        softcap=softcap_of(model),
    )
    return loss, batch.weights.sum()


def pretraining_loss(z_loss: float) -> LossFn:
    """`dense_loss` with a z-loss; validation uses `dense_loss` without, which is the likelihood."""

    def loss(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
        return dense_loss(model, batch, z_loss)

    return loss


def sparse_loss(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same where few positions have one: the head is applied to these alone."""
    hidden = model(batch.tokens, batch.position_ids, batch.document_ids)
    supervised = batch.targets != IGNORED
    loss = linear_cross_entropy(
        hidden[supervised],
        model.output_weight,
        batch.targets[supervised],
        batch.weights[supervised],
        softcap=softcap_of(model),
    )
    return loss, batch.weights.sum()


def multi_label_loss(label_sets: Tensor) -> LossFn:
    """Binary cross-entropy of every label in nats, the mean over the labels, summed over texts.

    label_sets: [num_sets, num_labels] float32, 1 where a label is in a set. The target of a text is
    the number of its set.
    """

    def loss(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = label_logits(model, batch)
        supervised = batch.targets != IGNORED
        wanted = label_sets[batch.targets[supervised]]
        nats = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)
        return (nats * batch.weights[supervised]).sum(), batch.weights.sum()

    return loss


def row_log_probabilities(model: Transformer, batch: Batch) -> Tensor:
    """[B] float32 sum of the log probabilities of each row's targets, in nats; 0 without any."""
    return target_log_probabilities(model, batch).sum(dim=1)


def target_log_probabilities(model: Transformer, batch: Batch) -> Tensor:
    """[B, T] float32 log probability of each target, in nats; 0 where there is none."""
    hidden = model(batch.tokens, batch.position_ids, batch.document_ids)
    supervised = batch.targets != IGNORED
    found = linear_log_probabilities(
        hidden[supervised],
        model.output_weight,
        batch.targets[supervised],
        softcap=softcap_of(model),
    )
    places = torch.zeros(supervised.shape, dtype=found.dtype, device=found.device)
    return places.masked_scatter(supervised, found)


def preference_margins(model: Transformer, batch: Batch) -> Tensor:
    """[B] float32: by how many nats each row's first document is likelier than its second."""
    assert batch.document_ids is not None
    found = target_log_probabilities(model, batch)
    return (found * (batch.document_ids == 0)).sum(1) - (found * (batch.document_ids == 1)).sum(1)


def preference_loss(beta: float) -> LossFn:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7).

    A row is a chosen answer and, as its second document, a rejected one. Its reward margin is beta
    times what the model's margin in nats is above the starting model's; the loss is minus the log
    of its sigmoid. The weights of a row add up to 1, so the loss is one a pair.
    """

    def loss(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.reference_margins is not None
        rewards = beta * (preference_margins(model, batch) - batch.reference_margins)
        pairs = batch.weights.sum(dim=1)
        return -(F.logsigmoid(rewards) * pairs).sum(), pairs.sum()

    return loss


def softcap_of(model: Transformer) -> float | None:
    """Bound of the language model's logits; a classifier's have none."""
    return model.config.logit_softcap if model.config.num_labels is None else None


@torch.no_grad()
def label_probabilities(model: Transformer, batch: Batch) -> Tensor:
    """[B, num_labels] float32 probabilities at each row's one target position: the softmax, or of
    labels that do not exclude each other the sigmoid.
    """
    logits = label_logits(model, batch)
    return logits.sigmoid() if model.config.multi_label else logits.softmax(dim=-1)


def label_logits(model: Transformer, batch: Batch) -> Tensor:
    """[B, num_labels] float32 logits at each row's one target position.

    They are float32 under autocast too: a bfloat16 one of 4 is rounded by up to 0.016.
    """
    hidden = model(batch.tokens, batch.position_ids, batch.document_ids)
    ends = hidden[batch.targets != IGNORED].float()
    with torch.autocast(ends.device.type, enabled=False):
        return F.linear(ends, model.output_weight.float())

"""The seam between a stage and the loop: a loss is a sum over targets and their number."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llmstages.data.batch import IGNORED, Batch
from llmstages.data.examples import LENGTH_STEP
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


def text_states(model: Transformer, batch: Batch) -> Tensor:
    """[n, hidden_size]: what a classifier's head reads of each text, in the order of their targets.

    A text is a row, or a document of one, and its label the target of its last token.
    """
    rows, ends = (batch.targets != IGNORED).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(batch.tokens))
    most = 1
    if batch.document_ids is not None:  # few shapes, as of the rows
        most = -(-int(counts.max()) // LENGTH_STEP) * LENGTH_STEP
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    wanted = ends.new_zeros(len(counts), most)
    wanted[rows, place] = ends
    states: Tensor = model(batch.tokens, batch.position_ids, batch.document_ids, wanted)
    return states[rows, place]


def label_loss(
    *,
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> LossFn:
    """Cross-entropy of labels in nats (classification), for training in some variations of it.

    focal_gamma: the loss of a text whose label has the probability p counts (1 - p)^gamma times
    (Lin et al. 2017, "Focal Loss for Dense Object Detection"), so that what is easy counts little.
    label_smoothing: share of the target that is spread over all labels (Szegedy et al. 2016).
    class_weights: [num_labels], what a text of each label weighs.
    """

    def loss(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
        labelled = batch.targets != IGNORED
        labels, weights = batch.targets[labelled], batch.weights[labelled]
        logits = F.linear(text_states(model, batch), model.output_weight).float()
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
        if focal_gamma:
            # 1 - p, exact where p is nearly 1; where it is 1, a power below 1 has no slope.
            losses = losses * (-torch.expm1(-losses)).clamp(min=1e-9) ** focal_gamma
        if class_weights is not None:
            weights = weights * class_weights.to(weights.device)[labels]
        return (losses * weights).sum(), weights.sum()

    return loss


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


def balanced_class_weights(labels: Sequence[int], num_labels: int) -> Tensor:
    """[num_labels] float32: what makes all classes weigh alike, and the mean text 1; each label
    occurs."""
    counts = torch.bincount(torch.tensor(labels), minlength=num_labels)
    return len(labels) / (num_labels * counts.float())


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
    """[n, num_labels] float32 probabilities of each text: the softmax, or of labels that do not
    exclude each other the sigmoid."""
    logits = label_logits(model, batch)
    return logits.sigmoid() if model.config.multi_label else logits.softmax(dim=-1)


def label_logits(model: Transformer, batch: Batch) -> Tensor:
    """[n, num_labels] float32 logits of each text.

    They are float32 under autocast too: a bfloat16 one of 4 is rounded by up to 0.016.
    """
    states = text_states(model, batch).float()
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(states, model.output_weight.float())

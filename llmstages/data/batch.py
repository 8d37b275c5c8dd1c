"""The one shape all training speaks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100
"""Target of a position that carries no loss."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch: B sequences of T tokens, padded on the right.

    Language models have a target at every supervised position; a classifier has one target a
    sequence, the label, at its last token. Preferences have a pair of answers a sequence, of which
    one target has a weight. The loss is the weighted sum over targets, and the
    trainer divides by the sum of weights: tokens for language models, examples for classifiers,
    pairs for preferences.
    """

    tokens: Tensor
    """[B, T] int64 ids."""
    targets: Tensor
    """[B, T] int64; `IGNORED` where there is no target."""
    position_ids: Tensor | None
    """[B, T] int64; None counts from 0 in each row."""
    document_ids: Tensor | None
    """[B, T] int64; attention stays inside a document; None: a row is read as one document."""
    weights: Tensor
    """[B, T] float32, weight of each target, 0 where there is none."""
    document_refs: tuple[str, ...]
    """For each row, which documents or lines it came from."""
    num_real_tokens: int
    """Tokens that are not padding."""
    reference_margins: Tensor | None = None
    """[B] float32, of rows that hold a chosen and a rejected answer: by how many nats the starting
    model gives the chosen one more."""

    def tensors(self) -> list[Tensor]:
        """Those of its tensors that are there."""
        optional = [self.position_ids, self.document_ids, self.reference_margins]
        there = [tensor for tensor in optional if tensor is not None]
        return [self.tokens, self.targets, self.weights, *there]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in memory that cuda copies from without the host waiting."""
        return self.map(lambda tensor: tensor.pin_memory())

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with a function applied to each tensor."""

        def apply(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else function(tensor)

        return Batch(
            function(self.tokens),
            function(self.targets),
            apply(self.position_ids),
            apply(self.document_ids),
            function(self.weights),
            self.document_refs,
            self.num_real_tokens,
            apply(self.reference_margins),
        )

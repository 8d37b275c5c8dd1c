"""The one shape all training speaks."""

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100
"""Target of a position that carries no loss."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch: B sequences of T tokens, padded on the right.

    Language models have a target at every supervised position; a classifier has one target a
    sequence, the label, at its last token. The loss is the weighted sum over targets, and the
    trainer divides by the sum of weights: tokens for language models, examples for classifiers.
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

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return Batch(
            self.tokens.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            move(self.position_ids),
            move(self.document_ids),
            self.weights.to(device, non_blocking=True),
            self.document_refs,
            self.num_real_tokens,
        )

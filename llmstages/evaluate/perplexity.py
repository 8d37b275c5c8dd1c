"""Loss, perplexity and bits per byte of a language model on held-out text, whole or row by row."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmstages.data.batch import Batch
from llmstages.model.transformer import Transformer
from llmstages.train import parallel
from llmstages.train.losses import LossFn, row_log_probabilities


@dataclass
class Likelihood:
    """What a model gave a text: total nats over a number of targets."""

    nats: float = 0.0
    targets: float = 0.0

    @property
    def loss(self) -> float:
        """Nats a target; the perplexity is its exponential."""
        return self.nats / max(1.0, self.targets)

    def bits_per_byte(self, num_bytes: float) -> float:
        """Bits a byte of text: comparable over tokenizers, and with a file compressor."""
        return self.nats / math.log(2) / max(1.0, num_bytes)


@torch.no_grad()
def likelihood(
    model: Transformer,
    loss: LossFn,
    batches: Iterable[Batch],
    device: torch.device,
    dtype: torch.dtype,
) -> Likelihood:
    """Sum a loss over batches; dtype is the autocast type of matrix products.

    Of several processes each takes its rows; all have the sum.
    """
    was_training = model.training
    model.eval()
    total = Likelihood()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        for batch in batches:
            nats, targets = loss(model, parallel.own_rows(batch).to(device))
            total.nats += float(nats)
            total.targets += float(targets)
    sums = parallel.add_up(torch.tensor([total.nats, total.targets], dtype=torch.float64))
    total.nats, total.targets = sums.tolist()
    model.train(was_training)
    return total


def row_likelihoods(
    model: Transformer, batches: Iterable[Batch], device: torch.device, dtype: torch.dtype
) -> NDArray[np.float64]:
    """[rows, 2] of all batches: the nats of each row's targets, and their number."""
    kept = list(batches)
    nats = -row_values(model, row_log_probabilities, kept, device, dtype)
    counts = [batch.weights.sum(dim=1).double().numpy() for batch in kept]
    return np.stack([nats, np.concatenate(counts)], axis=1)


@torch.no_grad()
def row_values(
    model: Transformer,
    compute: Callable[[Transformer, Batch], Tensor],
    batches: Iterable[Batch],
    device: torch.device,
    dtype: torch.dtype,
) -> NDArray[np.float64]:
    """[rows, ...] of all batches: what `compute` gives for each row, [B, ...] of a batch.

    Of several processes each takes its rows; all have the whole.
    """
    was_training = model.training
    model.eval()
    parts = []
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        for batch in batches:
            values = compute(model, parallel.own_rows(batch).to(device)).double().cpu()
            part = torch.zeros(len(batch.tokens), *values.shape[1:], dtype=torch.float64)
            if parallel.rank() < len(part):
                part[parallel.rank() :: parallel.size()] = values
            parts.append(part)
    model.train(was_training)
    return parallel.add_up(torch.cat(parts)).numpy()

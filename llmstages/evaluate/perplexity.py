"""Loss, perplexity and bits per byte of a language model on held-out text."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from llmstages.data.batch import Batch
from llmstages.model.transformer import Transformer
from llmstages.train import parallel
from llmstages.train.losses import LossFn


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

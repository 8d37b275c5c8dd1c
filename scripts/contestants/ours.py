"""llmstages: the optimizer step of the training loop itself, on batches that it is given."""

import tempfile
from pathlib import Path
from typing import cast

import torch

from contestants.contestant import Contestant, Order
from llmstages.config.groups import OptimConfig
from llmstages.config.stages import PretrainConfig
from llmstages.model.counts import flops_per_token, num_parameters
from llmstages.model.transformer import Transformer
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import Lineage
from llmstages.train.device import training_kernels
from llmstages.train.loop import Goal, Loop, Training
from llmstages.train.losses import dense_loss
from llmstages.train.run import Run

LR = 1e-3
"""Speed does not depend on it."""


class Ours(Contestant):
    """A `Loop` whose run is never finished; only its optimizer steps are asked for."""

    name = "llmstages"

    def __init__(
        self, order: Order, optimizer: str, *, fp8: bool = False, checkpoint_blocks: bool = False
    ) -> None:
        self.order = order
        self.how = f"the training loop's own step, optim={optimizer}"
        model = Transformer(order.shape)
        model.initialize(torch.Generator().manual_seed(0))
        model.to(order.device)
        self.num_parameters = num_parameters(order.shape)
        self.flops_per_token = flops_per_token(order.shape, order.data.context_length)
        lookups = 0 if order.shape.tie_embeddings else model.embedding.weight.numel()
        self.num_matrix_parameters = self.num_parameters - lookups
        config = PretrainConfig(optim=OptimConfig(name=optimizer))
        with tempfile.TemporaryDirectory() as directory:  # steps alone write nothing
            self.loop = Loop(
                Training(
                    run=Run(Path(directory) / "bench", "pretrain", config, {}),
                    model=model,
                    tokenizer=cast(Tokenizer, None),  # for checkpoints, and none is written
                    data=order.data,
                    loss=dense_loss,
                    evaluate=lambda: {"val_loss": 0.0},
                    goal=Goal("val_loss", lower_is_better=True),
                    lineage=Lineage(),
                    device=order.device,
                    dtype=order.dtype,
                    lr=LR,
                    optim=config.optim,
                    schedule=config.schedule,
                    checkpoint=config.checkpoint,
                    evaluation=config.evaluate,
                    steps=1,
                    seconds=None,
                    compile="whole" if order.compiled else "off",
                    fp8=fp8,
                    checkpoint_blocks=checkpoint_blocks,
                )
            )

    def optimizer_step(self, step: int, steps: int) -> float:
        with training_kernels(self.order.device, self.order.dtype):
            return self.loop.optimizer_step(step, 1.0)[0]

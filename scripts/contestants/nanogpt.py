"""nanoGPT: `GPT` of its `model.py`, AdamW from its `configure_optimizers`, bf16 by autocast.

Rates and schedule are those of its `train.py` for GPT-2 and of its character-level example for
small models: warmup over 2 % of the steps, cosine to a tenth.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from contestants.checkout import load_file
from contestants.contestant import Order, Peer, warmup_then_cosine, with_peak_rates

GPT2_WIDTH = 768


class NanoGPT(Peer):
    """nanoGPT at the width, depth, heads, context and vocabulary asked for, without biases."""

    name = "nanoGPT"
    ignored = -1

    def __init__(self, order: Order, directory: Path) -> None:
        self.code = load_file(directory / "model.py", "nanogpt_model")
        autocast = "float32" if order.dtype == torch.float32 else "autocast bf16"
        if order.device.type == "cpu" and order.dtype != torch.float32:
            autocast += " (float32 in its own runs on a CPU)"
        self.how = f"AdamW, {autocast}, clip 1, tied, no biases"
        super().__init__(order)

    def build(self) -> nn.Module:
        shape = self.order.shape
        config = self.code.GPTConfig(
            block_size=self.order.data.context_length,
            vocab_size=shape.vocab_size,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_embd=shape.hidden_size,
            dropout=0.0,
            bias=False,
        )
        model: nn.Module = self.code.GPT(config)
        return model

    def lookups(self) -> list[nn.Parameter]:
        return [self.module.transformer.wpe.weight]  # type: ignore[union-attr, list-item]

    def mean_loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.model(tokens, targets)[1]
        return loss

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        large = self.order.shape.hidden_size >= GPT2_WIDTH
        optimizer = self.module.configure_optimizers(  # type: ignore[operator]
            weight_decay=0.1,
            learning_rate=6e-4 if large else 1e-3,
            betas=(0.9, 0.95 if large else 0.99),
            device_type=self.order.device.type,
        )
        return [with_peak_rates(optimizer, self.order.lr_factor)]

    def lr_share(self, step: int, steps: int) -> float:
        return warmup_then_cosine(step, steps, round(0.02 * steps), 0.1)

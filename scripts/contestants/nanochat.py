"""nanochat: `GPT` of its `nanochat/gpt.py` with its Muon and AdamW, in the types it chooses.

Rates, their scaling with batch and model size, and the schedules of rate, momentum and weight decay
are those of its `scripts/base_train.py`, whose loop is not a library. It computes in bf16 by its
own means where its own switch (NANOCHAT_DTYPE) says so; on a CPU it would take float32 by itself.
Without FlashAttention 3 its windows are left out, as it recommends itself.
"""

import math
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from contestants.contestant import Order, Peer, with_peak_rates

TOKENS_PER_PARAMETER = 12.0
REFERENCE_BATCH = 2**19
REFERENCE_DEPTH = 12
WARMUP_STEPS = 40
WARMDOWN_SHARE = 0.65
FINAL_LR = 0.05


class Nanochat(Peer):
    """nanochat at the width, depth, heads, context and vocabulary asked for."""

    name = "nanochat"
    clip_norm = None
    autocast = False
    ignored = -1

    def __init__(self, order: Order, directory: Path) -> None:
        os.environ["NANOCHAT_DTYPE"] = str(order.dtype).removeprefix("torch.")
        sys.path.insert(0, str(directory))
        from nanochat import flash_attention, gpt  # type: ignore[import-not-found]

        self.code = gpt
        self.windows = "SSSL" if flash_attention.USE_FA3 else "L"
        if not order.compiled:  # its optimizer is compiled by decorators
            torch.compiler.set_stance("force_eager")
        attention = "FlashAttention 3, windows SSSL" if flash_attention.USE_FA3 else "SDPA"
        self.how = f"its Muon and AdamW, its own bf16, {attention}, untied, value embeddings"
        super().__init__(order)

    def config(self, width: int, depth: int, heads: int, kv_heads: int) -> object:
        config: object = self.code.GPTConfig(
            sequence_len=self.order.data.context_length,
            vocab_size=self.order.shape.vocab_size,
            n_layer=depth,
            n_head=heads,
            n_kv_head=kv_heads,
            n_embd=width,
            window_pattern=self.windows,
        )
        return config

    def build(self) -> nn.Module:
        shape = self.order.shape
        config = self.config(
            shape.hidden_size, shape.num_layers, shape.num_heads, shape.num_kv_heads
        )
        with torch.device("meta"):
            model: nn.Module = self.code.GPT(config)
        model.to_empty(device=self.order.device)
        model.init_weights()  # type: ignore[operator]
        return model

    def lookups(self) -> list[nn.Parameter]:
        tables = [self.module.transformer.wte, *self.module.value_embeds.values()]  # type: ignore[union-attr, operator]
        return [table.weight for table in tables]

    def compile(self) -> nn.Module:
        compiled: nn.Module = torch.compile(self.module, dynamic=False)  # type: ignore[assignment]
        return compiled

    def attended(self) -> int:
        context = self.order.data.context_length
        windows = [left for left, _ in self.module.window_sizes]  # type: ignore[union-attr]
        return sum(context if left < 0 else min(left, context) for left in windows)

    def mean_loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.model(tokens, targets)
        return loss

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        with torch.device("meta"):
            reference = self.code.GPT(self.config(64 * REFERENCE_DEPTH, REFERENCE_DEPTH, 6, 6))
        size_ratio = scaling_parameters(reference) / scaling_parameters(self.module)
        batch_scale = math.sqrt(self.order.batch_tokens / REFERENCE_BATCH)
        self.weight_decay = 0.28 * batch_scale * size_ratio
        optimizer = self.module.setup_optimizer(  # type: ignore[operator]
            unembedding_lr=0.008 * batch_scale,
            embedding_lr=0.3 * batch_scale,
            scalar_lr=0.5 * batch_scale,
            matrix_lr=0.02 * batch_scale,
            weight_decay=self.weight_decay,
        )
        return [with_peak_rates(optimizer, self.order.lr_factor)]

    def lr_share(self, step: int, steps: int) -> float:
        # Its warmup is of so many steps, whatever their number; of a short run it is a tenth.
        warmup = min(WARMUP_STEPS, steps // 10)
        if step < warmup:
            return (step + 1) / warmup
        return FINAL_LR + (1 - FINAL_LR) * self.before_end(step, steps)

    def set_rates(self, step: int, steps: int) -> None:
        super().set_rates(step, steps)
        warm = min(1.0, step / 400)
        momentum = 0.85 + (0.97 - 0.85) * warm
        if (left := self.before_end(step, steps)) < 1 and step >= 400:
            momentum = 0.90 + (0.97 - 0.90) * left
        for group in self.optimizers[0].param_groups:
            if group["kind"] == "muon":
                group["momentum"] = momentum
                group["weight_decay"] = (
                    self.weight_decay * 0.5 * (1 + math.cos(math.pi * step / steps))
                )

    def before_end(self, step: int, steps: int) -> float:
        """1 until the warmdown, then linear to 0."""
        warmdown = max(1, round(WARMDOWN_SHARE * steps))
        return min(1.0, (steps - step) / warmdown)


def scaling_parameters(model: nn.Module) -> int:
    """The parameters its scaling rules count: those of the blocks and of the output matrix."""
    counts = model.num_scaling_params()  # type: ignore[operator]
    return int(counts["transformer_matrices"] + counts["lm_head"])

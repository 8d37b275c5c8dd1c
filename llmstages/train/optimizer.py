"""Optimizer and learning-rate schedule."""

import math

import torch

from llmstages.config.groups import OptimConfig, ScheduleConfig
from llmstages.model.transformer import Transformer

REFERENCE_LR = 4e-3
REFERENCE_WIDTH = 256
"""The best pretraining rate at this width; see docs/architecture.md for the measurement."""


def derived_lr(hidden_size: int) -> float:
    """Peak rate for pretraining: falls with the square root of the width."""
    return REFERENCE_LR * math.sqrt(REFERENCE_WIDTH / hidden_size)


def make_optimizer(model: Transformer, config: OptimConfig, lr: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=model.embedding.weight.device.type in ("cpu", "cuda"),
    )


def lr_share(config: ScheduleConfig, step: int, steps: int) -> float:
    """Rate of step `step` (from 0) of `steps`, as a share of the peak.

    Warmup is linear and never starts at 0. `cosine`: half a cosine to `final_lr_share`
    (Loshchilov and Hutter 2017). `wsd`: constant, then linear (Hu et al. 2024).
    """
    warmup = round(config.warmup_share * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.name == "constant":
        return 1.0
    final = config.final_lr_share
    if config.name == "cosine":
        done = (step - warmup) / max(1, steps - 1 - warmup)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    decay = max(1, round(config.decay_share * steps))
    left = steps - step  # the last step has 1 left
    return 1.0 if left > decay else final + (1 - final) * (left - 1) / decay

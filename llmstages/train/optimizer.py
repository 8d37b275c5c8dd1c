"""Optimizers and the learning-rate schedule."""

import math

import torch

from llmstages.config.groups import OptimConfig, ScheduleConfig
from llmstages.model.four_bits import num_numbers
from llmstages.model.transformer import Transformer
from llmstages.train import parallel
from llmstages.train.muon import Muon
from llmstages.train.unmarked import AdamW

REFERENCE_WIDTH = 128
REFERENCE_LR = {"muon": 0.006, "adamw": 0.01}
"""The best pretraining rates found at that width; see docs/architecture.md for the measurement."""
EMBEDDING_LR_RATIO = 3.0
"""Rate of embeddings, heads and vectors under Muon, as a multiple of that of the matrices."""


def derived_lr(optimizer: str, hidden_size: int) -> float:
    """Peak rate for pretraining: falls with the square root of the width."""
    return REFERENCE_LR[optimizer] * math.sqrt(REFERENCE_WIDTH / hidden_size)


def make_optimizers(
    model: Transformer, config: OptimConfig, lr: float, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model; each parameter group has its peak rate as `peak_lr`.

    `muon`: matrices inside the blocks by Muon (llmstages/train/muon.py), embeddings, heads and
    norms by AdamW. `adamw`: all by AdamW. Weight decay is on matrices only, embeddings not among
    them. dtype: of Muon's matrix products.
    """
    assert config.weight_decay is not None  # a stage derives it
    hidden, embeddings, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dim() < 2:
            vectors.append(parameter)
        elif name.startswith("blocks."):
            hidden.append(parameter)
        else:
            embeddings.append(parameter)
    muon = config.name == "muon"
    other_lr = EMBEDDING_LR_RATIO * lr if muon else lr
    if config.embedding_lr is not None:
        other_lr = config.embedding_lr
    optimizers: list[torch.optim.Optimizer] = []
    adamw_groups = [
        {"params": embeddings + vectors, "peak_lr": other_lr, "weight_decay": 0.0},
    ]
    if muon:
        optimizers.append(
            Muon(
                [{"params": hidden, "peak_lr": lr}],
                lr=lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                num_iterations=config.num_iterations,
                neuron_beta=config.neuron_beta or None,
                cautious=config.cautious_decay,
                dtype=dtype,
            )
        )
    else:
        adamw_groups.append({"params": hidden, "peak_lr": lr, "weight_decay": config.weight_decay})
    optimizers.append(
        AdamW(
            adamw_groups,
            lr=lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=model.embedding.weight.device.type in ("cpu", "cuda"),
        )
    )
    return optimizers


def checkpoint_bytes(model: Transformer, optimizers: list[torch.optim.Optimizer]) -> int:
    """Size of a checkpoint: float32 weights, and one moment of Muon or two of AdamW."""
    moments: int = sum(
        parameter.numel() * (1 if isinstance(optimizer, Muon) else 2)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    return 4 * (moments + sum(num_numbers(parameter) for parameter in model.parameters()))


def optimizer_tensors(
    model: Transformer, optimizers: list[torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    """The optimizers' state as named tensors, for a checkpoint; not copied.

    Of a sharded model they are gathered: all processes call this together.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": parallel.whole(value.detach())
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def state_shapes(
    optimizer: torch.optim.Optimizer, parameter: torch.Tensor
) -> dict[str, torch.Size]:
    """What an optimizer keeps of a parameter once it has done a step."""
    whole = parameter.shape
    if not isinstance(optimizer, Muon):
        return {"step": torch.Size(()), "exp_avg": whole, "exp_avg_sq": whole}
    if optimizer.neuron_beta is None:
        return {"momentum": whole}
    neurons = (whole[0], 1) if whole[0] >= whole[1] else (1, whole[1])
    return {"momentum": whole, "neuron": torch.Size(neurons)}


def restore_optimizers(
    model: Transformer,
    optimizers: list[torch.optim.Optimizer],
    tensors: dict[str, torch.Tensor],
) -> None:
    """Put back what `optimizer_tensors` gave. Raises `ValueError` for anything else."""
    if not tensors:  # saved before a step that changed anything
        return
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    expected = {
        f"{names[id(parameter)]}/{key}": shape
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, shape in state_shapes(optimizer, parameter).items()
    }
    for name in sorted(expected.keys() | tensors.keys()):
        found = tensors[name].shape if name in tensors else None
        if name not in expected or found != expected[name]:
            raise ValueError(f"{name} has the shape {found}, not {expected.get(name)}")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                prefix = names[id(parameter)] + "/"
                optimizer.state[parameter] = {
                    # AdamW counts its steps in a tensor that stays on the CPU unless fused on cuda.
                    key.removeprefix(prefix): parallel.like(value, parameter)
                    if value.shape == parameter.shape
                    else value.to(parameter.device)
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }


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

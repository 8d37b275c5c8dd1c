"""The interface of whatever is measured, and the steps that most peers have in common.

Every contestant gets the same `Order`: the same shape as far as it has one, the same batches, the
same device and type. What it does with them (initialisation, optimizer, schedule, the way the loss
is computed) is its own.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from llmstages.data.batch import Batch
from llmstages.model.counts import training_flops
from llmstages.model.transformer import TransformerConfig


class Rows(Protocol):
    """Training rows, as `PretrainingData` has them."""

    context_length: int
    rows_per_step: int
    rows_per_micro_batch: int

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """Micro-batches of optimizer step `step`, counted from 0."""


@dataclass(frozen=True)
class Order:
    """What a contestant is asked to do."""

    shape: TransformerConfig
    data: Rows
    device: torch.device
    dtype: torch.dtype
    """Type of matrix products; weights are float32 unless a peer does otherwise by itself."""
    compiled: bool
    lr_factor: float = 1.0
    """Multiplies all of a peer's learning rates."""

    @property
    def batch_tokens(self) -> int:
        """Targets of one optimizer step."""
        return self.data.rows_per_step * self.data.context_length


class Contestant(ABC):
    """Something that trains a language model step by step."""

    name: str
    how: str
    """One line: what it steps with, and what was adapted so that it runs."""
    num_parameters: int
    num_matrix_parameters: int
    """Without embeddings that are only looked up: the N of 6 N."""
    flops_per_token: float
    """Training FLOPs by the formula of `llmstages.model.counts`."""

    @abstractmethod
    def optimizer_step(self, step: int, steps: int) -> float:
        """Do step `step` of `steps`, counted from 0; returns the training loss in nats a token."""


class Peer(Contestant):
    """A model of another project. A subclass says how it is built, stepped and scheduled."""

    clip_norm: float | None = 1.0
    autocast = True
    ignored = -100
    """Target that its loss leaves out."""

    def __init__(self, order: Order) -> None:
        self.order = order
        torch.manual_seed(0)
        if order.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.module = self.build().to(order.device)
        self.num_parameters = sum(parameter.numel() for parameter in self.module.parameters())
        lookups = {id(parameter): parameter.numel() for parameter in self.lookups()}
        self.num_matrix_parameters = self.num_parameters - sum(lookups.values())
        shape = order.shape
        self.flops_per_token = training_flops(
            self.num_matrix_parameters, shape.num_heads * shape.head_dim, self.attended()
        )
        self.optimizers = self.make_optimizers()
        self.model = self.compile() if order.compiled else self.module

    # ---- what a peer says of itself --------------------------------------------------------------

    @abstractmethod
    def build(self) -> nn.Module:
        """The model with its own initial weights."""

    @abstractmethod
    def lookups(self) -> list[nn.Parameter]:
        """Embeddings that are looked up and never multiplied with."""

    @abstractmethod
    def mean_loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Loss in nats a target over tokens and targets [B, T], as its own training computes it."""

    @abstractmethod
    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Its own optimizers, the peak rate of each group as `initial_lr`."""

    @abstractmethod
    def lr_share(self, step: int, steps: int) -> float:
        """Its own schedule: rate of step `step` (from 0) of `steps`, as a share of the peak."""

    def compile(self) -> nn.Module:
        """Its model compiled as its own training does it."""
        compiled: nn.Module = torch.compile(self.module)  # type: ignore[assignment]
        return compiled

    def attended(self) -> int:
        """Positions that attention looks at, summed over the layers."""
        return self.order.shape.num_layers * self.order.data.context_length

    # ---- training and evaluation -----------------------------------------------------------------

    def optimizer_step(self, step: int, steps: int) -> float:
        order = self.order
        self.model.train()
        self.set_rates(step, steps)
        losses = []
        for batch in order.data.micro_batches(step):
            tokens, targets = self.on_device(batch)
            with self.autocasting():
                loss = self.mean_loss(tokens, targets) * (tokens.numel() / order.batch_tokens)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(torch.stack(losses).sum())  # each of the peers logs its loss at every step

    def set_rates(self, step: int, steps: int) -> None:
        """Set what the schedule changes."""
        share = self.lr_share(step, steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share

    def restart(self) -> None:
        """Forget what the optimizers have seen."""
        self.optimizers = self.make_optimizers()

    def loss_sum(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the losses of a batch's targets in nats, and their number; for evaluation."""
        tokens, targets = self.on_device(batch)
        count = (targets != self.ignored).sum()
        # Short last rows would be compiled again: the module itself is called.
        compiled, self.model = self.model, self.module
        try:
            with self.autocasting():
                loss = self.mean_loss(tokens, targets)
            return loss.float() * count, count
        finally:
            self.model = compiled

    def on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens and targets of a batch, those without a target marked as this peer wants it."""
        tokens, targets = batch.tokens, batch.targets.masked_fill(batch.targets < 0, self.ignored)
        if self.order.device.type == "cuda" and not tokens.is_cuda:
            tokens, targets = tokens.pin_memory(), targets.pin_memory()
        device = self.order.device
        return tokens.to(device, non_blocking=True), targets.to(device, non_blocking=True)

    def autocasting(self) -> torch.autocast:
        """Matrix products in the run's type, where the peer does not see to it by itself."""
        enabled = self.autocast and self.order.dtype != torch.float32
        return torch.autocast(self.order.device.type, dtype=self.order.dtype, enabled=enabled)


def with_peak_rates(optimizer: torch.optim.Optimizer, factor: float) -> torch.optim.Optimizer:
    """The optimizer, with the rate of each group times `factor` kept as `initial_lr`."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] * factor
    return optimizer


def warmup_then_cosine(step: int, steps: int, warmup: int, final: float) -> float:
    """Linear warmup, then half a cosine from 1 to `final` at the last step."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

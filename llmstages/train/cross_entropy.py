"""Cross-entropy of a linear head without the logits of all rows at once.

The logits of a language model are its largest tensor: 16,384 rows of 50,304 are 3.3 GB in float32,
and their gradient as much again. Here rows go through the head in chunks, and the gradients of a
chunk are taken in the forward pass while its logits are there (the idea of Wijmans et al. 2024,
"Cut Your Losses in Large-Vocabulary Language Models", and of Hsu et al. 2024, "Liger Kernel"; in
plain torch operations). What is kept for the backward pass is the gradient of the rows and of the
head's matrix; the backward pass only multiplies by the incoming scalar.

The loss of a row with logits x (after the cap), target t and weight w is

    w * (logsumexp(x) - x[t] + z_loss * logsumexp(x)^2)

z_loss keeps the logits from drifting (Chowdhery et al. 2022, "PaLM"); the cap is
x = softcap * tanh(logits / softcap) (Gemma Team 2024, "Gemma 2").
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from llmstages.data.batch import IGNORED

CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**26}
"""Logits held at once, by device; first choices, see docs/architecture.md."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
    chunk_elements: int | None = None,
) -> Tensor:
    """Weighted sum of the losses in nats, a scalar of at least float32.

    hidden: [N, H]. weight: [V, H], the head. targets: [N], `IGNORED` where there is none. weights:
    [N]. Matrix products are in the autocast type; all else is at least float32. chunk_elements: at
    most so many logits at once; where all fit, autograd does the gradients.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    else:
        dtype = torch.promote_types(hidden.dtype, weight.dtype)
    limit = chunk_elements or CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS["cpu"])
    rows = rows_of_chunk(hidden.shape[0], weight.shape[0], limit)
    if rows >= hidden.shape[0]:
        head = weight.to(dtype)
        return chunk_loss(hidden.to(dtype) @ head.t(), targets, weights, z_loss, softcap)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: Tensor = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden, weight, targets, weights, z_loss, softcap, rows, dtype
        )
        return loss
    head = weight.to(dtype)
    parts = [
        chunk_loss(
            hidden[begin : begin + rows].to(dtype) @ head.t(),
            targets[begin : begin + rows],
            weights[begin : begin + rows],
            z_loss,
            softcap,
        )
        for begin in range(0, hidden.shape[0], rows)
    ]
    return torch.stack(parts).sum()


def linear_log_probabilities(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float | None = None,
    chunk_elements: int | None = None,
) -> Tensor:
    """[N] log probability of each row's target in nats, at least float32.

    The arguments are those of `linear_cross_entropy`; every row has a target. For the backward pass
    the logits of a chunk are computed again.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    else:
        dtype = torch.promote_types(hidden.dtype, weight.dtype)

    def part(rows: Tensor, own: Tensor) -> Tensor:
        logits = capped_logits(rows.to(dtype) @ weight.to(dtype).t(), softcap)
        return -F.cross_entropy(logits, own, reduction="none")

    limit = chunk_elements or CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS["cpu"])
    size = rows_of_chunk(hidden.shape[0], weight.shape[0], limit)
    if size >= hidden.shape[0]:
        return part(hidden, targets)
    chunks = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    return torch.cat([checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks])


def rows_of_chunk(num_rows: int, vocab_size: int, max_elements: int) -> int:
    """Rows of each chunk but the last: even parts, in multiples of 128 where they are so large."""
    most = max(1, max_elements // vocab_size)
    if num_rows <= most:
        return num_rows
    chunks = -(-num_rows // most)
    rows = -(-num_rows // chunks)
    rounded = -(-rows // 128) * 128
    return rounded if rounded <= most else rows


def chunk_loss(
    logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float, softcap: float | None
) -> Tensor:
    """The loss of rows whose logits [n, V] are all there, by autograd's own operations."""
    logits = capped_logits(logits, softcap)
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    if z_loss:
        squares = logits.logsumexp(dim=-1).square()
        losses = losses + z_loss * squares.masked_fill(targets == IGNORED, 0.0)
    return (losses * weights).sum()


def capped_logits(logits: Tensor, softcap: float | None) -> Tensor:
    """Logits after the cap, in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


class ChunkedCrossEntropy(torch.autograd.Function):
    """The loss chunk by chunk, with the gradients taken on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor,
        z_loss: float,
        softcap: float | None,
        rows: int,
        dtype: torch.dtype,
    ) -> Tensor:
        head = weight.to(dtype)
        exact = torch.promote_types(dtype, torch.float32)
        loss = torch.zeros((), dtype=exact, device=hidden.device)
        grad_weight = torch.zeros_like(weight, dtype=exact)
        grads_hidden = []
        for begin in range(0, hidden.shape[0], rows):
            x = hidden[begin : begin + rows].to(dtype)
            part, grad_logits = loss_and_gradient(
                (x @ head.t()).to(exact),
                targets[begin : begin + rows],
                weights[begin : begin + rows].to(exact),
                z_loss,
                softcap,
            )
            loss = loss + part
            grad_logits = grad_logits.to(dtype)
            grads_hidden.append(grad_logits @ head)
            grad_weight = grad_weight.add_(grad_logits.t() @ x)
        ctx.save_for_backward(torch.cat(grads_hidden), grad_weight)
        ctx.dtypes = (hidden.dtype, weight.dtype)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        return (
            grad_hidden.to(hidden_dtype) * grad.to(hidden_dtype),
            grad_weight.to(weight_dtype) * grad.to(weight_dtype),
            *(None,) * 6,
        )


def loss_and_gradient(
    logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Loss of a chunk and its gradient by the logits [n, V], in the logits' type."""
    slope = None
    if softcap is not None:
        bent = torch.tanh(logits / softcap)
        slope = 1.0 - bent * bent
        logits = softcap * bent
    there = targets != IGNORED
    weights = weights * there
    column = targets.clamp(min=0).unsqueeze(1)
    lse = logits.logsumexp(dim=-1, keepdim=True)
    losses = lse - logits.gather(1, column)
    share = weights.unsqueeze(1)
    grad = (logits - lse).exp() * (share * (1.0 + 2.0 * z_loss * lse))
    grad = grad.scatter_add(1, column, -share)
    if z_loss:
        losses = losses + z_loss * lse.square()
    if slope is not None:
        grad = grad * slope
    return (losses * share).sum(), grad

"""Norms, rotary positions and activations with backward passes written out.

In eager mode autograd would keep and touch several tensors for each of these; written out, each
pass is a few operations over one. `torch.compile` sees through them and fuses them anyway. All
arithmetic is float32; results have the type that matrix products take next.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The type in which matrix products with x are done: autocast's, or that of x."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x [..., size] over its root mean square (Zhang and Sennrich 2019), times weight [size]."""
    normed: Tensor = Normalise.apply(x, eps, matmul_dtype(x) if weight is None else torch.float32)
    return normed if weight is None else (normed * weight).to(matmul_dtype(x))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + head_dim/2]) of x [..., head_dim] by their angles.

    cos, sin: [..., head_dim/2], broadcast over x.
    """
    rotated: Tensor = Rotate.apply(x, cos, sin)
    return rotated


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, "Primer")."""
    squared: Tensor = ReluSquared.apply(x)
    return squared


class Normalise(torch.autograd.Function):
    """x over its root mean square along the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale)
        return (wide * scale).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        normed = x * scale
        along = (gradient * normed).mean(-1, keepdim=True)
        return torch.addcmul(gradient, normed, along, value=-1).mul_(scale).to(x.dtype), None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotation itself, in x's type."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat(
        (
            torch.addcmul(first * cos, second, sin, value=-1),
            torch.addcmul(second * cos, first, sin),
        ),
        dim=-1,
    ).to(x.dtype)


class Rotate(torch.autograd.Function):
    """Rotary positions (Su et al. 2021); the gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return turn(gradient, cos, -sin), None, None


class ReluSquared(torch.autograd.Function):
    """max(x, 0)^2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        result: Tensor = (gradient * positive).mul_(2.0)
        return result

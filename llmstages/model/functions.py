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
    normed: Tensor = Normalise.apply(x, weight, eps, matmul_dtype(x))  # type: ignore[no-untyped-call]
    return normed


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + head_dim/2]) of x [..., head_dim] by their angles.

    cos, sin: [..., head_dim], broadcast over x: the cosines twice, the sines negated and then as
    they are. Where they are narrower, what lies beyond them in x is left as it is.
    """
    rotated: Tensor = Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return rotated


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, "Primer")."""
    squared: Tensor = ReluSquared.apply(x)  # type: ignore[no-untyped-call]
    return squared


class Normalise(torch.autograd.Function):
    """x over its root mean square along the last dimension; only x and a number a row are kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype
    ) -> Tensor:
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale: Tensor = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normed = wide * scale
        return (normed if weight is None else normed * weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        # Operations between two types are slow on a CPU: one conversion of each comes first.
        wide, gradient = x.float(), gradient.float()
        d_weight = None
        if weight is not None:
            d_weight = (gradient * wide * scale).flatten(0, -2).sum(0)
            gradient = gradient * weight
        along = (gradient * wide).mean(-1, keepdim=True).mul_(scale * scale)
        return (gradient - wide * along).mul_(scale).to(x.dtype), d_weight, None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotation itself, in x's type."""
    if (rotated := cos.shape[-1]) < x.shape[-1]:
        return torch.cat((turn(x[..., :rotated], cos, sin), x[..., rotated:]), dim=-1)
    wide = x.float()
    other: Tensor = wide.roll(x.shape[-1] // 2, dims=-1)
    return torch.addcmul(wide * cos, other, sin).to(x.dtype)


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

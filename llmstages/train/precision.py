"""Matrix products in 8 bits for GPUs that have them, weights and gradients staying float32.

Operands are scaled so that their largest absolute value is the largest number of the type, one
scale a tensor, found anew each time (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"):
e4m3 (3 bits of mantissa) for activations and weights, e5m2 (2 bits, more range) for gradients. The
products of a linear layer y = x W^T are

    forward     y  = x    W^T     e4m3 x e4m3
    backward    dx = dy   W       e5m2 x e4m3
                dW = dy^T x       e5m2 x e4m3, result in float32

Rounding to e4m3 changes a number by at most 1/16, to e5m2 by at most 1/8 of its size; over random
operands a product is off by about 4 % of its norm forward, 6 % backward.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llmstages.errors import UserError
from llmstages.model.transformer import Transformer

FORWARD = torch.float8_e4m3fn
BACKWARD = torch.float8_e5m2
MULTIPLE = 16
"""Dimensions of the operands must be multiples of this (cuBLAS)."""
LEAST_CAPABILITY = (8, 9)
"""First compute capability with 8-bit products: Ada; Hopper is 9.0."""


def require_fp8(device: torch.device, dtype: torch.dtype) -> None:
    """Raise `UserError` where 8-bit products cannot be had."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        raise UserError(
            f"fp8=true: {name} has no 8-bit matrix products (Ada, Hopper and later GPUs do): "
            "leave fp8 out"
        )
    if dtype != torch.bfloat16:
        raise UserError("fp8=true goes with dtype=bfloat16 alone: leave one of them out")


def quantised(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in an 8-bit type, and the float32 scalar that it is to be multiplied by."""
    largest = torch.finfo(dtype).max
    scale = x.abs().amax().float().clamp(min=1e-12) / largest
    return (x.float() / scale).clamp(-largest, largest).to(dtype), scale


def scaled_product(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], dtype: torch.dtype, fast: bool
) -> Tensor:
    """a [M, K] times the transpose of b [N, K], both row by row in memory; result [M, N].

    fast: add up with fewer bits, good enough for activations.
    """
    with torch.autocast(a[0].device.type, enabled=False):  # a CPU would round the operands again
        product: Tensor = torch._scaled_mm(
            a[0], b[0].t(), scale_a=a[1], scale_b=b[1], out_dtype=dtype, use_fast_accum=fast
        )
    return product


class Fp8Product(torch.autograd.Function):
    """x [M, K] times the transpose of weight [N, K], forward and backward in 8 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x8, x_scale = quantised(x, FORWARD)
        w8, w_scale = quantised(weight, FORWARD)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.dtypes = (x.dtype, weight.dtype)
        return scaled_product((x8, x_scale), (w8, w_scale), torch.bfloat16, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        g8, g_scale = quantised(grad, BACKWARD)
        w_across = (w8.t().contiguous(), w_scale)
        grad_x = scaled_product((g8, g_scale), w_across, torch.bfloat16, fast=False)
        g_across, x_across = (g8.t().contiguous(), g_scale), (x8.t().contiguous(), x_scale)
        grad_weight = scaled_product(g_across, x_across, torch.float32, fast=False)
        return grad_x.to(x_dtype), grad_weight.to(weight_dtype)


class Fp8Linear(nn.Linear):
    """A linear layer that multiplies in 8 bits in training, and as any other in evaluation.

    Inputs whose rows do not come in multiples of 16 take the usual way too.
    """

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        if not self.training or rows % MULTIPLE:
            return super().forward(input)
        x = input.reshape(rows, self.in_features)
        y: Tensor = Fp8Product.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return y.view(*input.shape[:-1], self.out_features)


def use_fp8(model: Transformer) -> int:
    """Let the matrices in a model's blocks multiply in 8 bits; how many do.

    Parameters, their names and the state dict stay what they are. The embedding, the head and
    matrices with a side that is no multiple of 16 are left alone.
    """
    count = 0
    for module in list(model.blocks.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is not nn.Linear or layer.bias is not None:
                continue
            if layer.in_features % MULTIPLE or layer.out_features % MULTIPLE:
                continue
            with torch.device("meta"):
                other = Fp8Linear(layer.in_features, layer.out_features, bias=False)
            other.weight = layer.weight
            other.train(layer.training)
            setattr(module, name, other)
            count += 1
    return count

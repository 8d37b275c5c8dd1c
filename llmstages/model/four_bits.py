"""Matrices that nothing trains, in 4 bits (Dettmers et al. 2023, "QLoRA").

Of each 64 numbers the largest absolute value is kept, and each number is one of 16, the quantiles
of a normal distribution, times it (NF4). Those largest values are in 8 bits, each 256 of them with
one more scale ("double quantisation"). A product takes the matrix out of its 4 bits, into the type
of its input. The work is that of bitsandbytes, the extra `qlora`.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from llmstages.errors import UserError

BYTES_PER_NUMBER = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Of a matrix in 4 bits, with its scales."""


def require_bitsandbytes() -> None:
    """Import bitsandbytes. Raises `UserError` when it is not installed."""
    # On some processors it would fetch a kernel from the network, which nothing here uses.
    name = "kernels"
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UserError(
            "method=qlora needs bitsandbytes: install it with pip install 'llmstages[qlora]'"
        ) from None
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def in_four_bits(weight: Tensor, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    """A matrix [out, in] in 4 bits, on the device; dtype: in which its gradients are computed."""
    from bitsandbytes.nn import Params4bit

    packed: Any = Params4bit(weight.detach(), requires_grad=False, quant_type="nf4").to(device)
    packed.quant_state.dtype = dtype
    result: nn.Parameter = packed
    return result


def is_in_four_bits(weight: Tensor) -> bool:
    """Whether a weight came from `in_four_bits`."""
    return hasattr(weight, "quant_state")


def num_numbers(weight: Tensor) -> int:
    """Numbers that a weight stands for."""
    return weight.quant_state.shape.numel() if is_in_four_bits(weight) else weight.numel()  # type: ignore[attr-defined]


def taken_out(weight: Tensor) -> Tensor:
    """A matrix in 4 bits as float32 [out, in], on its device."""
    from bitsandbytes.functional import dequantize_4bit

    state = copy(weight.quant_state)  # type: ignore[attr-defined]
    state.dtype = torch.float32
    whole: Tensor = dequantize_4bit(weight.detach(), state)
    return whole


def product(input: Tensor, weight: Tensor) -> Tensor:
    """input [..., in] times the transpose of a matrix in 4 bits: [..., out]."""
    from bitsandbytes import matmul_4bit

    if torch.is_autocast_enabled(input.device.type):
        input = input.to(torch.get_autocast_dtype(input.device.type))
    result: Tensor = matmul_4bit(input, weight.t(), quant_state=weight.quant_state)  # type: ignore[attr-defined]
    return result


class TakenOut(Mapping[str, Tensor]):
    """Matrices in 4 bits as float32 on the host, each made when it is asked for."""

    def __init__(self, packed: Mapping[str, Tensor]) -> None:
        self.packed = packed

    def __getitem__(self, name: str) -> Tensor:
        return taken_out(self.packed[name]).cpu()

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)

"""Dropout (Srivastava et al. 2014) whose random numbers are cheap on a CPU.

torch draws a float for every number; a byte is enough to decide. On two cores a compiled block of
width 128 spent half of its time on torch's dropout.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 256
"""Values of a random byte: shares are rounded to their multiples on a CPU, and never to 0."""


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """x with a share of its numbers set to 0 and the others scaled up, so that the mean stays.

    What is dropped depends on torch's default generator of the device.
    """
    if not training or share == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, share)
    dropped = max(1, round(LEVELS * share))
    count = math.prod(x.shape)
    words = torch.empty(-(-count // 8), dtype=torch.int64, device=x.device)
    words.random_(torch.iinfo(torch.int64).min, None)  # all 64 bits; without bounds the sign is 0
    kept = words.view(torch.uint8)[:count].view(x.shape) >= dropped
    return x * (kept.to(x.dtype) * (LEVELS / (LEVELS - dropped)))

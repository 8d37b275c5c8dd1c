"""What happens to gradients between the backward pass and the optimizer, all on the device."""

import torch
from torch import Tensor


def scale_and_clip(gradients: list[Tensor], count: Tensor, limit: float) -> Tensor:
    """Divide gradients by `count`, scale them down to a norm of `limit`, in place, on the device.

    Returns the norm before clipping, a scalar.
    """
    norm = torch.nn.utils.get_total_norm(gradients) / count
    share = torch.clamp(limit / (norm + 1e-6), max=1.0) / count
    torch._foreach_mul_(gradients, share)
    return norm

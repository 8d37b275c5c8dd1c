"""What happens to gradients between the backward pass and the optimizer, all on the device."""

import torch
from torch import Tensor

from llmstages.train import parallel


def scale_and_clip(gradients: list[Tensor], count: Tensor, limit: float) -> Tensor:
    """Divide gradients by `count`, scale them down to a norm of `limit`, in place, on the device.

    Returns the norm before clipping, a scalar.
    """
    if any(parallel.is_sharded(gradient) for gradient in gradients):
        gradients = [parallel.local(gradient) for gradient in gradients]
        here = torch.nn.utils.get_total_norm([g for g in gradients if g.numel()])
        norm = parallel.add_up(here.square()).sqrt() / count
    else:
        norm = torch.nn.utils.get_total_norm(gradients) / count
    share = torch.clamp(limit / (norm + 1e-6), max=1.0) / count
    torch._foreach_mul_(gradients, share)
    return norm

"""torch's optimizers without the marks that keep their methods out of compiled code.

To make these marks torch imports its whole compiler, 1.7 s of the start of a run that may compile
nothing. Nothing here is called from compiled code: only the loss is compiled.
"""

import inspect

import torch


class Unmarked(torch.optim.Optimizer):
    """A base for optimizers that come before torch's own classes in the order of methods."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class AdamW(Unmarked, torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019)."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))

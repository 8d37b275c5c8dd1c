"""Muon: momentum whose matrices are made orthogonal before they are applied.

Jordan et al. 2024 ("Muon: An optimizer for hidden layers in neural networks"), with

- the polynomials of Amsel et al. 2025 ("The Polar Express") for the Newton-Schulz iteration,
- a scale that gives updates the root mean square of AdamW's (Liu et al. 2025, "Muon is Scalable for
  LLM Training"), so that one learning rate serves both,
- an adaptive scale for each neuron (Li et al. 2025, "NorMuon"), and
- weight decay only where it does not work against the update (Chen et al. 2025, "Cautious Weight
  Decay").

Matrices of equal shape are treated as one batch, in bfloat16 where the processor is quick at it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from llmstages.train.parallel import is_sharded, local, own_part
from llmstages.train.unmarked import Unmarked

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients a, b, c of X <- a X + b (X X^T) X + c (X X^T)^2 X, best for each step in turn."""
SAFETY = 1.02
"""Keeps singular values below 1 in spite of rounding, as the paper does."""
ADAMW_RMS = 0.2
"""Root mean square of a typical AdamW update (Liu et al. 2025)."""
TINY = 1e-10
MAX_BATCH_ELEMENTS = 2**25
"""Numbers treated at once: what a step needs besides is some five times their float32 size."""


class Muon(Unmarked):
    """Muon for parameters of two dimensions; the learning rate is that of AdamW."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        num_iterations: int = 5,
        neuron_beta: float | None = 0.95,
        cautious: bool = True,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """num_iterations: of Newton-Schulz, 1 to 5. neuron_beta: decay of NorMuon's second moment,
        None for plain Muon. dtype: of the Newton-Schulz products."""
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.num_iterations = num_iterations
        self.neuron_beta = neuron_beta
        self.cautious = cautious
        self.dtype = dtype
        self.found_inf: Tensor | None = None
        """As torch's fused optimizers have it: a step does nothing where it is 1."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                count = max(1, MAX_BATCH_ELEMENTS // shape.numel())
                for begin in range(0, len(parameters), count):
                    self.step_batch(parameters[begin : begin + count], group)

    def step_batch(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """One update of matrices of the same shape."""
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        # Of sharded matrices the rows that are here, until they are to be made orthogonal.
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        moments = [local(self.state[p]["momentum"]) for p in parameters]
        weights = [local(p) for p in parameters]
        if self.found_inf is not None:  # a gradient that equals the momentum leaves it as it is
            broken = self.found_inf.bool()
            pairs = zip(gradients, moments, strict=True)
            gradients = [torch.where(broken, moment, gradient) for gradient, moment in pairs]
        torch._foreach_lerp_(moments, gradients, 1 - group["momentum"])
        # Nesterov: where the momentum will be after another such gradient.
        ahead = torch._foreach_lerp(gradients, moments, group["momentum"])
        stacked = torch.stack(list(whole_matrices(ahead, parameters))).to(self.dtype)
        del ahead
        update = orthogonalise(stacked, self.num_iterations).float()
        if self.neuron_beta is not None:
            update = self.balance_neurons(parameters, update)
        lr, decay = group["lr"], group["weight_decay"]
        update *= lr * ADAMW_RMS * max(update.shape[-2:]) ** 0.5 * self.done
        updates = [own_part(u, p) for u, p in zip(update.unbind(), parameters, strict=True)]
        if decay and self.cautious:
            signs = torch._foreach_mul(updates, weights)
            same = [(sign > 0).to(update.dtype) for sign in signs]
            torch._foreach_mul_(same, weights)
            torch._foreach_add_(updates, same, alpha=lr * decay)
        elif decay:
            torch._foreach_mul_(weights, 1 - lr * decay * self.done)
        torch._foreach_sub_(weights, updates)

    @property
    def done(self) -> Tensor | float:
        """Share of the step that is done: 0 where it does nothing."""
        return 1.0 if self.found_inf is None else 1.0 - self.found_inf

    def balance_neurons(self, parameters: list[Tensor], update: Tensor) -> Tensor:
        """Divide each neuron by its running root mean square; the whole keeps its norm.

        Neurons are the longer side: an orthogonal matrix has them even along the shorter one.
        """
        assert self.neuron_beta is not None
        along = -1 if update.shape[-2] >= update.shape[-1] else -2
        squares = update.square().mean(dim=along, keepdim=True)
        seconds = []
        for parameter, square in zip(parameters, squares.unbind(), strict=True):
            state = self.state[parameter]
            if "neuron" not in state:
                state["neuron"] = torch.zeros_like(square)
            state["neuron"].lerp_(square, (1 - self.neuron_beta) * self.done)
            seconds.append(state["neuron"])
        before = update.norm(dim=(-2, -1), keepdim=True)
        update = update * torch.stack(seconds).add(TINY).rsqrt()
        after: Tensor = update.norm(dim=(-2, -1), keepdim=True)
        balanced: Tensor = update * (before / after.add(TINY))
        return balanced


def whole_matrices(rows: Sequence[Tensor], parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """All rows of matrices of which each process has some, or all, as of `parameters`."""
    if not is_sharded(parameters[0]):
        return rows
    from torch.distributed.tensor import DTensor

    found = []
    for own, p in zip(rows, parameters, strict=True):
        assert isinstance(p, DTensor)
        sharded = DTensor.from_local(
            own, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
        )
        found.append(sharded.full_tensor())
    return found


def orthogonalise(matrices: Tensor, num_iterations: int) -> Tensor:
    """The nearest (semi-)orthogonal matrix of each of matrices [N, rows, columns]: U V^T."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (SAFETY * x.float().norm(dim=(-2, -1), keepdim=True).add(TINY)).to(x.dtype)
    for a, b, c in POLAR_EXPRESS[:num_iterations]:
        gram = torch.bmm(x, x.mT)
        inner = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, inner, x, beta=a)
    return x.mT if tall else x

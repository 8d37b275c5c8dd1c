"""Several processes that train one model, as torchrun starts them.

Each has its rows of every micro-batch. `ddp`: each holds the whole model, and gradients are summed
over all of them after the last micro-batch of a step. `fsdp`: weights, gradients and optimizer
state are sharded (Zhao et al. 2023, "PyTorch FSDP"; torch's `fully_shard`), gathered block by block
while they are needed. Gradients are sums in both, and divided by the targets of the whole step.

What depends on a clock or on a signal is decided by the first process, which alone writes files.
Without torchrun there is one process, and everything here does nothing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from llmstages.data.batch import IGNORED, Batch

T = TypeVar("T")
BUCKET_ELEMENTS = 2**20
"""Gradients are summed in pieces of so many numbers, all of them on their way at once."""
TIMEOUT_SECONDS = 1800
"""How long a process waits for another that is silent; the first may be tokenizing a corpus."""


def launched() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def join(device: torch.device) -> torch.device:
    """Meet the other processes that torchrun started; this process's own device of that kind."""
    if not launched():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # gloo too where nccl computes: small decisions on the host make no device wait.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT_SECONDS))
    return device


def leave(*, together: bool) -> None:
    """Part from the other processes; together: all of them have come to their end."""
    if dist.is_available() and dist.is_initialized():
        if together:
            dist.barrier()  # one that ends while another still talks to it would abort that one
        dist.destroy_process_group()


def from_first(value: T) -> T:
    """The value that the first process has, in all of them."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def any_of(flag: bool) -> bool:
    """Whether the flag is set in one of the processes."""
    if size() == 1:
        return flag
    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags.item())


def add_up(tensor: Tensor) -> Tensor:
    """Sum a tensor over the processes, in place."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    if size() > 1:
        dist.barrier()


@contextmanager
def first_alone() -> Iterator[None]:
    """Let the first process go through first: what it writes the others find."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


# ---- data


class OwnRows:
    """A data set of which this process has every `size`-th row of each micro-batch."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """Those of the data set, with this process's rows."""
        for batch in self.data.micro_batches(step):
            yield own_rows(batch)


def own_rows(batch: Batch) -> Batch:
    """This process's rows of a batch; where there are too few, a row without targets.

    `num_real_tokens` stays that of the whole batch.
    """
    if size() == 1:
        return batch
    here = rank()
    if here < len(batch.tokens):
        shared = batch.map(lambda tensor: tensor[here :: size()])
        return replace(shared, document_refs=batch.document_refs[here :: size()])
    shared = batch.map(lambda tensor: tensor[:1])
    return replace(
        shared,
        targets=torch.full_like(shared.targets, IGNORED),
        weights=torch.zeros_like(shared.weights),
        document_refs=(),
    )


# ---- weights and gradients


def shard(model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Shard a model over the processes, each of its blocks apart.

    dtype: in which the weights of the blocks are gathered.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (size(),))
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    blocks: Any = model.blocks
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    model.gathered_dtype = dtype  # type: ignore[assignment]
    for module in model.modules():
        if isinstance(module, FSDPModule):  # sums, which gloo can do, and no means
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def product_dtype(model: torch.nn.Module, dtype: torch.dtype) -> torch.dtype:
    """The type asked for, or that in which the weights of a sharded model are gathered: one it was
    not gathered in cannot be had."""
    gathered: torch.dtype = getattr(model, "gathered_dtype", dtype)
    return gathered


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is one of those of a sharded model."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """What of a tensor is here: its own rows where it is sharded, all of it elsewhere."""
    if is_sharded(tensor):
        here: Tensor = tensor.to_local()  # type: ignore[attr-defined]
        return here
    return tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. All processes call this together."""
    if is_sharded(tensor):
        full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
        return full
    return tensor


def like(full: Tensor, tensor: Tensor) -> Tensor:
    """A tensor that every process has, sharded as another is."""
    if not is_sharded(tensor):
        return full.to(tensor.device)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    return distribute_tensor(full.to(tensor.device), mesh, placements, src_data_rank=None)


def own_part(full: Tensor, tensor: Tensor) -> Tensor:
    """The rows of `full` that another, sharded or not, has here."""
    return local(like(full, tensor))


def load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy whole tensors by name into a model that may be sharded; others stay as they are."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(like(weights[name], parameter))


def shard_again(model: torch.nn.Module) -> None:
    """After a forward pass without a backward one: let go of what was gathered for it."""
    if hasattr(model, "reshard"):
        model.reshard()  # type: ignore[operator]


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Sum gradients over processes that each hold the whole model, in place."""
    if size() == 1 or any(is_sharded(parameter) for parameter in parameters):
        return
    buckets: list[list[Tensor]] = [[]]
    filled = 0
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if filled and filled + parameter.numel() > BUCKET_ELEMENTS:
            buckets.append([])
            filled = 0
        buckets[-1].append(parameter.grad)
        filled += parameter.numel()
    under_way = []
    for gradients in buckets:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        under_way.append((dist.all_reduce(flat, async_op=True), flat, gradients))
    for work, flat, gradients in under_way:
        assert work is not None
        work.wait()
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]
        )

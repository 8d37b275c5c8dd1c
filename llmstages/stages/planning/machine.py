"""The machine that is planned with: what it holds, and how a model is cut up so that it fits."""

from dataclasses import dataclass

import torch

from llmstages.config.stages import PlanConfig
from llmstages.errors import UserError
from llmstages.model.transformer import TransformerConfig
from llmstages.stages.shared.model_size import memory_bytes
from llmstages.stages.shared.setup import Machine, choose_machine, default_micro_batch_tokens
from llmstages.train.gpus import GPUS, Gpu, find_gpu
from llmstages.train.memory import (
    MAX_MICRO_BATCH_TOKENS,
    USABLE_SHARE,
    MemoryNeeded,
    MicroBatch,
    fit_micro_batch,
    memory_needed,
    sharded,
)


@dataclass(frozen=True)
class Target:
    """One GPU, or this machine."""

    name: str
    kind: str
    """Of torch's devices."""
    dtype: torch.dtype
    """Of the matrix products."""
    memory_bytes: int
    gpu: Gpu | None
    """Its data sheet."""
    here: Machine | None
    """This machine, where it is this one."""

    @property
    def room_bytes(self) -> float:
        """Memory that is planned with."""
        return USABLE_SHARE * self.memory_bytes


@dataclass(frozen=True)
class Fit:
    """How a model is trained on a number of devices."""

    parallel: str
    """`one`, `ddp` or `fsdp`."""
    micro_batch: MicroBatch
    """Of each process."""
    memory: MemoryNeeded
    """Of each process."""
    fits: bool


def planned_target(config: PlanConfig) -> Target:
    """The GPU that `gpu=` names, or this machine."""
    if config.gpu is not None:
        gpu = find_gpu(config.gpu)
        if gpu is None:
            names = ", ".join(gpu.name for gpu in GPUS)
            raise UserError(f"gpu={config.gpu} is unknown: choose one of {names}")
        return target_of(gpu, config)
    machine = choose_machine(config)
    kind, name, gpu = machine.device.type, "this machine", None
    if kind == "cuda":
        name = torch.cuda.get_device_name(machine.device)
        gpu = find_gpu(name)
    return Target(name, kind, machine.dtype, memory_bytes(machine.device), gpu, machine)


def target_of(gpu: Gpu, config: PlanConfig) -> Target:
    """A GPU of the data sheets, and the type that a run would take on it."""
    has_bfloat16 = gpu.bfloat16_flops is not None
    if config.dtype == "float32" or (config.dtype == "auto" and not has_bfloat16):
        dtype = torch.float32
    elif has_bfloat16:
        dtype = torch.bfloat16
    else:
        raise UserError(f"dtype=bfloat16: {gpu.name} has no matrix products in it")
    return Target(gpu.name, "cuda", dtype, gpu.memory_bytes, gpu, None)


def fit_model(
    config: PlanConfig,
    shape: TransformerConfig,
    target: Target,
    *,
    length: int,
    rows_per_step: int,
    gpus: int,
) -> Fit:
    """How rows of `length` tokens are trained on so many devices, whole where that fits.

    The estimate is that of training; on a GPU the largest power of two of rows is taken that fits.
    Where nothing does, it is the least that is possible.
    """
    processes = min(gpus, rows_per_step)
    ways = {"auto": ("ddp", "fsdp")}.get(config.parallel, (config.parallel,))
    own_rows = -(-rows_per_step // processes)

    def needed(micro_batch: MicroBatch, way: str) -> MemoryNeeded:
        found = memory_needed(
            shape,
            rows=micro_batch.rows,
            length=length,
            dtype=target.dtype,
            checkpoint_blocks=micro_batch.checkpoint_blocks,
            optimizer=config.optim.name,
            device=target.kind,
        )
        return sharded(found, shape, target.dtype, processes) if way == "fsdp" else found

    def least(way: str) -> MicroBatch:
        setting = config.activation_checkpointing
        if target.kind == "cuda":
            return MicroBatch(1, setting != "off")
        tokens = config.micro_batch_tokens or default_micro_batch_tokens(torch.device(target.kind))
        return MicroBatch(min(own_rows, max(1, tokens // length)), setting == "on")

    for way in ways if processes > 1 else ("one",):

        def fits(micro_batch: MicroBatch, way: str = way) -> bool:
            return needed(micro_batch, way).total <= target.room_bytes

        micro_batch = least(way)
        if target.kind == "cuda":
            most = (config.micro_batch_tokens or MAX_MICRO_BATCH_TOKENS) // length
            try:
                micro_batch = fit_micro_batch(fits, most, config.activation_checkpointing)
            except UserError:
                continue
            micro_batch = MicroBatch(min(own_rows, micro_batch.rows), micro_batch.checkpoint_blocks)
        if fits(micro_batch):
            return Fit(way, micro_batch, needed(micro_batch, way), True)
    way = ways[-1] if processes > 1 else "one"
    return Fit(way, least(way), needed(least(way), way), False)

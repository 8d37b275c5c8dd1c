"""The device a run uses, the types it computes in, and what the device could do at best."""

import ctypes
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from llmstages.errors import UserError
from llmstages.train import parallel
from llmstages.train.gpus import find_gpu


def choose_device(name: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `mps`. Raises `UserError` when it is not there."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, there in found.items() if there), "cpu")
    if not found.get(name, True):
        raise UserError(f"device={name}: this machine has none that torch can use; try device=cpu")
    return torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bf16 matrix products are faster than float32 ones.

    On a CPU they are where it has instructions for them (AVX512-BF16, AMX); without these, bf16 is
    emulated and slower.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch._C._has_mkldnn) and cpu_has_bfloat16()
    return False


def cpu_has_bfloat16() -> bool:
    """Whether the processor lists bf16 instructions."""
    return not processor_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def processor_flags() -> set[str]:
    """Instruction sets as the system lists them; none where it does not."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return set()
    return set(flags.split())


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Autocast type of matrix products called `auto`, `float32` or `bfloat16`."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def works_apart(device: torch.device) -> bool:
    """Whether the host goes on while the device computes, and waits only where it reads."""
    return device.type == "cuda"


def attention_backends(device: torch.device) -> list[SDPBackend]:
    """Kernels of `scaled_dot_product_attention` to try, first come first; empty: torch's choice.

    cuDNN's is the fastest on Hopper (compute capability 9; between 1.7 and 2.3 times FlashAttention
    2 for training in huggingface/transformers#48163), FlashAttention 2 is as fast or faster on the
    other devices measured there. A kernel that cannot do a shape or a mask is passed over.
    """
    if device.type != "cuda":
        return []
    flash_first = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    if torch.cuda.get_device_capability(device)[0] == 9:
        flash_first.reverse()
    return [*flash_first, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@contextmanager
def training_kernels(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """The fastest kernels that training may use; on other devices than cuda nothing is changed.

    With a bf16 run the few products left in float32 may use TF32, which has more digits than bf16.
    """
    with ExitStack() as stack:
        if backends := attention_backends(device):
            stack.enter_context(sdpa_kernel(backends, set_priority=True))
        if device.type == "cuda" and dtype == torch.bfloat16:
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("high")
        yield


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU let the C library reuse large blocks instead of returning each to the system.

    Activations of a step are as large as those of the step before; giving their pages back and
    faulting them in again cost a nano model a third of its time on a CPU (docs/architecture.md).
    Only glibc has these switches; elsewhere nothing is done.
    """
    if device.type != "cpu":
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def has_compiler() -> bool:
    """Whether there is the C++ compiler that `torch.compile` needs."""
    wanted = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([wanted] if wanted else ["g++", "clang++", "c++"]))


def peak_flops(device: torch.device) -> float | None:
    """Data-sheet bf16 FLOP/s, None for a device that is not in the table."""
    if device.type != "cuda":
        return None
    gpu = find_gpu(torch.cuda.get_device_name(device))
    return None if gpu is None else gpu.bfloat16_flops


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: of the device on cuda, else resident memory of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What exactness depends on, kept with the run: versions, threads, device, kernels."""
    attention = [backend.name for backend in attention_backends(device)]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": parallel.size(),
        **({"attention": attention} if attention else {}),
    }


def hardware_facts(device: torch.device) -> dict[str, Any]:
    """What a measured speed depends on, beside `machine_facts`: processor, cores, memory."""
    facts: dict[str, Any] = {
        "processor_name": processor_name(),
        "cores": os.cpu_count(),
        "system": platform.system(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device_memory_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    return facts


def processor_name() -> str:
    """The processor's model as the system calls it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        lines = []
    return lines[0] if lines else platform.processor() or platform.machine()


# Rows, inputs and outputs of the products tried; the fastest one is the ceiling.
CEILING_SHAPES = {
    "cuda": ((8192, 8192, 8192), (16_384, 4096, 4096), (16_384, 2048, 8192), (4096, 4096, 4096)),
    "cpu": ((4096, 1024, 1024), (2048, 2048, 2048), (1024, 1024, 1024), (4096, 512, 2048)),
}


def measured_peak_flops(
    device: torch.device, dtype: torch.dtype, seconds: float = 3.0
) -> tuple[float, tuple[int, int, int]]:
    """FLOP/s of the fastest matrix product seen on this device, and its rows, inputs and outputs.

    Random values, as zeros draw less power and run faster; weights as a linear layer holds them,
    [outputs, inputs]. seconds: for all shapes together, after a warm-up of each.
    """
    shapes = CEILING_SHAPES.get(device.type, CEILING_SHAPES["cpu"])
    best, best_shape = 0.0, shapes[0]
    for shape in shapes:
        rows, inputs, outputs = shape
        x = torch.randn(rows, inputs, device=device).to(dtype)
        weight = torch.randn(outputs, inputs, device=device).to(dtype)
        speed = product_flops(x, weight, seconds / len(shapes))
        if speed > best:
            best, best_shape = speed, shape
    return best, best_shape


def product_flops(x: torch.Tensor, weight: torch.Tensor, seconds: float) -> float:
    """FLOP/s of x [rows, inputs] times weight [outputs, inputs]: the fastest of some batches."""
    flops = 2.0 * x.shape[0] * x.shape[1] * weight.shape[0]
    repeats, best = 1, 0.0
    began = time.monotonic()
    with torch.inference_mode():
        while best == 0.0 or time.monotonic() - began < seconds:
            wait_for(x.device)
            begin = time.perf_counter()
            for _ in range(repeats):
                torch.nn.functional.linear(x, weight)
            wait_for(x.device)
            took = time.perf_counter() - begin
            if took < 0.02:  # too short for the clock, and for a device that is told ahead
                repeats *= 2
                continue
            best = max(best, repeats * flops / took)
    return best


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

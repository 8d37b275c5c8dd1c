"""What GPUs could do at best, hold and draw, as their makers' data sheets say.

Speeds are dense: data sheets often give twice as much, for matrices half of whose entries are zero.
For bf16 it is the speed with sums in float32, which training uses.
"""

import re
from dataclasses import dataclass
from itertools import combinations

import torch

ASSUMED_UTILISATION = 0.4
"""Share of the peak that training is taken to reach where nothing was measured: 0.46 in PaLM
(Chowdhery et al. 2022), 0.38 to 0.43 in Llama 3 on 16,384 H100s (Grattafiori et al. 2024)."""


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    """Words of what torch calls it."""
    bfloat16_flops: float | None
    """Peak FLOP/s of dense matrix products; None: it has none in bf16."""
    float32_flops: float
    """The same in float32, without TF32."""
    memory_bytes: int
    watts: float
    """Most that the board draws."""
    source: str

    def peak_flops(self, dtype: torch.dtype) -> float:
        """FLOP/s in a type; in float32 where it has no bf16."""
        if dtype == torch.bfloat16 and self.bfloat16_flops is not None:
            return self.bfloat16_flops
        return self.float32_flops


WORD = re.compile(r"[a-z0-9]+")
GB = 2**30
"""What a data sheet's GB of GPU memory is."""
GPUS = (
    Gpu("V100", None, 15.7e12, 32 * GB, 300, "NVIDIA V100 data sheet, SXM2 (2020)"),
    Gpu("T4", None, 8.1e12, 16 * GB, 70, "NVIDIA T4 data sheet (2019)"),
    Gpu("A100", 312e12, 19.5e12, 80 * GB, 400, "NVIDIA A100 data sheet, 80 GB SXM (2021)"),
    Gpu("A10", 125e12, 31.2e12, 24 * GB, 150, "NVIDIA A10 data sheet (2021)"),
    Gpu("RTX 3090", 71e12, 35.6e12, 24 * GB, 350, "NVIDIA Ampere GA102 white paper"),
    Gpu("RTX 4090", 165.2e12, 82.6e12, 24 * GB, 450, "NVIDIA Ada white paper"),
    Gpu("RTX 5090", 209.5e12, 104.8e12, 32 * GB, 575, "NVIDIA RTX Blackwell white paper"),
    Gpu("RTX 6000 Ada", 364.2e12, 91.1e12, 48 * GB, 300, "NVIDIA RTX 6000 Ada data sheet"),
    Gpu("L4", 121e12, 30.3e12, 24 * GB, 72, "NVIDIA L4 data sheet"),
    Gpu("L40", 181e12, 90.5e12, 48 * GB, 300, "NVIDIA L40 data sheet"),
    Gpu("L40S", 362e12, 91.6e12, 48 * GB, 350, "NVIDIA L40S data sheet"),
    Gpu("H100 PCIe", 756e12, 51e12, 80 * GB, 350, "NVIDIA H100 data sheet, PCIe"),
    Gpu("H100", 989e12, 67e12, 80 * GB, 700, "NVIDIA H100 data sheet, SXM"),
    Gpu("H200", 989e12, 67e12, 141 * GB, 700, "NVIDIA H200 data sheet, SXM"),
)
OTHER_MODELS = {"laptop", "ti", "super", "d", "nvl", "mig"}
"""Words that make another GPU of a name, or a part of one."""


def find_gpu(name: str) -> Gpu | None:
    """The GPU that torch or a user calls so: of those whose words are in it, the longest name.

    Whole words, written together or apart: `rtx4090`, `RTX-4090`; an `A10G` is no A10.
    """
    words = WORD.findall(name.lower())
    if OTHER_MODELS.intersection(words):
        return None
    written = {"".join(words[i:j]) for i, j in combinations(range(len(words) + 1), 2)}
    return max(
        (gpu for gpu in GPUS if "".join(WORD.findall(gpu.name.lower())) in written),
        key=lambda gpu: len(gpu.name),
        default=None,
    )

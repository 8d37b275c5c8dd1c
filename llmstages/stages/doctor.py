"""`llmstages doctor`: what this machine has, what is fast on it, and what is missing."""

import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from llmstages import __version__
from llmstages.config.uses import DoctorConfig
from llmstages.report.facts import show_facts, show_line
from llmstages.report.terminal import table

NOT_SHOWN = {"all", "dev"}
"""Extras that have those of others, and what tests alone need."""


@dataclass(frozen=True)
class Needed:
    """A package that an extra asks for."""

    extra: str
    requirement: Requirement
    found: str | None
    """Its version here; None where it is not installed."""

    @property
    def wanted(self) -> str:
        """Which versions will do."""
        return str(self.requirement.specifier) or "any"

    @property
    def is_there(self) -> bool:
        """Whether it is installed, and new enough."""
        return self.found is not None and self.requirement.specifier.contains(
            self.found, prereleases=True
        )


def run(config: DoctorConfig) -> None:
    """Print it all to standard output."""
    show_facts(f"llmstages {__version__}", machine())
    found = needed_by_extras(requires("llmstages") or []) if is_installed("llmstages") else []
    extras: dict[str, dict[str, str]] = {}
    for item in found:
        said = item.found if item.is_there else f"{item.found or 'MISSING'} ({item.wanted} wanted)"
        extras.setdefault(item.extra, {})[item.requirement.name] = f"{item.requirement.name} {said}"
    rows = [(extra, ", ".join(packages.values())) for extra, packages in extras.items()]
    if rows:
        table("", ("extra", "packages"), rows, to_output=True)
    else:
        show_line("llmstages is not installed, so its extras are not known: pip install .")
    for line in remedies(found):
        show_line(line)


def is_installed(name: str) -> bool:
    """Whether a package has been installed."""
    return installed_version(name) is not None


def installed_version(name: str) -> str | None:
    """Version of a package; nothing is imported for it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def needed_by_extras(requirements: Iterable[str]) -> list[Needed]:
    """What the extras for users ask for, by extra, of a package's requirements."""
    found = []
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or requirement.name == "llmstages":
            continue
        extra = str(marker).partition("extra == ")[2].strip("\"'() ")
        if extra and extra not in NOT_SHOWN:
            found += [
                Needed(extra, part, installed_version(part.name)) for part in expanded(requirement)
            ]
    return found


def expanded(requirement: Requirement) -> Iterator[Requirement]:
    """A requirement, and what its package needs for the extras that it names."""
    yield requirement
    if not requirement.extras or not is_installed(requirement.name):
        return
    for part in map(Requirement, requires(requirement.name) or []):
        marker = part.marker
        if marker is not None and not marker.evaluate({"extra": ""}):
            if any(marker.evaluate({"extra": extra}) for extra in requirement.extras):
                yield part


def remedies(found: Iterable[Needed]) -> list[str]:
    """The command that installs what is missing, for each extra that is not whole."""
    missing: dict[str, dict[str, None]] = {}
    for item in found:
        if not item.is_there:
            missing.setdefault(item.extra, {})[item.requirement.name] = None
    return [
        f"pip install 'llmstages[{extra}]'  brings {', '.join(names)}"
        for extra, names in missing.items()
    ]


def machine() -> dict[str, object]:
    """Python, PyTorch, the device, and what is fast on it."""
    import torch

    from llmstages.train.device import (
        attention_backends,
        choose_device,
        has_compiler,
        has_fast_bfloat16,
        processor_flags,
        processor_name,
    )

    device = choose_device("auto")
    flags = processor_flags()
    sets = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
    facts: dict[str, object] = {
        "python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "torch": torch.__version__,
        "device": device.type,
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": ", ".join(name for name in sets if name in flags),
        "torch's kernels for": torch.backends.cpu.get_cpu_capability(),
        "fast bfloat16": yes(has_fast_bfloat16(device)),
        "torch.compile": yes(has_compiler() or device.type != "cpu", "no: it needs a C++ compiler"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": f"cuda, {properties.name}, {torch.cuda.device_count()} of them",
            "device memory, GB": round(properties.total_memory / 1e9, 1),
            "attention, in this order": ", ".join(b.name for b in attention_backends(device)),
        }
    else:
        facts["FlashAttention"] = "no: it is for CUDA"
    return facts


def yes(found: bool, otherwise: str = "no") -> str:
    """In a word."""
    return "yes" if found else otherwise

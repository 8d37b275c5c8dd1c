"""Figures and amounts as a page says them."""

from llmstages.evaluate.classification import (
    FIGURES,
    SCOPE_FIGURES,
)
from llmstages.evaluate.multi_label import MULTI_LABEL_FIGURES
from llmstages.report.answers import LABELS as ANSWER_FIGURES
from llmstages.report.curves import LABELS as CURVE_FIGURES
from llmstages.report.html.records import (
    RunRecord,
)

STAGES = {
    "pretrain": "pre-training",
    "finetune-instruct": "instruction tuning",
    "finetune-classify": "classification",
}
NATS = {"pretrain": "loss, nats a token", "finetune-classify": "loss, nats a text"}
"""What `val_loss` is, of other stages than instruction tuning."""


def figure_name(name: str, stage: str) -> str:
    """What a metric is called; `name/<source>` by both."""
    name, _, source = name.partition("/")
    if name == "val_loss" and stage in NATS:
        called = f"validation {NATS[stage]}"
    elif stage == "finetune-instruct" and name in ANSWER_FIGURES:
        called = ANSWER_FIGURES[name]
    else:
        names = MULTI_LABEL_FIGURES | CURVE_FIGURES | SCOPE_FIGURES | FIGURES
        called = names.get(name) or name.replace("val_", "validation ").replace("_", " ")
    return f"{called}: {source}" if source else called


def duration(seconds: float | None) -> str:
    """`12.3 s`, `4 min 5 s`, `3 h 20 min`; empty where it is not known."""
    if seconds is None or seconds < 0:
        return ""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def size_text(num_bytes: float) -> str:
    """`12.8 MB`."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(num_bytes) >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} bytes"


def memory(run: RunRecord) -> str:
    """The most that was taken, `1.2 GiB`; empty where it is not known."""
    return f"{run.peak_memory_bytes / 2**30:.3g} GiB" if run.peak_memory_bytes else ""


def short_count(count: float) -> str:
    """A whole number."""
    return f"{count:,.0f}"


def count(number: float | None) -> str:
    """The same, empty where it is not known."""
    return "" if number is None else short_count(number)


def counted(number: int, noun: str) -> str:
    """`2 sources`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def figure(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"


def percent(part: float, whole: float) -> float | None:
    """The share in per cent; None of nothing."""
    return 100 * part / whole if whole else None


def steps_text(run: RunRecord) -> str:
    """Steps done, of an unfinished run beside those planned."""
    if run.steps is None:
        return ""
    if not run.is_finished and run.planned_steps:
        return f"{run.steps:,} of {run.planned_steps:,}"
    return f"{run.steps:,}"


def known(*facts: tuple[str, str]) -> list[tuple[str, str]]:
    """Those facts that have a value."""
    return [(name, value) for name, value in facts if value]

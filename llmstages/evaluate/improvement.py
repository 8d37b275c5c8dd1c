"""How much better each figure of a run has become."""

from collections.abc import Mapping
from typing import Any

LOWER_IS_BETTER = frozenset(
    {
        *("val_loss", "perplexity", "base_bits_per_byte", "answer_bits_per_byte", "bits_per_byte"),
        *("log_loss", "ece", "hamming_loss"),
    }
)


def improvement_percent(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, float | None]:
    """By figure that is in both: the change for the better, in % of what it was; below 0: worse.

    None where it was 0: nothing is a share of that.
    """
    changes: dict[str, float | None] = {}
    for name, value in after.items():
        if name in before and isinstance(value, float):
            change = value - before[name]
            better = -change if name in LOWER_IS_BETTER else change
            changes[name] = 100 * better / abs(before[name]) if before[name] else None
    return changes

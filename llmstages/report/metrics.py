"""`metrics.jsonl` of a run as curves over optimizer steps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmstages.data.json_files import as_type, parse_json
from llmstages.report.smoothing import Values

LARGEST_FIGURE = 1e300
"""What is larger, or not a number, cannot be drawn."""


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a metrics file, none where there is no file; torn lines are passed over."""
    if not path.is_file():
        return []
    entries = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = parse_json(line)
                as_type(int, entry["step"], "step")
            except (KeyError, TypeError, ValueError):
                continue  # the process was killed while it wrote
            entries.append(entry)
    return entries


def scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an entry that can be drawn: all finite numbers but the step.

    Of an evaluation what it measured: when it was made is known from the steps around it.
    """
    return {
        name: float(value)
        for name, value in entry.items()
        if name != "step"
        and (name.startswith("val_") or "event" not in entry)
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < LARGEST_FIGURE
    }


@dataclass(frozen=True)
class Curve:
    """One metric: `values` [n] at optimizer steps `steps` [n], in the order of the steps."""

    steps: Values
    values: Values

    def at(self, steps: Values) -> Values:
        """Values at other steps, linearly between the known ones."""
        found: Values = np.interp(steps, self.steps, self.values)
        return found


@dataclass(frozen=True)
class Curves:
    """All metrics of a run by name: what each step recorded, and what evaluations measured."""

    training: dict[str, Curve]
    validation: dict[str, Curve]

    @classmethod
    def of(cls, entries: Iterable[Mapping[str, Any]]) -> "Curves":
        """Curves of the entries of a metrics file; of two values at one step the later counts."""
        found: tuple[dict[str, dict[int, float]], ...] = ({}, {})
        for entry in entries:
            kind = found["event" in entry]
            for name, value in scalars(entry).items():
                kind.setdefault(name, {})[entry["step"]] = value
        training, validation = (
            {name: _curve(values) for name, values in kind.items()} for kind in found
        )
        return cls(training, validation)


def _curve(values: Mapping[int, float]) -> Curve:
    steps = sorted(values)
    return Curve(np.array(steps, dtype=np.float64), np.array([values[step] for step in steps]))

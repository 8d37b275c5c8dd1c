"""Checks of settings: each gives the problems it finds, so that all of them are said at once."""

from collections.abc import Sequence
from difflib import get_close_matches

from llmstages.errors import UserError


def refuse(problems: list[str]) -> None:
    """Raise one `UserError` that lists every problem; do nothing when there is none."""
    if problems:
        raise UserError("; ".join(problems))


def choice_problem(key: str, value: str, choices: tuple[str, ...]) -> list[str]:
    """A problem (in a list, for adding up) when `value` is none of `choices`."""
    if value in choices:
        return []
    switch = {"True": "on", "False": "off"}.get(value)
    if switch in choices:
        return [f"{key}: YAML reads a bare {switch} as {value.lower()}: write '{switch}' in quotes"]
    near = get_close_matches(value, choices, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(choices)}"
    return [f"{key}={value} is unknown: {hint}"]


def range_problem(
    key: str, value: float | None, low: float, high: float = float("inf")
) -> list[str]:
    """A problem (in a list) when `value` is given and lies outside `low`..`high`, both included,
    or is infinite, or a whole number of more than 64 bits."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return [f"{key} is a number of {value.bit_length()} bits: at most 63 are heeded"]
    if value is None or (low <= value <= high and value != float("inf")):
        return []
    bounds = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
    return [f"{key}={value:g} must be {bounds}"]


def choices_problem(key: str, values: Sequence[object], choices: tuple[str, ...]) -> list[str]:
    """Problems when a value is none of `choices`, or is there twice."""
    listed = [str(value) for value in values]
    if len(set(listed)) < len(listed):
        return [f"{key} names the same twice: {', '.join(listed)}"]
    return [line for value in listed for line in choice_problem(key, value, choices)]


def columns_problem(key: str, value: object) -> list[str]:
    """A problem (in a list) when `value` is neither the name of a column nor a list of names."""
    listed = value if isinstance(value, list) else [value]
    numbers_or_names = all(isinstance(name, (str, int)) for name in listed)
    if value is None or (listed and numbers_or_names and len(set(listed)) == len(listed)):
        return []
    return [f"{key} is a column, or a list of different columns, as [a,b]"]

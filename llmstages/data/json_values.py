"""JSON and YAML of any version, whole or damaged: what is asked for, or nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2**26
"""Of a file that is read whole."""
MAX_LINES = 20_000
"""Of a file of JSON Lines."""
MAX_LINE_CHARACTERS = 2**20
# libyaml's, where PyYAML was built with it: ten times as fast.
_YAML_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST_NUMBER = 1e300
"""What is larger cannot be drawn, and is no figure of a run."""


def read_json(path: Path) -> Any:
    """A JSON value; None where the file is missing, too large or broken.

    Numbers that are not finite are None, as is what they would say.
    """
    try:
        return None if path.stat().st_size > MAX_BYTES else _parsed(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_json_lines(path: Path) -> Iterator[Any]:
    """The values in the first lines of a file; lines that are broken or torn are passed over."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for _ in range(MAX_LINES):
                line = file.readline(MAX_LINE_CHARACTERS)
                if not line:
                    return
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):
                    continue
    except OSError:
        return


def read_yaml(path: Path) -> Any:
    """A YAML value; None where the file is missing, too large or broken."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        return yaml.load(path.read_text("utf-8"), Loader=_YAML_LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def _parsed(text: str) -> Any:
    return json.loads(text, parse_float=_finite, parse_constant=_finite)


def _finite(text: str) -> float | None:
    number = float(text.removeprefix("+"))
    return number if abs(number) < LARGEST_NUMBER else None


def at(value: object, *keys: str) -> Any:
    """What stands under keys, one inside the other; None where one is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def object_at(value: object, *keys: str) -> dict[str, Any]:
    """An object under keys; an empty one where there is none."""
    found = at(value, *keys)
    return found if isinstance(found, dict) else {}


def number_at(value: object, *keys: str) -> float | None:
    """A finite number under keys."""
    found = at(value, *keys)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    return found if abs(found) < LARGEST_NUMBER else None


def whole_at(value: object, *keys: str) -> int | None:
    """A whole number under keys."""
    found = number_at(value, *keys)
    return found if isinstance(found, int) else None


def text_at(value: object, *keys: str) -> str | None:
    """A text under keys; an empty one counts as none."""
    found = at(value, *keys)
    return found if isinstance(found, str) and found else None


def numbers_at(value: object, *keys: str) -> dict[str, float]:
    """The finite numbers directly under keys, by name."""
    found = object_at(value, *keys)
    numbers = {str(name): number_at(found, name) for name in found}
    return {name: number for name, number in numbers.items() if number is not None}


def texts_at(value: object, *keys: str) -> list[str]:
    """A text under keys, or the texts of a list."""
    found = at(value, *keys)
    listed = found if isinstance(found, list) else [found]
    return [text for text in listed if isinstance(text, str) and text]

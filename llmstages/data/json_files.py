"""JSON records of our own as dataclasses: what is not as declared is a `ValueError` that names it.

Files that users bring may hold any JSON: broken, nested a thousand deep, with numbers of ten
thousand digits, or with a list where an object belongs.
"""

import json
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

LARGEST_INTEGER = 2**63


def parse_json(text: str) -> Any:
    """A JSON value. Raises `ValueError`, whatever is wrong with the text."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `OSError` or `ValueError`."""
    value = parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("a JSON object is expected")
    return value


def as_dataclass(cls: type[T], value: object, place: str = "") -> T:
    """An instance of a dataclass made of a parsed JSON object, dataclasses inside it included.

    Raises `ValueError` naming the first key that is missing, unknown or of another type; `place`
    is where the object stands in the file.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{place or 'it'} is no object")
    hints = _hints(cast(type, cls))
    if unknown := value.keys() - hints.keys():
        raise ValueError(f"unknown key {place}{sorted(unknown)[0]}")
    for field in fields(cls):  # type: ignore[arg-type]
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in value:
            raise ValueError(f"no key {place}{field.name}")
    return cls(
        **{name: as_type(hints[name], part, f"{place}{name}") for name, part in value.items()}
    )


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)  # slow, and asked for by each of a manifest's inputs


def as_type(kind: Any, value: object, place: str) -> Any:
    """`value` where it is of a declared type; raises `ValueError` where it is not."""
    origin, inside = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if isinstance(kind, UnionType):
        if value is None and NoneType in inside:
            return None
        return as_type(next(part for part in inside if part is not NoneType), value, place)
    if isinstance(kind, type) and is_dataclass(kind):
        return as_dataclass(kind, value, f"{place}.")
    if origin is list and isinstance(value, list):
        return [as_type(inside[0], part, f"{place}[{i}]") for i, part in enumerate(value)]
    if origin is tuple and isinstance(value, list):
        return tuple(as_type(inside[0], part, f"{place}[{i}]") for i, part in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: as_type(inside[1], part, f"{place}.{key}") for key, part in value.items()}
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and kind in (int, float):
        if isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
            raise ValueError(f"{place} is too large")
        if kind is float or isinstance(value, int):
            return value
    elif origin is None and kind not in (int, float) and isinstance(value, kind):
        return value
    raise ValueError(f"{place} is of the wrong type ({type(value).__name__})")

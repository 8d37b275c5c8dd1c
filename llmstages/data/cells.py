"""What a cell of a row holds: text, or a list of parts; anything else makes the row a bad one."""

import math
from collections.abc import Mapping
from typing import Any

from llmstages.data.json_files import parse_json
from llmstages.data.rows import Unusable, fault_of


def as_text(value: object, name: str) -> str:
    """A cell as text; numbers are written out, whole ones without decimals."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unusable(f"{name!r} is no text but {kind_of(value)}")
    return number_text(value, name)


def number_text(value: int | float, name: str) -> str:
    """A number as text; one that is missing, as Parquet writes it, is no cell."""
    if isinstance(value, float) and not math.isfinite(value):
        raise Unusable(f"no {name!r}")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def required_text(values: Mapping[str, Any], name: str) -> str:
    """The text of a cell that must be there."""
    if values.get(name) is None:
        raise Unusable(f"no {name!r}")
    return as_text(values[name], name)


def optional_text(values: Mapping[str, Any], name: str) -> str:
    """The text of a cell; a missing one is empty."""
    value = values.get(name)
    return "" if value is None else as_text(value, name)


def as_list(value: object, name: str, what: str) -> list[Any]:
    """A list, or a string that holds one as JSON, as in delimited files."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            raise Unusable(f"{name!r} is no JSON list of {what}") from None
        if (fault := fault_of(value)) is not None:
            raise Unusable(f"{name!r} holds {fault}")
    if not isinstance(value, list):
        raise Unusable(f"{name!r} is no list of {what}")
    return value


def kind_of(value: object) -> str:
    """What a value is, for messages."""
    kinds = {dict: "an object", list: "a list", bool: "true or false", bytes: "bytes"}
    return kinds.get(type(value), type(value).__name__)

"""Whole numbers as people write them: `steps=1e4` and `budget.tokens=2.5e9` on the command line."""

import re
from decimal import Decimal
from typing import get_args, get_origin

from llmstages.config.schema import find_key
from llmstages.config.words import override_key

# A number with a point or an exponent; digits may be grouped by underscores as in Python.
_FLOAT = re.compile(r"[+-]?\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d{1,2})?")


def whole_numbers(schema: type, override: str) -> str:
    """The override with integral numbers written out where the key takes an int; else unchanged."""
    name = override_key(override)
    key = find_key(schema, name) if name else None
    if key is None or "=" not in override:
        return override
    wanted = get_args(key.type)[0] if get_origin(key.type) is list else key.type
    if wanted is not int:
        return override
    start, _, value = override.partition("=")
    return f"{start}={','.join(_whole(part) for part in value.split(','))}"


def _whole(text: str) -> str:
    if not _FLOAT.fullmatch(text):
        return text
    number = Decimal(text.replace("_", ""))
    return str(int(number)) if number == number.to_integral_value() else text

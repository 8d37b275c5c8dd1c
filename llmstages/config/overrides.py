"""Overrides as people write them, turned into what Hydra accepts for the same thing.

`experiment=NAME` chooses among the subcommand's own experiments, `steps=1e4` is a whole number,
`require=macro_f1>=0.9` a text, and `+corpus.sources.wiki.weight=0.1` adds an entry to a dict.
"""

import re
from decimal import Decimal
from typing import Any, get_args, get_origin

from llmstages.config.schema import find_key
from llmstages.config.subcommands import SUBCOMMANDS
from llmstages.config.words import experiments_of, override_key, quote

LENGTHS = (
    *("steps", "epochs", "budget.seconds", "budget.minutes", "budget.tokens", "budget.flops"),
    "budget.cost",
)
"""By which the length of a run is given, one at most."""

# A number with a point or an exponent; digits may be grouped by underscores as in Python.
_FLOAT = re.compile(r"[+-]?\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d{1,2})?")

# Whatever YAML would take for a number.
_NUMBER = re.compile(r"[+-]?\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?")


def for_hydra(subcommand: str, override: str) -> str:
    """The override in the form Hydra needs; most come back as they are."""
    key = override_key(override)
    if key == "experiment":
        # Adding, overriding and forcing are one thing here: the group is in every defaults list.
        mark = "~" if override.startswith("~") else ""
        return (
            f"{mark}{experiments_of(subcommand)}{override.lstrip('+~').removeprefix('experiment')}"
        )
    if key is None or "=" not in override:
        return override
    schema = SUBCOMMANDS[subcommand]
    override = _text(schema, key, _whole_numbers(schema, key, override))
    override = _bounds(key, override)
    return _dict_entry(schema, key, override)


def one_length(subcommand: str, overrides: list[str]) -> list[str]:
    """With the other lengths of a run set to null where one is given beside an experiment, which
    may have another: what is typed counts."""
    schema = SUBCOMMANDS[subcommand]
    keys = [override_key(override) for override in overrides]
    typed = [key for key in keys if key in LENGTHS]
    if not typed or not any((key or "").startswith("experiment") for key in keys):
        return overrides
    known = [key for key in LENGTHS if key not in keys and find_key(schema, key) is not None]
    return [*overrides, *(f"{key}=null" for key in known)]


def _whole_numbers(schema: type, dotted: str, override: str) -> str:
    """Integral numbers written out where the key takes an int: `1e4`, also in lists and sweeps."""
    key = find_key(schema, dotted)
    if key is None:
        return override
    wanted = get_args(key.type)[0] if get_origin(key.type) is list else key.type
    if wanted is not int:
        return override
    start, _, value = override.partition("=")
    return f"{start}={','.join(_whole(part) for part in value.split(','))}"


def _text(schema: type, dotted: str, override: str) -> str:
    """A text that looks like a number in quotes: `id=12e345` is hexadecimal, no infinity."""
    key = find_key(schema, dotted)
    start, _, value = override.partition("=")
    if key is None or key.type not in (str, Any) or not _NUMBER.fullmatch(value):
        return override
    return f"{start}={quote(value)}"


def _bounds(dotted: str, override: str) -> str:
    """`require=macro_f1>=0.9,ece<=0.1` as a list of quoted texts: Hydra has no `<`, `>`."""
    start, _, value = override.partition("=")
    if dotted != "require" or not {"<", ">"} & set(value):
        return override
    texts = (part.strip(" '\"") for part in value.strip("[]").split(","))
    return f"{start}=[{','.join(quote(text) for text in texts)}]"


def _whole(text: str) -> str:
    if not _FLOAT.fullmatch(text):
        return text
    number = Decimal(text.replace("_", ""))
    return str(int(number)) if number == number.to_integral_value() else text


def _dict_entry(schema: type, dotted: str, override: str) -> str:
    """`+sources.wiki.weight=1` as `+sources={wiki:{weight:1}}`: OmegaConf types only the latter."""
    if not override.startswith("+"):
        return override
    parts = dotted.split(".")
    for length in range(1, len(parts)):
        above = ".".join(parts[:length])
        key = find_key(schema, above)
        if key is not None and get_origin(key.type) is dict:
            mark = override[: override.index(dotted[0])]
            value = override.partition("=")[2]
            for part in reversed(parts[length:]):
                value = f"{{{part}:{value}}}"
            return f"{mark}{above}={value}"
    return override

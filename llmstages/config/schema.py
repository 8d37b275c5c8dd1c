"""What the schemas say about keys: which exist, of what type, what they mean, which one is nearest.

The dataclasses of `collect_groups.py`, `groups.py` and `stages.py` are the only description of the
configuration. This module reads them, for Hydra (`register_schemas`), for error messages and for
`--help`.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from llmstages.config.subcommands import SUBCOMMANDS
from llmstages.config.words import experiments_of


def register_schema(subcommand: str) -> None:
    """Make a subcommand's schema known to Hydra; doing it again changes nothing.

    One at a time, because Hydra copies everything it knows again and again.
    """
    from hydra.core.config_store import ConfigStore

    # Not the name of the primary file itself: Hydra would match the two by name, which it
    # deprecates. The primary file lists the schema first in its defaults instead.
    ConfigStore.instance().store(
        name=f"{subcommand.replace('-', '_')}_schema",
        node=SUBCOMMANDS[subcommand],
        provider="llmstages",
    )


@dataclass(frozen=True)
class Key:
    """One key of a schema: its type without `None`, and whether null is allowed."""

    type: Any
    optional: bool


def schema_keys(schema: type) -> dict[str, Key]:
    """The keys directly under a dataclass."""
    keys = {}
    hints = _hints(schema)
    for field in fields(schema):
        hint = hints[field.name]
        members = get_args(hint) if get_origin(hint) is UnionType else (hint,)
        kinds = [member for member in members if member is not NoneType]
        keys[field.name] = Key(kinds[0], optional=len(kinds) < len(members))
    return keys


def nested_schema(type_: Any) -> type | None:
    """The dataclass behind a key's type, itself or as the values of a dict; else None."""
    if get_origin(type_) is dict:
        type_ = get_args(type_)[1]
    return type_ if isinstance(type_, type) and is_dataclass(type_) else None


def find_key(schema: type, dotted: str) -> Key | None:
    """The key with this dotted name, or None; any name goes for a dict's entry."""
    current: Any = schema
    key: Key | None = None
    for part in dotted.split("."):
        if get_origin(current) is dict:
            key = Key(get_args(current)[1], optional=False)
        elif get_origin(current) is list and part.isdigit():
            key = Key(get_args(current)[0], optional=False)
        elif isinstance(current, type) and is_dataclass(current):
            key = schema_keys(current).get(part)
        else:
            return None
        if key is None:
            return None
        current = key.type
    return key


def all_keys(schema: type) -> Iterator[str]:
    """Every dotted key of a schema, depth first; entries of dicts are left out."""
    for name, key in schema_keys(schema).items():
        yield name
        if is_dataclass(key.type) and isinstance(key.type, type):
            yield from (f"{name}.{inner}" for inner in all_keys(key.type))


def nearest_key(schema: type, dotted: str) -> str | None:
    """The existing key a mistyped one most likely stands for.

    A name alone that is right but lives elsewhere (`lr` is `optim.lr`), else among the neighbours
    of the first part that is wrong (`model.num_layer`), else by the last part or the whole.
    """
    known = list(all_keys(schema))
    parts = dotted.split(".")
    same_end = [key for key in known if key.split(".")[-1] == parts[-1]]
    if len(parts) == 1 and same_end:
        return same_end[0]
    for length in range(len(parts)):
        parent = ".".join(parts[:length])
        if find_key(schema, ".".join(parts[: length + 1])) is None:
            above = find_key(schema, parent).type if parent else schema  # type: ignore[union-attr]
            inner = nested_schema(above)
            names = list(schema_keys(inner)) if inner is not None else []
            near = get_close_matches(parts[length], names, n=1, cutoff=0.65)
            if near:
                rest = parts[length + 1 :]
                found = ".".join([*parts[:length], near[0]])
                whole = ".".join([found, *rest])
                return whole if find_key(schema, whole) else found
            break
    ends = {key.split(".")[-1]: key for key in reversed(known)}
    near = same_end or get_close_matches(dotted, known, n=1)
    near = near or [ends[end] for end in get_close_matches(parts[-1], ends, n=1)]
    return near[0] if near else None


def no_such_key(subcommand: str, dotted: str) -> str:
    """What to tell a user who typed a key that does not exist."""
    schema = SUBCOMMANDS[subcommand]
    parts = dotted.split(".")
    for length in range(1, len(parts)):
        parent = find_key(schema, ".".join(parts[:length]))
        if parent is not None and get_origin(parent.type) is dict:
            above, entry = ".".join(parts[:length]), parts[length]
            if find_key(schema, dotted) is not None:
                return f"{above} has no entry {entry} here: +{dotted}=... adds it"
    start = f"{subcommand} has no key {dotted}"
    if "/" in dotted or "@" in dotted:
        return f"{start}: for a path with an = sign write ./{dotted}=..., or put it after --"
    if near := nearest_key(schema, dotted):
        return f"{start}: did you mean {near}?"
    return f"{start}: llmstages {subcommand} --help shows its keys; words with an = go after --"


def is_choice_of(subcommand: str, group: str, conf_dir: Path) -> bool:
    """Whether a config group can be chosen for a subcommand; one of the user's own always can."""
    if group.split("/")[0] == "experiment":
        return group == experiments_of(subcommand)
    return group in schema_keys(SUBCOMMANDS[subcommand]) or not (conf_dir / group).is_dir()


def key_docs(schema: type) -> dict[str, str]:
    """The docstring line under each field, by the field's name; inherited fields included."""
    docs: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if is_dataclass(base) and isinstance(base, type):
            docs.update(_own_docs(base))
    return docs


def key_doc(schema: type, dotted: str) -> str | None:
    """What a key with a dotted name means; None for what has no docstring."""
    parent, _, name = dotted.rpartition(".")
    if not parent:
        return key_docs(schema).get(name)
    above = find_key(schema, parent)
    if above is None or not isinstance(above.type, type) or not is_dataclass(above.type):
        return None
    return key_docs(above.type).get(name)


@cache
def _hints(schema: type) -> dict[str, Any]:
    return get_type_hints(schema)


@cache
def _own_docs(schema: type) -> dict[str, str]:
    # Python keeps no docstrings of attributes, so they are read from the source.
    body = ast.parse(inspect.getsource(schema)).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docs[field.target.id] = str(after.value.value)
    return docs

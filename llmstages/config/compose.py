"""From the config Hydra composed to the dataclass a stage receives: OmegaConf goes no further.

Everything that is wrong with the values is said at once, in one `UserError`.
"""

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llmstages.config.checks import refuse
from llmstages.config.schema import nested_schema, no_such_key, schema_keys
from llmstages.config.subcommands import SUBCOMMANDS
from llmstages.config.words import USAGES, usage_line, without_interpolation
from llmstages.config.yaml_files import read_yaml_text
from llmstages.errors import UserError


def to_dataclass(subcommand: str, config: DictConfig) -> Any:
    """The subcommand's config object, every class of it checked; `UserError` lists all problems."""
    schema = SUBCOMMANDS[subcommand]
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    problems = [no_such_key(subcommand, key) for key in _unknown_keys(schema, values)]
    problems += [f"{key} holds a NUL character" for key in _with_nul(values)]
    refuse(problems)
    # A key added with `+`, and what a dict holds, was typed by nobody so far: merging into the
    # schema converts and checks it.
    merged = OmegaConf.merge(OmegaConf.structured(schema), _map_texts(_as_literal, values))
    typed: Any = _map_texts(_from_literal, OmegaConf.to_container(merged, resolve=True))
    built = _build(schema, typed, problems)
    usage = USAGES[subcommand]
    missing = [key for key in usage.required if typed[key] is None]
    if usage.instead is not None and typed[usage.instead[1]] is not None:
        missing = [key for key in missing if key != usage.instead[0]]
    if missing:
        problems.insert(0, f"{' and '.join(missing)} missing: {usage_line(subcommand)}")
    refuse(list(dict.fromkeys(problems)))
    return built


def from_file(subcommand: str, path: Path) -> Any:
    """The subcommand's config object from a `config.yaml` that a run has kept."""
    try:
        loaded = OmegaConf.load(StringIO(read_yaml_text(path)))
        if not isinstance(loaded, DictConfig):
            raise UserError(f"{path}: it holds no settings")
        _renamed(loaded)
        return to_dataclass(subcommand, loaded)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'{path}:').strip()}") from error
    except (OSError, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        line = next(iter(str(error).splitlines()), "")
        raise UserError(f"{path}: no settings of {subcommand} ({line})") from error


def _renamed(config: DictConfig) -> None:
    """Put settings of an older version under the keys that they have now."""
    report = config.get("report")
    if isinstance(report, DictConfig) and report.pop("tensorboard", False):
        config.logger = ["tensorboard"]


# The text "???" means "no value yet" to OmegaConf, but a user may well ask a model "???". No
# argument of a process can hold a NUL.
_QUESTION_MARKS = "\0???"


def _as_literal(text: str) -> str:
    return _QUESTION_MARKS if text == "???" else without_interpolation(text)


def _from_literal(text: str) -> str:
    return "???" if text == _QUESTION_MARKS else text


def _map_texts(change: Callable[[str], str], value: Any) -> Any:
    """A copy of nested dicts and lists with every text in them changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_texts(change, item) for item in value]
    if isinstance(value, dict):
        return {key: _map_texts(change, item) for key, item in value.items()}
    return value


def _with_nul(value: Any, key: str = "") -> Iterator[str]:
    """The dotted keys whose texts hold what no path, name or prompt can."""
    if isinstance(value, str) and "\0" in value:
        yield key
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _with_nul(part, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for part in value:
            yield from _with_nul(part, key)


def _unknown_keys(schema: type, values: dict[Any, Any], above: str = "") -> list[str]:
    unknown = []
    known = schema_keys(schema)
    for name, value in values.items():
        if name not in known:
            unknown.append(f"{above}{name}")
            continue
        inner = nested_schema(known[name].type)
        if inner is None or not isinstance(value, dict):
            continue
        if get_origin(known[name].type) is dict:
            for entry, entry_value in value.items():
                if isinstance(entry_value, dict):
                    unknown += _unknown_keys(inner, entry_value, f"{above}{name}.{entry}.")
        else:
            unknown += _unknown_keys(inner, value, f"{above}{name}.")
    return unknown


def _build(schema: type, values: dict[str, Any], problems: list[str]) -> Any:
    """An instance of `schema`, the innermost classes first; problems are added to the list.

    Where a part is wrong its defaults stand in for it, so that the checks of the whole still run.
    """
    arguments: dict[str, Any] = {}
    for name, key in schema_keys(schema).items():
        value, inner = values[name], nested_schema(key.type)
        if inner is None or value is None:
            arguments[name] = value
        elif get_origin(key.type) is dict:
            arguments[name] = {
                entry: _build(inner, entry_value, problems) for entry, entry_value in value.items()
            }
        else:
            arguments[name] = _build(inner, value, problems)
    try:
        return schema(**arguments)
    except UserError as error:
        problems.append(str(error))
        return schema()

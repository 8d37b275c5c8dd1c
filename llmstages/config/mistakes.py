"""What went wrong in a config, in one line for the user: Hydra's and OmegaConf's errors retold.

Their messages run over many lines and speak of search paths, structs and nodes. Here each becomes a
sentence with the file or the argument, and the nearest valid name.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import OmegaConfBaseException

from llmstages.config.folders import group_choices
from llmstages.config.schema import find_key, nested_schema, no_such_key, schema_keys
from llmstages.config.words import experiments_of, override_key
from llmstages.errors import UserError


def explain(
    error: BaseException,
    *,
    subcommand: str,
    schema: type,
    arguments: Sequence[str],
    folders: Sequence[Path],
) -> str | None:
    """One line on a mistake in the configuration, or None when `error` is something else.

    `arguments` are the overrides given, `folders` where configs are looked for, first one first.
    """
    teller = _Teller(subcommand, schema, arguments, folders)
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, yaml.YAMLError):
        return teller.broken_yaml(error)
    if isinstance(error, MissingConfigException):
        return teller.missing_config(error)
    if isinstance(error, OverrideParseException):
        return teller.unreadable_override(error)
    if isinstance(error, ConfigCompositionException):
        return teller.composition(error)
    if isinstance(error, RecursionError):
        return "the settings are nested too deeply"
    if isinstance(error, (HydraException, OmegaConfBaseException, ValueError)):
        # Hydra raises a bare ValueError for flags that exclude each other.
        return teller.value(str(error))
    return None


class _Teller:
    def __init__(
        self, subcommand: str, schema: type, arguments: Sequence[str], folders: Sequence[Path]
    ) -> None:
        self.subcommand = subcommand
        self.schema = schema
        self.arguments = arguments
        self.folders = folders

    def broken_yaml(self, error: yaml.YAMLError) -> str:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or _first_line(str(error))
        if mark is None:
            return f"broken YAML: {problem}"
        # A mark's line counts from 0.
        name = re.sub(r"^file://", "", mark.name)
        return f"{_shown(Path(name))}:{mark.line + 1}: broken YAML: {problem}"

    def missing_config(self, error: MissingConfigException) -> str:
        message = str(error)
        missing = error.missing_cfg_file or ""
        group, _, choice = missing.rpartition("/")
        found = re.match(r"In '([^']*)':", message)
        where = ""
        if found and found[1] not in (self.subcommand, "hydra/config"):
            where = f"{self._file(found[1])}: "
        elif (override := self._overriding_file(group, choice)) is not None:
            where = f"{_shown(override)}: "
        if not group or error.options is None:
            if choice == self.subcommand or not found:
                return f"{where}cannot find the config {missing}"
            return f"{where}its defaults list names {missing}, which does not exist"
        options = [option for option in error.options if option != choice]
        shown = "experiment" if group.startswith("experiment/") else group
        what = f"{where}{shown}={choice} is unknown"
        if shown == "experiment":
            what = f"{where}{self.subcommand} has no experiment {choice}"
        suggestion = _suggestion(choice, options)
        if group in ("hydra/launcher", "hydra/sweeper"):
            suggestion += f", or install its plugin (pip install hydra-NAME-{group[6:]})"
        return f"{what}: {suggestion}"

    def unreadable_override(self, error: OverrideParseException) -> str:
        override = error.override
        reason = _first_line(str(error))
        reason = re.sub(r"^(Error parsing override.*|LexerNoViableAltException:.*)$", "", reason)
        key, _, value = override.partition("=")
        quoted = value.strip("'\"").replace('"', r"\"")
        return (
            f"cannot read {override}"
            + (f" ({reason})" if reason else "")
            + f": put quotes around the value, as in '{key}=\"{quoted}\"'"
        )

    def composition(self, error: ConfigCompositionException) -> str:
        message = str(error)
        cause = error.__cause__
        if found := re.search(
            r"(?:In '([^']*)': )?Could not override '([^']*)'\.(.*)", message, re.DOTALL
        ):
            return self._no_such_override(found[1], found[2], "defaults list" in found[3])
        if found := re.match(r"In '([^']*)': (\w+) raised while\s+composing config:\s*", message):
            return self._in_file(found[1], message[found.end() :])
        if found := re.match(r"Ambiguous value for argument '(.*?)'\n", message, re.DOTALL):
            key, _, value = found[1].partition("=")
            return (
                f"{found[1]} holds several values: add --multirun to run each, or write "
                f"\"{key}='{value}'\" for one value with a comma, {key}=[{value}] for a list"
            )
        if found := re.match(r"Could not append to config. An item is already at '(.*?)'", message):
            return f"{found[1]} is there already: leave out the +"
        if found := re.match(r"Could not delete(?: from config\.)? '?(.*?)'", message):
            if find_key(self.schema, found[1]) is not None:
                return f"~{found[1]}: a key cannot be taken away, write {found[1]}=null"
            return f"~{found[1]}: there is no {found[1]} to delete"
        if found := re.match(r"Override (\S+) looks like a config group override", message):
            return f"{found[1]}: there is no such group"
        if message.startswith("Error merging override ") and cause is not None:
            return self.value(str(cause), message.removeprefix("Error merging override "))
        if not message and cause is not None:
            return self.value(str(cause))
        return self.value(message)

    def value(self, message: str, override: str | None = None) -> str:
        """A value of the wrong type, or anything OmegaConf says about a key."""
        found = re.search(r"full_key: (\S+)", message)
        key = found[1] if found else None
        if key is not None and (unknown := re.match(r"Key '([^']*)' (?:is )?not in ", message)):
            return no_such_key(self.subcommand, key if key.endswith(unknown[1]) else unknown[1])
        if key is not None and (kind := _kind(self.schema, key)) is not None:
            if _is_type_error(message):
                return _wrong_type(message, key, kind, override)
        if found := re.search(r"not a subclass of (\w+)\. value: (.*)", message):
            for name, known in schema_keys(self.schema).items():
                if getattr(known.type, "__name__", None) == found[1]:
                    return (
                        f"{name} is {_kind(self.schema, name)}; one of its files is chosen in the "
                        f"defaults list (- override /{name}: {found[2]})"
                    )
        if found := re.search(r"Interpolation key '([^']*)' not found", message):
            return f"{key}: ${{{found[1]}}} names no key"
        line = _first_line(message)
        return f"{key}: {line}" if key is not None and key not in line else line

    def _in_file(self, config_path: str, message: str) -> str:
        found = re.search(r"full_key: (\S+)", message)
        place = self._file(config_path, found[1] if found else None)
        return f"{place}: {self.value(message)}"

    def _no_such_override(self, config_path: str | None, name: str, is_group: bool) -> str:
        where = f"{self._file(config_path)}: " if config_path else ""
        if name == experiments_of(self.subcommand):
            return (
                f"{self.subcommand} has no experiments yet: put one in "
                f"DIR/{name}/NAME.yaml and add --config-dir DIR"
            )
        if is_group:
            groups = list(group_choices(self.subcommand, self.folders))
            if not groups:
                return where + no_such_key(self.subcommand, name)
            near = get_close_matches(name, groups, n=1)
            hint = f"did you mean {near[0]}?" if near else f"its groups are {', '.join(groups)}"
            return f"{where}{self.subcommand} has no group {name}: {hint}"
        return where + no_such_key(self.subcommand, name)

    def _overriding_file(self, group: str, choice: str) -> Path | None:
        """The chosen experiment's file when that, and not the command line, picked the choice."""
        if any(override_key(argument) == group for argument in self.arguments):
            return None
        for argument in self.arguments:
            if override_key(argument) == experiments_of(self.subcommand):
                name = argument.partition("=")[2]
                for folder in self.folders:
                    path = folder / experiments_of(self.subcommand) / f"{name}.yaml"
                    if path.is_file() and choice in path.read_text("utf-8", "replace"):
                        return path
        return None

    def _file(self, config_path: str, dotted: str | None = None) -> str:
        """The file behind Hydra's name of a config, with the line of a key where one is found."""
        for folder in self.folders:
            path = folder / f"{config_path}.yaml"
            if path.is_file():
                line = _line_of(path, dotted) if dotted else None
                return f"{_shown(path)}:{line}" if line else _shown(path)
        return config_path


def _line_of(path: Path, dotted: str) -> int | None:
    """First line (from 1) that sets the last part of a dotted key."""
    name = re.escape(dotted.split(".")[-1])
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        if re.match(rf"\s*['\"]?{name}['\"]?\s*:", line):
            return number
    return None


def _kind(schema: type, dotted: str) -> str | None:
    key = find_key(schema, dotted)
    if key is None:
        return None
    name = "true or false" if key.type is bool else _KINDS.get(key.type)
    if name is None and get_origin(key.type) is list:
        name = f"a list of {_KINDS_PLURAL.get(get_args(key.type)[0], 'values')}, as [a,b]"
    if name is None:
        name = "a section with keys of its own"
        if (inner := nested_schema(key.type)) is not None:
            keys = [f"{dotted}.{inner_key}" for inner_key in schema_keys(inner)]
            name += f" ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
    return name + (", or null" if key.optional else "")


_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text"}
_KINDS_PLURAL: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts"}


def _is_type_error(message: str) -> bool:
    return bool(
        re.search(
            r"could not be converted|is not a valid|Incompatible value|[Ii]nvalid (?:type|value)"
            r"|not a subclass|Cannot convert|is not Optional",
            message,
        )
    )


def _wrong_type(message: str, key: str, kind: str, override: str | None) -> str:
    found = re.match(r"Value '(.*?)' of type", message, re.DOTALL)
    value = found[1] if found else override.partition("=")[2] if override else None
    value = value.replace("\0", "") if value is not None else None  # see compose.py
    start = f"{key}={value}" if value is not None else key
    if kind.startswith("a whole number") and value is not None:
        try:
            number = float(value)
        except ValueError:
            pass
        else:
            if number.is_integer():
                return f"{start}: {key} is {kind}: write {int(number)}"
    return f"{start}: {key} is {kind}"


def _suggestion(name: str, options: Sequence[str]) -> str:
    near = get_close_matches(name, options, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"choose one of {', '.join(options)}" if options else "there are none to choose from"


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines()]
    return next((line for line in lines if line), "")


def _shown(path: Path) -> str:
    """A path as short as it can be said: relative to the working directory where it is inside."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)

"""`llmstages SUBCOMMAND --help`: the bare words, the choices, and every key with what it means."""

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from llmstages.config.folders import group_choices
from llmstages.config.schema import key_doc
from llmstages.config.subcommands import SUBCOMMANDS
from llmstages.config.words import usage_line

_KEY = re.compile(r"(?P<indent> *)(?P<name>[\w-]+):(?: |$)")


def help_text(subcommand: str, composed: str, folders: Sequence[Path]) -> str:
    """The help of a subcommand.

    `composed` is the config as YAML, as Hydra shows it for the arguments given: the keys have the
    values a run would have. `folders` are the config folders, the shipped one first.
    """
    schema = SUBCOMMANDS[subcommand]
    assert schema.__doc__ is not None
    what = schema.__doc__.splitlines()[0].partition(": ")[2]
    lines = [usage_line(subcommand), "", what, ""]
    groups = group_choices(subcommand, folders)
    if groups:
        lines += ["Choices (group=name):", ""]
        lines += [f"  {group}={'|'.join(choices)}" for group, choices in groups.items()]
        lines += [""]
    lines += ["Keys (key=value), with the values they have now:", ""]
    above: list[tuple[int, str]] = []
    for line in composed.rstrip().splitlines():
        if key := _KEY.match(line):
            width = len(key["indent"])
            above = [(outer, name) for outer, name in above if outer < width]
            above.append((width, key["name"]))
            doc = key_doc(schema, ".".join(name for _, name in above)) or ""
            lines += [
                f"{key['indent']}# {part}" for part in wrap(" ".join(doc.split()), 98 - width)
            ]
        lines.append(line)
    return "\n".join(lines)

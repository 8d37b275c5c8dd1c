"""`llmstages SUBCOMMAND --help`: what Hydra prints, with the meaning of every key beside it."""

import re
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from textwrap import wrap

from llmstages.config.schema import is_choice_of, key_doc
from llmstages.config.stages import SUBCOMMANDS
from llmstages.config.words import usage_line

_KEYS_BEGIN = "Keys (key=value)"  # as the template says it
_GROUP = re.compile(r"(?P<group>[\w/-]+): (?P<choices>.*)")
_KEY = re.compile(r"(?P<indent> *)(?P<name>[\w-]+):(?: |$)")


def print_help(subcommand: str, run: Callable[[], object], conf_dir: Path) -> None:
    """Run Hydra's help and print it annotated.

    `run` is the function made by `hydra.main`; the template it fills in is in
    `conf/hydra/default.yaml`. What it was asked to show (overrides, `--config-dir`, `--resolve`)
    is shown.
    """
    schema = SUBCOMMANDS[subcommand]
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            run()
    except SystemExit as leaving:
        if leaving.code:
            raise
    print(f"{usage_line(subcommand)}\n")
    assert schema.__doc__ is not None
    print(f"{schema.__doc__.splitlines()[0].partition(': ')[2]}\n")
    groups, _, keys = printed.getvalue().rstrip().partition(_KEYS_BEGIN)
    for line in groups.splitlines():
        group = _GROUP.fullmatch(line)
        if group is None:
            print(line)
        elif is_choice_of(subcommand, group["group"], conf_dir):
            shown = group["group"].replace(f"experiment/{subcommand}", "experiment")
            print(f"  {shown}={'|'.join(group['choices'].split(', '))}")
    above: list[tuple[int, str]] = []
    for line in (_KEYS_BEGIN + keys).splitlines():
        key = _KEY.match(line)
        if key is None:
            print(line)
            continue
        indent = key["indent"]
        above = [*((width, name) for width, name in above if width < len(indent))]
        above.append((len(indent), key["name"]))
        doc = key_doc(schema, ".".join(name for _, name in above))
        for part in wrap(" ".join((doc or "").split()), 98 - len(indent)):
            print(f"{indent}# {part}")
        print(line)

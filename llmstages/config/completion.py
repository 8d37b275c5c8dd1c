"""Tab completion: the command line so far, as Hydra can complete it, and its answers put right.

The shell's script calls `llmstages -sc query=SHELL` with the whole line in `COMP_LINE`. Hydra knows
nothing of subcommands, bare words and `experiment=`: they are translated here, both ways.
"""

from dataclasses import dataclass
from pathlib import Path

from llmstages.config.words import (
    FLAGS,
    SHORT_FLAGS,
    USAGES,
    Arguments,
    experiments_of,
    sort_arguments,
)
from llmstages.errors import UserError


@dataclass(frozen=True)
class Completion:
    """What to complete: `answers` are known already, or Hydra is asked about `line`."""

    answers: tuple[str, ...] = ()
    subcommand: str | None = None
    line: str = ""


def read_line(line: str) -> Completion:
    """Take apart a `COMP_LINE` up to the cursor: `llmstages pretrain model=na`."""
    before, _, last = line.rpartition(" ")
    words = before.split()
    if words[:1] and Path(words[0]).name.startswith("python"):
        words = words[2:]  # python -m llmstages
    words = words[1:]
    if not words:
        return Completion(tuple(name for name in USAGES if name.startswith(last)))
    subcommand = words[0]
    if subcommand not in USAGES:
        return Completion()
    if subcommand == "finetune":
        # Which of the two it will be is known when the file is read; they share most of their keys.
        subcommand = "finetune-classify"
    if last.startswith("-"):
        names = [*FLAGS, *SHORT_FLAGS]
        return Completion(tuple(name for name in names if name.startswith(last)))
    if last.startswith((".", "/")):
        return Completion()  # a path: the shell completes it
    try:
        typed = sort_arguments(words[1:])
    except UserError:
        typed = Arguments()
    overrides = [_to_hydra(subcommand, word) for word in [*typed.overrides, last]]
    return Completion(subcommand=subcommand, line=" ".join(["llmstages", *typed.flags, *overrides]))


def put_right(subcommand: str, answers: list[str], conf_dir: Path) -> list[str]:
    """Hydra's answers as a user of the subcommand types them."""
    from llmstages.config.schema import is_choice_of

    kept = []
    for answer in answers:
        if answer == "experiment/":
            answer = f"{experiments_of(subcommand)}="
        group = answer.lstrip("+~").partition("=")[0].rstrip("/")
        if "." in group or is_choice_of(subcommand, group, conf_dir):
            kept.append(answer.replace(f"{experiments_of(subcommand)}=", "experiment="))
    return kept


def _to_hydra(subcommand: str, word: str) -> str:
    if word.startswith("experiment="):
        return word.replace("experiment=", f"{experiments_of(subcommand)}=", 1)
    return word

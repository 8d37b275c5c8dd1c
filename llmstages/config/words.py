"""From what a user types to what Hydra reads: flags, overrides, and bare words with their quoting.

An argument is an override exactly when it looks like `key=value`; every other one is a bare word,
sugar for the subcommand's obvious keys. Only the standard library is imported here, because this
runs before anything else.
"""

import re
from dataclasses import dataclass, field
from difflib import get_close_matches

from llmstages.errors import UserError

# Hydra's override grammar for keys: `a.b`, `group/sub`, `group@package`, with `+`, `++` or `~`.
_KEY = r"[A-Za-z_$][\w$-]*(?:[./][\w$-]+)*(?:@[\w$.-]*)?"
_OVERRIDE = re.compile(rf"(?P<mark>\+{{0,2}}|~)(?P<key>{_KEY})=", re.ASCII)
_DELETION = re.compile(rf"~(?P<key>{_KEY})", re.ASCII)

# Hydra's own flags, and whether each takes a value.
_INFO_CHOICES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# None: the flag stands alone; "optional": its value may be left out.
FLAGS: dict[str, str | None] = {
    "--help": None,
    "--hydra-help": None,
    "--version": None,
    "--cfg": "value",
    "--resolve": None,
    "--package": "value",
    "--run": None,
    "--multirun": None,
    "--shell-completion": None,
    "--config-path": "value",
    "--config-name": "value",
    "--config-dir": "value",
    "--experimental-rerun": "value",
    "--info": "optional",
}
SHORT_FLAGS = {
    "-h": "--help",
    "-c": "--cfg",
    "-p": "--package",
    "-r": "--run",
    "-m": "--multirun",
    "-sc": "--shell-completion",
    "-cp": "--config-path",
    "-cn": "--config-name",
    "-cd": "--config-dir",
    "-i": "--info",
}
_FLAG_CHOICES = {"--cfg": ("job", "hydra", "all"), "--info": _INFO_CHOICES}


@dataclass(frozen=True)
class Usage:
    """What a subcommand's bare words stand for.

    `keys` take one word each, in this order; the last one takes the rest: as a list when
    `rest_is_list`, joined by spaces when `rest_is_joined`, else more words are refused.
    """

    keys: tuple[str, ...]
    shown: str
    """The bare words as a user reads them."""
    required: tuple[str, ...] = ()
    """Keys without which the subcommand cannot start."""
    instead: tuple[str, str] | None = None
    """A required key, and the one that may be given instead of it."""
    rest_is_list: bool = False
    rest_is_joined: bool = False


USAGES = {
    "collect": Usage(("paths",), "[PATH ...]", rest_is_list=True),
    "pretrain": Usage(("data",), "[CORPUS_DIR]"),
    "plan": Usage(("data",), "[CORPUS_DIR]"),
    "finetune": Usage(("data",), "FILE ...", ("data",), rest_is_list=True),
    "finetune-instruct": Usage(("data",), "FILE ...", ("data",), rest_is_list=True),
    "finetune-classify": Usage(("data",), "FILE", ("data",)),
    "generate": Usage(
        ("checkpoint_dir", "prompt"),
        "CHECKPOINT PROMPT",
        ("checkpoint_dir", "prompt"),
        instead=("prompt", "data"),
        rest_is_joined=True,
    ),
    "chat": Usage(("checkpoint_dir",), "CHECKPOINT", ("checkpoint_dir",)),
    "serve": Usage(("checkpoint_dir",), "CHECKPOINT", ("checkpoint_dir",)),
    "predict": Usage(
        ("checkpoint_dir", "data"),
        "CHECKPOINT FILE",
        ("checkpoint_dir", "data"),
        rest_is_joined=True,
    ),
    "evaluate": Usage(
        ("checkpoint_dir", "data"), "CHECKPOINT [FILE ...]", ("checkpoint_dir",), rest_is_list=True
    ),
    "inspect": Usage(("path",), "PATH", ("path",)),
    "report": Usage(("runs",), "[RUN ...]", rest_is_list=True),
    "export": Usage(("checkpoint_dir",), "CHECKPOINT", ("checkpoint_dir",)),
    "doctor": Usage((), ""),
}


def experiments_of(subcommand: str) -> str:
    """The group of a subcommand's experiments: a plan is made of those of pretraining."""
    return f"experiment/{'pretrain' if subcommand == 'plan' else subcommand}"


def usage_line(subcommand: str) -> str:
    """`llmstages SUBCOMMAND WORDS [key=value ...]`."""
    return " ".join(f"llmstages {subcommand} {USAGES[subcommand].shown} [key=value ...]".split())


@dataclass
class Arguments:
    """An argv, sorted: Hydra's flags (with their values), overrides, and bare words."""

    flags: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def has_flag(self, name: str) -> bool:
        return name in self.flags

    def flag_value(self, name: str) -> str | None:
        """Value of a flag that takes one, by its long name; None when the flag is absent."""
        return self.flags[self.flags.index(name) + 1] if name in self.flags else None

    def value_of(self, key: str) -> str | None:
        """The text after `key=`, as typed; the last one given, or None."""
        for override in reversed(self.overrides):
            match = _OVERRIDE.match(override)
            if match and match["key"] == key and match["mark"] != "~":
                return override[match.end() :]
        return None


def override_key(argument: str) -> str | None:
    """The key (or group) of an override or a deletion, without its marks; None for a bare word."""
    match = _OVERRIDE.match(argument) or _DELETION.fullmatch(argument)
    return match["key"] if match else None


def sort_arguments(argv: list[str]) -> Arguments:
    """Tell flags, overrides and bare words apart; `UserError` for a flag that does not exist."""
    sorted_ = Arguments()
    position = 0
    while position < len(argv):
        argument = argv[position]
        position += 1
        if argument == "--":
            sorted_.words += argv[position:]
            break
        if override_key(argument) is not None:
            sorted_.overrides.append(argument)
        elif argument.startswith("-") and argument != "-":
            position += _take_flag(argument, argv[position:], sorted_)
        else:
            sorted_.words.append(argument)
    return sorted_


def _take_flag(argument: str, following: list[str], sorted_: Arguments) -> int:
    """Add one flag and its value; returns how many of the following arguments were its value."""
    name, equals, value = argument.partition("=")
    name = SHORT_FLAGS.get(name, name)
    kind = FLAGS.get(name)
    if name not in FLAGS or (equals and kind is None):
        raise UserError(_unknown_flag(argument, following))
    taken = 0
    if kind == "optional":
        if not equals and following and not following[0].startswith("-"):
            if override_key(following[0]) is None:
                value, taken = following[0], 1
        value = value or "all"
    elif kind == "value" and not equals:
        if not following:
            raise UserError(f"{argument} needs a value after it")
        value, taken = following[0], 1
    choices = _FLAG_CHOICES.get(name)
    if choices and value not in choices:
        near = get_close_matches(value, choices, n=1)
        raise UserError(
            f"{name} {value} is unknown: "
            + (f"did you mean {near[0]}?" if near else f"choose one of {', '.join(choices)}")
        )
    if not sorted_.has_flag(name):
        sorted_.flags += [name, value] if kind else [name]
    return taken


def _unknown_flag(argument: str, following: list[str]) -> str:
    name, equals, value = argument.partition("=")
    near = get_close_matches(name, [*FLAGS, *SHORT_FLAGS], n=1, cutoff=0.75)
    if near and not equals:
        return f"{argument} is no option: did you mean {near[0]}?"
    key = name.lstrip("-").replace("-", "_")
    if re.fullmatch(r"[A-Za-z_][\w.]*", key, re.ASCII):
        if not equals:
            value = following[0] if following and not following[0].startswith("-") else "..."
        return f"{argument} is no option: settings are written {key}={value}"
    return f"{argument} is no option: put words that start with a dash after --"


def words_to_overrides(subcommand: str, arguments: Arguments) -> list[str]:
    """The overrides that a subcommand's bare words stand for; `UserError` for too many of them."""
    usage, words = USAGES[subcommand], arguments.words
    if not words:
        return []
    for key in usage.keys[: len(words)]:
        if arguments.value_of(key) is not None:
            raise UserError(
                f"{key} is given twice, as the word {words[usage.keys.index(key)]!r} and as "
                f"{key}={arguments.value_of(key)}: keep one"
            )
    last = len(usage.keys) - 1
    if usage.rest_is_list and (subcommand == "collect" or len(words) > len(usage.keys)):
        overrides = [
            *(f"{key}={quote(word)}" for key, word in zip(usage.keys[:last], words, strict=False)),
            f"{usage.keys[last]}=[{','.join(quote(word) for word in words[last:])}]",
        ]
        if subcommand == "collect" and arguments.value_of("corpus") is None:
            # Whoever names paths means these, not the default corpus and these.
            overrides.append("corpus=local")
        return overrides
    more = []
    if subcommand in ("pretrain", "plan") and arguments.value_of("corpus") is None:
        # The corpus named brings its own sources; the default recipe has others.
        more = ["corpus=local"]
    if len(words) > len(usage.keys):
        if not usage.rest_is_joined:
            raise UserError(
                f"{words[len(usage.keys)]!r} is one word too many: {usage_line(subcommand)}"
            )
        words = [*words[:last], " ".join(words[last:])]
    pairs = zip(usage.keys, words, strict=False)
    return [*(f"{key}={quote(word)}" for key, word in pairs), *more]


def without_interpolation(text: str) -> str:
    """`text` with backslashes such that OmegaConf resolves it to `text` itself."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)


def quote(text: str) -> str:
    """`text` as a value in Hydra's override grammar: the composed config holds exactly this text.

    Two readers have to be satisfied: Hydra's, for which backslashes count only before a quote, and
    OmegaConf's, for which `${` starts an interpolation unless a backslash stands before it.
    """
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", without_interpolation(text))
    escaped = re.sub(r"\\+\Z", lambda found: found[0] * 2, escaped)
    return f"'{escaped}'"

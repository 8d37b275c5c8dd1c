"""The command line: the only door to llmstages.

Takes the subcommand off the arguments, hands the rest to Hydra, starts the stage, and turns every
error into one line and an exit status: 0 done, 1 failed at run time, 2 the user's input is wrong,
130 interrupted. Nothing is imported before it is needed: `--help` answers without Hydra, a config
is shown without torch. A second call of `main` in the same process finds nothing left of the first.
"""

import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmstages import __version__
from llmstages.config.words import (
    USAGES,
    Arguments,
    override_key,
    sort_arguments,
    usage_line,
    words_to_overrides,
)
from llmstages.errors import CheckFailed, UserError
from llmstages.report.plain import visible

if TYPE_CHECKING:
    from omegaconf import DictConfig

SUMMARIES = {
    "collect": "raw text -> a corpus: corpora/<name>/",
    "pretrain": "a corpus -> a base model: runs/<name>/",
    "plan": "what pretrain would take: memory, time, energy, money, for any number of GPUs",
    "finetune": "looks into the file, then finetune-classify or finetune-instruct",
    "finetune-instruct": "a base model + prompts and answers -> a specialist that answers",
    "finetune-classify": "a base model + labelled texts -> a classifier",
    "generate": "text from a model, answers to a file (data=FILE), or next words (top=10)",
    "chat": "a conversation with a model, line by line",
    "serve": "a server that speaks OpenAI's endpoints, with a page to chat; or classifies",
    "predict": "labels and probabilities for texts, as JSON Lines",
    "evaluate": "how good a classifier is on a file, or what a language model is able to do",
    "compare": "two checkpoints on the same held-out items: which is better, and by how much",
    "inspect": "what a corpus, run, checkpoint or data file holds",
    "report": "runs -> one HTML page: figures, curves, corpus, answers, lineage",
    "export": "a checkpoint -> GGUF, ONNX or other safetensors: exports/<name>/",
    "doctor": "what this machine has, what is fast on it, and what is missing",
}

HELP = f"""\
llmstages {__version__}: from raw text to a specialist language model

{{usages}}

The shortest way:
  llmstages collect && llmstages pretrain && llmstages finetune reviews.jsonl

Settings are written key=value (steps=500 optim.lr=1e-3), choices group=name (model=small), and an
experiment is a file of them (experiment=smoke). Words after -- are never settings.

llmstages SUBCOMMAND --help     its keys, what they mean, and the choices there are
llmstages SUBCOMMAND --cfg job  the settings a run would have
llmstages --version             the version
eval "$(llmstages -sc install=bash)"   tab completion, also for fish and zsh\
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit status."""
    if argv is not None:
        return _answer(list(argv))
    for number in (signal.SIGTERM, signal.SIGUSR1):  # an orderly end, and SLURM's warning of one
        signal.signal(number, signal.default_int_handler)
    status = _answer(sys.argv[1:])
    _end_process(status)
    return status


def _answer(argv: list[str]) -> int:
    try:
        return _run(argv)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("interrupted", file=sys.stderr)
        return 130
    except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
        print(visible(f"error: {error.filename}: {error.strerror}"), file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: nothing is left to say, and flushing stdout
        # when the interpreter ends must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        return _report(error, str(error), 2)


def _end_process(status: int) -> None:
    """What the interpreter would do badly on its way out."""
    one_of_several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if one_of_several or (status and "daft" in sys.modules):
        # Threads of gloo, and of Daft, may abort the process while the interpreter ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    gc.freeze()  # looking for garbage among torch's objects would take a second


def _run(argv: list[str]) -> int:
    first = argv[0] if argv else "--help"
    if first in ("-h", "--help", "help"):
        usages = "\n".join(
            f"  {f'{name} {USAGES[name].shown}':32}  {summary}"
            for name, summary in SUMMARIES.items()
        )
        print(HELP.format(usages=usages))
        return 0
    if first in ("--version", "-V"):
        print(f"llmstages {__version__}")
        return 0
    if first in ("-sc", "--shell-completion"):
        return _complete(argv)
    if first not in USAGES:
        near = get_close_matches(first, USAGES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(USAGES)}"
        raise UserError(f"{first} is no subcommand: {hint}")
    arguments = sort_arguments(argv[1:])
    if arguments.has_flag("--version"):
        print(f"llmstages {__version__}")
        return 0
    subcommand = first
    if subcommand == "finetune":
        if arguments.has_flag("--help"):
            print(
                f"{usage_line('finetune')}\n\n"
                "Looks into the file: texts with labels go to finetune-classify, prompts with "
                "answers to\nfinetune-instruct; where columns are named (label_column=..., "
                "prompt_column=...), these say\nwhich. Their keys: "
                "llmstages finetune-classify --help, llmstages finetune-instruct --help"
            )
            return 0
        subcommand = _finetune_stage(arguments)
    return _run_hydra(subcommand, arguments)


def _finetune_stage(arguments: Arguments) -> str:
    """The fine-tuning subcommand that settings and labelled files ask for."""
    from llmstages.data.file_kind import KEYS_OF_KINDS, detect_kinds, kind_of_keys

    # Reading the words first refuses a file given twice before it is opened.
    words_to_overrides("finetune", arguments)
    typed = arguments.words
    if not typed:
        given = arguments.value_of("data")
        if given is None:
            raise UserError(f"data is missing: {usage_line('finetune')}")
        listed = given[1:-1].split(",") if given.startswith("[") else [given]
        typed = [path.strip().strip("'\"") for path in listed]
    asked = kind_of_keys(
        [key for key in KEYS_OF_KINDS if arguments.value_of(key) not in (None, "", "null")]
    )
    if asked is None and arguments.value_of("method") == "dpo":
        asked = "instruct"
    kinds = {path: {asked} if asked else detect_kinds(path) for path in typed}
    found = set().union(*kinds.values())
    if len(found) > 1:
        raise UserError(
            f"{', '.join(kinds)}: labelled texts and prompts with answers cannot be mixed: give "
            "files of one kind"
        )
    stage = f"finetune-{found.pop()}"
    print(visible(f"{', '.join(kinds)} is for {stage}"), file=sys.stderr)
    return stage


def _run_hydra(subcommand: str, arguments: Arguments) -> int:
    """Hand a subcommand to Hydra, which composes the config and starts the stage, once or often."""
    from llmstages.config.folders import conf_dir
    from llmstages.config.overrides import for_hydra, one_length
    from llmstages.config.schema import no_such_key
    from llmstages.config.subcommands import SUBCOMMANDS

    schema = SUBCOMMANDS[subcommand]
    words = words_to_overrides(subcommand, arguments)
    overrides = [for_hydra(subcommand, override) for override in arguments.overrides] + words
    overrides = one_length(subcommand, overrides)
    folders = [conf_dir()]
    if (extra := arguments.flag_value("--config-dir")) is not None:
        folders.append(Path(extra))

    if arguments.has_flag("--cfg"):
        # Hydra takes any key after a `+`. In a run the schema refuses it; shown without a run it
        # would look right.
        for override in overrides:
            name = override_key(override) or ""
            if override.startswith("+") and not _is_known(schema, name, folders):
                raise UserError(no_such_key(subcommand, name))
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    failures: list[Exception] = []

    def told(error: Exception) -> str | None:
        from llmstages.config.mistakes import explain

        return explain(
            error, subcommand=subcommand, schema=schema, arguments=overrides, folders=folders
        )

    def job(composed: "DictConfig") -> float | None:
        from llmstages.config.compose import to_dataclass

        try:
            try:
                config = to_dataclass(subcommand, composed)
            except Exception as error:
                raise UserError(told(error) or str(error)) from error
            with _environment("HYDRA_FULL_ERROR", full_error):
                return _run_stage(subcommand, config)
        except Exception as error:
            failures.append(error)
            if _is_sweep():
                raise  # Hydra says which job failed and goes on with the next
            raise _JobFailed from error

    run = _hydra_main(subcommand, job)
    try:
        if arguments.has_flag("--help"):
            _print_help(subcommand, run, arguments.flags, overrides, folders)
        elif arguments.has_flag("--multirun"):
            _run_sweep(subcommand, run, arguments.flags + overrides)
        else:
            run(arguments.flags + overrides)
    except SystemExit as leaving:
        # Hydra ends with 1 only where it has refused something in a line of its own.
        return 2 if leaving.code else 0
    except _JobFailed as failed:
        error = failed.__cause__
        assert isinstance(error, Exception)
        if isinstance(error, BrokenPipeError):
            raise error from None
        return _report_failure(error, subcommand)
    except BrokenPipeError:
        raise
    except Exception as error:
        if any(error is failure for failure in failures):
            return _report_failure(error, subcommand)
        line = told(error)
        if line is None:
            return _report_failure(error, subcommand)
        return _report(error, line, 2)
    return 0


def _run_sweep(subcommand: str, run: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Run the jobs of a sweep, and show what they came to, also where some failed."""
    from llmstages.config.sweeps import OBJECTIVES, jobs_of, recorded_jobs

    with recorded_jobs(subcommand) as returned:
        try:
            run(arguments)
        finally:
            if returned and subcommand in OBJECTIVES:
                from llmstages.report.terminal import say, table

                objective, _ = OBJECTIVES[subcommand]
                jobs = jobs_of(subcommand, returned, arguments)
                columns = ("job", "settings", objective, "run")
                rows = [(job.number, job.settings, job.objective, job.outcome) for job in jobs]
                table("", columns, rows, to_output=True)
                best = jobs[0]
                if best.objective is not None:
                    say(f"best: {best.settings} ({best.outcome})")


def _print_help(
    subcommand: str,
    run: Callable[[list[str]], None],
    flags: list[str],
    overrides: list[str],
    folders: Sequence[Path],
) -> None:
    """Print a subcommand's help with the config that these arguments would give."""
    from contextlib import redirect_stdout
    from io import StringIO

    from hydra.core.override_parser.overrides_parser import OverridesParser

    from llmstages.config.help import help_text

    # Hydra's own --help takes seconds to look for groups, and knows no meanings of keys.
    composed = StringIO()
    kept = [flag for flag in flags if flag not in ("--help", "--multirun")]
    if "--multirun" in flags:
        parsed = OverridesParser.create().parse_overrides(overrides)
        overrides = [
            text
            for text, override in zip(overrides, parsed, strict=True)
            if not override.is_sweep_override()
        ]
    with redirect_stdout(composed):
        run(["--cfg", "job", *kept, *overrides])
    print(help_text(subcommand, composed.getvalue(), folders))


def _is_known(schema: type, key: str, folders: Sequence[Path]) -> bool:
    """Whether a key is in the schema, Hydra's own, or a config group of these folders."""
    from llmstages.config.schema import find_key

    group = key.partition("@")[0]
    return (
        re.match(r"hydra\b", key) is not None
        or find_key(schema, key) is not None
        or any((folder / group).is_dir() for folder in folders)
    )


def _hydra_main(
    subcommand: str, job: "Callable[[DictConfig], float | None]"
) -> Callable[[list[str]], None]:
    """Hydra's entry point for a subcommand, as a function of the arguments Hydra reads."""
    import hydra

    from llmstages.config.folders import conf_dir
    from llmstages.config.schema import register_schema
    from llmstages.config.sources import register_sources

    register_sources()
    register_schema(subcommand)
    main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=subcommand)(job)

    def run(arguments: list[str]) -> None:
        # Unless this variable is set Hydra prints errors in its own way and ends the process.
        with _environment("HYDRA_FULL_ERROR", "1"), _command_line(arguments), _root_logger():
            main()

    return run


def _run_stage(subcommand: str, config: Any) -> float | None:
    """Import the stage and run it; returns its headline metric, for sweepers."""
    from importlib import import_module

    if _is_sweep() and hasattr(config, "name_suffix"):
        from hydra.core.hydra_config import HydraConfig

        config.name_suffix = config.name_suffix or str(HydraConfig.get().job.num)
    stage = import_module(f"llmstages.stages.{subcommand.replace('-', '_')}")
    done = False
    try:
        metric: float | None = stage.run(config)
        done = True
    finally:
        parallel = sys.modules.get("llmstages.train.parallel")
        if parallel is not None and not _is_sweep():
            parallel.leave(together=done)
    return metric


def _is_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return bool(HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN)


class _JobFailed(BaseException):
    """Carries a single job's error (its `__cause__`) past Hydra, which would print it itself."""


def _report(error: BaseException, line: str, status: int) -> int:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        import traceback

        traceback.print_exception(error)
    if status != 2 or os.environ.get("RANK", "0") == "0":  # of several processes one says it
        print(visible(f"error: {' '.join(line.split())}"), file=sys.stderr)
    return status


def _report_failure(error: BaseException, subcommand: str) -> int:
    if isinstance(error, UserError):
        return _report(error, str(error), 2)
    if isinstance(error, CheckFailed):
        return _report(error, str(error), 1)
    message = next((line for line in str(error).splitlines() if line.strip()), "")
    line = f"{subcommand} failed: {type(error).__name__}" + (f": {message}" if message else "")
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        line += " (set HYDRA_FULL_ERROR=1 for the traceback)"
    return _report(error, line, 1)


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.get(name)
    _set_environment(name, value)
    try:
        yield
    finally:
        _set_environment(name, before)


def _set_environment(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["llmstages", *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _root_logger() -> Iterator[None]:
    """Leave the root logger as it was: Hydra puts its handlers there and forgets them."""
    import logging

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _complete(argv: list[str]) -> int:
    """Tab completion: `-sc install=bash` prints the script that calls `-sc query=bash`."""
    arguments = sort_arguments(argv)
    if (shell := arguments.value_of("query")) is None:
        return _run_hydra("pretrain", arguments)  # which one makes no difference to the script
    from contextlib import redirect_stdout
    from io import StringIO

    from llmstages.config.completion import put_right, read_line
    from llmstages.config.folders import conf_dir

    asked = read_line(os.environ.get("COMP_LINE", ""))
    answers = list(asked.answers)
    if asked.subcommand is not None:
        printed = StringIO()
        with redirect_stdout(printed), _environment("COMP_LINE", asked.line):
            try:
                _hydra_main(asked.subcommand, _no_job)(arguments.flags + arguments.overrides)
            except (Exception, SystemExit):
                # Half a command line is often wrong. There is nothing to complete then, and no
                # place for a message.
                printed = StringIO()
        answers = put_right(asked.subcommand, printed.getvalue().split(), conf_dir())
    print(("\n" if shell == "fish" else " ").join(answers))
    return 0


def _no_job(config: "DictConfig") -> None:
    raise AssertionError("completion starts no stage")

"""A run directory: made once its inputs are known to be good, continued, or left alone.

`config.yaml`, `plan.json` (what exactness needs, fixed before step 1), `metrics.jsonl`, `log.txt`,
`report/`, `checkpoints/`, the symlinks `best` and `last`, and `summary.json`, written last.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from llmstages.config.groups import BLOCK_MATRICES
from llmstages.config.stages import FinetuneConfig, TrainingConfig
from llmstages.data.json_files import as_type, parse_json
from llmstages.disk import LOCK_NAME, lock_directory, require_writable
from llmstages.errors import UserError
from llmstages.model.transformer import TransformerConfig
from llmstages.report.class_pictures import CONFUSION_FILE, RELIABILITY_FILE
from llmstages.report.curves import LOSS_FILE, OPTIMIZER_FILE
from llmstages.report.live import LiveChart
from llmstages.report.metrics import read_entries
from llmstages.report.observers import Observers
from llmstages.report.tensorboard import EVENT_FILE_PREFIX
from llmstages.report.terminal import say
from llmstages.report.trackers import (
    STATE_FILE,
    TrackedRun,
    Trackers,
    check_trackers,
    flatten,
)
from llmstages.report.wandb_run import FILE_NAMES as WANDB_FILE_NAMES
from llmstages.train import parallel
from llmstages.train.checkpoint import (
    checkpoint_dirs,
    complete_checkpoints,
    is_complete,
    newest_sound,
    read_info,
    restore_replaced,
)
from llmstages.train.records import read_record, read_sealed, write_sealed

FORMAT_VERSION = 1
# Where things are kept, what they run on and how often one looks: none of it changes the result.
NOT_SETTINGS = {
    "name",
    "name_suffix",
    "runs_dir",
    "corpora_dir",
    "corpus",
    "data",
    "base",
    "validation_data",
    "test_data",
    "device",
    "parallel",
    "stop_after",
    "checkpoint",
    "evaluate",
    "report",
    "logger",
    "overwrite",
    "sample_prompts",
}
OWN_NAMES = {
    LOCK_NAME,
    "config.yaml",
    "plan.json",
    "metrics.jsonl",
    "log.txt",
    "answers.jsonl",
    "answers.jsonl.tmp",
    "predictions.jsonl",
    "predictions.jsonl.tmp",
    "random_weights",
    "checkpoints",
    "best",
    "last",
    "summary.json",
    "report",
    "report.html",
    "plan.json.tmp",
    "metrics.jsonl.tmp",
    "summary.json.tmp",
    ".best.tmp",
    ".last.tmp",
}
"""All that a run directory may hold; a directory with anything else is not touched."""
BASE_INPUTS = {f"inputs.{key}" for key in ("base", "base_config", "tokenizer", "chat_template")}
"""Settings that another base changes."""

PLAN_TYPES: dict[str, Any] = {
    "stage": str,
    "settings": dict[str, Any],
    "steps": int,
    "changed": list[list[int]],
    "lr": float,
    "weight_decay": float,
    "num_evaluations": int,
    "evaluation_seconds": float,
    "tokens": str | None,
    "mask_documents": bool,
    "model_shape": TransformerConfig,
    "expected_tokens": float,
    "context_length": int,
    "rows_per_step": int,
    "rows_per_micro_batch": int,
    "evaluation_tokens": int,
    "asked_evaluation_tokens": int,
    "last_evaluation_tokens": int,
    "ability_items": dict[str, int],
    "activation_checkpointing": bool,
    "metrics_before": dict[str, Any],
    "baselines": dict[str, Any],
    "answers_before": list[str],
}
"""Of the keys of `plan.json` that a resumed run reads."""
CHECKPOINT_NAME = re.compile(r"step-\d{6,}(\.tmp|\.old)?")
REPORT_FILES = (LOSS_FILE, OPTIMIZER_FILE, CONFUSION_FILE, RELIABILITY_FILE, STATE_FILE)
REPORT_NAME = re.compile(rf"({'|'.join(map(re.escape, REPORT_FILES))})(\.tmp)?|tensorboard|wandb")
EVENT_FILE_NAME = re.compile(rf"{re.escape(EVENT_FILE_PREFIX)}.*")


def settings_of(config: TrainingConfig, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What makes two runs the same: config without places and cadence, hashes of the inputs."""
    kept = {key: value for key, value in asdict(config).items() if key not in NOT_SETTINGS}
    if "replay" in kept:
        kept["replay"] = {key: value for key, value in kept["replay"].items() if key != "data"}
    return kept | {"inputs": dict(inputs)}


class Plan(dict[str, Any]):
    """The contents of `plan.json`; a key that is missing is the user's to know of."""

    def __init__(self, path: Path, contents: Mapping[str, Any]) -> None:
        super().__init__(contents)
        self.path = path

    def __missing__(self, key: str) -> NoReturn:
        raise UserError(f"{self.path}: it has no {key}")


def read_plan(directory: Path) -> Plan:
    """The plan of a run. Raises `UserError` when it is missing, damaged or of wrong types."""
    path = directory / "plan.json"
    try:
        contents = read_sealed(path)
    except UserError as error:
        raise UserError(
            f"{error}: without it the run cannot be continued; base={directory} name=... starts "
            "another from its best checkpoint, overwrite=true deletes it and starts again"
        ) from error
    try:
        for key, kind in PLAN_TYPES.items():
            if key in contents:
                as_type(kind, contents[key], key)
    except ValueError as error:
        raise UserError(f"{path}: not a plan ({error})") from error
    return Plan(path, contents)


class OtherRun(UserError):
    """A directory holds a run of another stage or with other settings; `difference` says which."""

    def __init__(self, message: str, difference: str) -> None:
        super().__init__(message)
        self.difference = difference


class Run:
    """One run directory.

    `summary` is given when the run had already finished with the same settings, `resume_from` when
    it had begun.
    """

    def __init__(
        self, directory: Path, stage: str, config: TrainingConfig, inputs: Mapping[str, str]
    ) -> None:
        self.directory = directory
        self.stage = stage
        self.config = config
        self.settings = settings_of(config, inputs)
        self.summary: dict[str, Any] | None = None
        self.plan: dict[str, Any] = {}
        self.resume_from: Path | None = None
        self.observers: Observers | None = None
        self.locked: int | None = None
        """Descriptor of the lock, while this process has it."""
        self.trackers: Trackers | None = None
        self.evaluated: set[int] = set()
        """Steps after which earlier processes recorded an evaluation."""
        if parallel.is_first():
            check_trackers(config.loggers)
            require_writable(directory, "runs_dir=")
        if directory.exists():
            self.check_ownership()
            base = getattr(config, "base", None)
            if base and Path(base).resolve().is_relative_to(directory.resolve()):
                raise UserError(
                    f"base={base} lies in the directory of this run, {directory}: set name=... for "
                    "another place"
                )
            if not config.overwrite:
                self.look_at_earlier()

    def check_ownership(self) -> None:
        """Raise `UserError` when the place is taken by anything but a run."""
        if not self.directory.is_dir():
            raise UserError(f"{self.directory}: a file stands where the run goes: set name=...")
        if foreign := foreign_names(self.directory):
            raise UserError(
                f"{self.directory}: not a run (it holds {foreign[0]}): set name=... for another "
                "place"
            )

    def look_at_earlier(self) -> None:
        """Find out what an existing directory is. Raises `UserError` when it is another run."""
        plan_path = self.directory / "plan.json"
        if not plan_path.is_file():
            if kept := checkpoint_dirs(self.directory):
                raise UserError(
                    f"{self.directory}: has checkpoints but no plan.json, and cannot be continued: "
                    f"base={kept[-1]} name=... starts another run from the newest, overwrite=true "
                    "deletes them"
                )
            return
        plan = read_plan(self.directory)
        before, now = flatten(plan["settings"]), flatten(json.loads(json.dumps(self.settings)))
        # A run that an older version began knows nothing of keys that were added since.
        known = flatten(settings_of(type(self.config)(), {}))
        known |= {key: value for key, value in now.items() if key.startswith("inputs.")}
        before = {key: known[key] for key in now.keys() & known.keys()} | before
        self.keep_old_targets(before, now)
        changed = [
            key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)
        ]
        finished = (self.directory / "summary.json").is_file()
        if plan["stage"] != self.stage or changed:
            what = (
                f"{changed[0]} was {before.get(changed[0])}, is {now.get(changed[0])}"
                if changed
                else f"its stage is {plan['stage']}"
            )
            state = "finished" if finished else "unfinished"
            going_on = ""
            if changed and BASE_INPUTS.issuperset(changed) and plan["stage"] == self.stage:
                begun_with = None if finished else self.base_on_hub()
                going_on = f"base={begun_with} continues it, " if begun_with else ""
            raise OtherRun(
                f"{self.directory}: holds {'a' if finished else 'an'} {state} run with other "
                f"settings ({what}): {going_on}name=... for another place, overwrite=true to "
                "replace it",
                what,
            )
        self.plan = plan
        if finished:
            self.summary = read_record(self.directory / "summary.json")
            return
        self.lock()
        if parallel.is_first():
            restore_replaced(self.directory)
            self.resume_from = newest_sound(self.directory)
        self.resume_from = parallel.from_first(self.resume_from)
        if self.resume_from is None and complete_checkpoints(self.directory):
            raise UserError(
                f"{self.directory}: every checkpoint is damaged: overwrite=true starts again, "
                "name=... goes to another place"
            )

    def base_on_hub(self) -> str | None:
        """The commit on a hub that the run was begun with, by its first checkpoint."""
        for directory in filter(is_complete, checkpoint_dirs(self.directory)):
            return read_info(directory).lineage.base
        return None

    def lock(self) -> None:
        """Raise `UserError` when another process is at this run; keep others from it."""
        problem = None
        if parallel.is_first():
            self.release()
            try:
                self.locked = lock_directory(self.directory, "at this run")
            except UserError as error:
                problem = str(error)
        problem = parallel.from_first(problem)
        if problem is not None:
            raise UserError(problem)

    def release(self) -> None:
        """Let other processes at this run: it has ended, or was given up."""
        locked, self.locked = self.locked, None
        if locked is not None:
            os.close(locked)

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Make the directory; the plan is what a resumed run must find again."""
        if self.resume_from is None:
            if parallel.from_first(self.directory.exists()):
                self.lock()
            if parallel.is_first():
                if self.directory.exists():
                    clear_run(self.directory)
                (self.directory / "checkpoints").mkdir(parents=True, exist_ok=True)
            self.lock()
        if self.resume_from is None and parallel.is_first():
            text = yaml.safe_dump(asdict(self.config), sort_keys=False, allow_unicode=True)
            (self.directory / "config.yaml").write_text(text, encoding="utf-8")
        self.write_plan(plan)

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Replace `plan.json`."""
        self.plan = {
            **plan,
            "format_version": FORMAT_VERSION,
            "stage": self.stage,
            "settings": self.settings,
        }
        if parallel.is_first():
            temporary = self.directory / "plan.json.tmp"
            write_sealed(temporary, self.plan)
            temporary.replace(self.directory / "plan.json")

    def keep_old_targets(self, before: Mapping[str, Any], now: dict[str, Any]) -> None:
        """Go on with the matrices that adapters had by default when an older version began this."""
        key = "method.targets"
        old = list(BLOCK_MATRICES)
        if isinstance(self.config, FinetuneConfig) and before.get(key) == old and now[key] is None:
            self.config.method = replace(self.config.method, targets=old)
            self.settings = settings_of(self.config, self.settings["inputs"])
            now[key] = old

    def log(self, text: str) -> None:
        """Say something to the user and keep it in `log.txt`."""
        if not parallel.is_first():
            return
        say(text)
        with (self.directory / "log.txt").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def record(self, entry: Mapping[str, Any]) -> None:
        """Append a line to `metrics.jsonl`, and tell those who observe the run."""
        if not parallel.is_first():
            return
        path = self.directory / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise OSError(f"{path} could not be written ({error})") from error
        if self.observers is not None:
            self.observers.record(entry)
        if self.trackers is not None:
            self.trackers.record(entry)

    @contextmanager
    def observed(self) -> Iterator[LiveChart | None]:
        """Show what is recorded inside as `report.*` asks, and draw it at the end, however it ends.

        Yields the chart for the terminal, None where none is to be shown.
        """
        if not parallel.is_first():
            yield None
            return
        parts = self.directory.parts[-2 if self.config.name_suffix else -1 :]
        title = f"{'/'.join(parts)} ({self.stage})"
        observers = Observers(self.directory, title, self.config.report)
        self.observers = observers
        tracked = TrackedRun(
            self.directory,
            Path(os.path.relpath(self.directory, self.config.runs_dir)).as_posix(),
            self.stage,
            asdict(self.config),
            self.evaluated,
        )
        earlier = read_entries(self.directory / "metrics.jsonl")
        try:
            self.trackers = Trackers(self.config.loggers, tracked, earlier)
            yield observers.chart
        except BaseException:
            self.release()
            raise
        finally:
            self.observers = None
            observers.close()

    def forget_after(self, step: int) -> None:
        """Drop metrics of steps that a resumed run will do again."""
        path = self.directory / "metrics.jsonl"
        if not parallel.is_first() or not path.is_file():
            return
        self.evaluated = {entry["step"] for entry in read_entries(path) if "event" in entry}
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = parse_json(line)
                before = as_type(int, entry["step"], "step") <= step
            except (KeyError, TypeError, ValueError):
                break  # torn when the process was killed; all that follows is of the same moment
            if before:
                kept.append(line + "\n")
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(path)

    def checkpoint_dir(self, step: int) -> Path:
        """Directory of the checkpoint of a step."""
        return self.directory / "checkpoints" / f"step-{step:06d}"

    def link(self, name: str, step: int) -> None:
        """Point the symlink `best` or `last` at a step's checkpoint."""
        temporary = self.directory / f".{name}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("checkpoints") / self.checkpoint_dir(step).name)
        os.replace(temporary, self.directory / name)

    def remove_old_checkpoints(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints and those that links point at."""
        pinned = {
            (self.directory / name).resolve()
            for name in ("best", "last")
            if (self.directory / name).is_symlink()
        }
        for path in checkpoint_dirs(self.directory)[:-keep]:
            if path.resolve() not in pinned:
                shutil.rmtree(path)

    def keep_lines(self, name: str, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write JSON Lines under one of `OWN_NAMES`, whole; the first process alone writes."""
        if not parallel.is_first():
            return
        temporary = self.directory / f"{name}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            for entry in entries:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        temporary.replace(self.directory / name)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, which makes the run a finished one."""
        if not parallel.is_first():
            return
        temporary = self.directory / "summary.json.tmp"
        write_sealed(temporary, {"format_version": FORMAT_VERSION, **summary})
        temporary.replace(self.directory / "summary.json")
        if self.trackers is not None:
            self.trackers.finish(summary["metrics"], "finished")
        self.release()


def clear_run(directory: Path) -> None:
    """Delete an earlier run; `UserError` when the directory holds anything else."""
    foreign = foreign_names(directory)
    if foreign:
        raise UserError(
            f"{directory}: holds {foreign[0]}, which is no part of a run, and is not replaced"
        )
    shutil.rmtree(directory)


def foreign_names(directory: Path) -> list[str]:
    """What a directory holds that no run of this package wrote, by path in it, sorted."""
    names = [path.name for path in directory.iterdir() if path.name not in OWN_NAMES]
    for folder, own_name in (
        ("checkpoints", CHECKPOINT_NAME),
        ("report", REPORT_NAME),
        ("report/tensorboard", EVENT_FILE_NAME),
        ("report/wandb", re.compile(WANDB_FILE_NAMES)),
    ):
        if (directory / folder).is_dir():
            names += [
                f"{folder}/{path.name}"
                for path in (directory / folder).iterdir()
                if own_name.fullmatch(path.name) is None
            ]
    inner = directory / "random_weights"
    if inner.is_dir():
        names += [f"{inner.name}/{name}" for name in foreign_names(inner)]
    elif inner.exists():
        names.append(inner.name)
    return sorted(names)

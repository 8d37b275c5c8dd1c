"""Experiment trackers that a run is logged to besides `metrics.jsonl`, which stays the truth.

Each is a module of its own beside this one, imported only where `logger=` asks for it. What a
tracker calls a run is kept in `report/trackers.json`: a resumed run goes on in the same one.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from llmstages.data.json_files import as_type, parse_json
from llmstages.errors import UserError
from llmstages.report.terminal import warn

PROJECT = "llmstages"
"""Where runs are put in a tracker that has projects, unless its own environment variable says."""
STATE_FILE = "trackers.json"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run at its start."""

    directory: Path
    name: str
    """Path of the run's directory below `runs_dir`."""
    stage: str
    config: Mapping[str, Any]
    evaluated: Collection[int] = ()
    """Steps after which earlier processes recorded an evaluation."""

    def is_new(self, entry: Mapping[str, Any], next_step: int) -> bool:
        """Whether a tracker that has steps below `next_step` lacks an entry.

        The evaluation after a step may have been cut off, and made up when the run went on.
        """
        step = entry["step"]
        return step >= next_step or ("event" in entry and step not in self.evaluated)

    @property
    def report_dir(self) -> Path:
        """Where trackers keep files of the run."""
        return self.directory / "report"


class Tracker(Protocol):
    """One run in a tracker, from its start to its end."""

    id: str
    """By which the run is found again."""

    def record(self, entry: Mapping[str, Any]) -> None:
        """Log the figures of a line of `metrics.jsonl`, under their names, at its step."""

    def finish(self, figures: Mapping[str, float], status: str) -> None:
        """End: figures of the summary, as `summary/<name>`; status: `finished`, `interrupted` or
        `failed`."""


Start = Callable[[TrackedRun, str | None, Sequence[Mapping[str, Any]]], Tracker]
"""Starts a run, or goes on with the one of this id; the entries are those recorded before."""


@dataclass(frozen=True)
class Kind:
    """A tracker to choose from."""

    title: str
    package: str
    """What is imported."""
    module: str
    """Which has `start`, a `Start`, and may have `check`, which raises `UserError`."""


KINDS = {
    "tensorboard": Kind("TensorBoard", "torch.utils.tensorboard", "tensorboard"),
    "wandb": Kind("W&B", "wandb", "wandb_run"),
    "trackio": Kind("Trackio", "trackio", "trackio_run"),
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise `UserError` where a tracker cannot work: no package, or nobody logged in."""
    for name in names:
        kind = KINDS[name]
        try:
            import_module(kind.package)
        except ImportError:
            raise UserError(
                f"logger={name} needs {kind.title}: install it with "
                "pip install 'llmstages[tracking]'"
            ) from None
        module = import_module(f"llmstages.report.{kind.module}")
        if hasattr(module, "check"):
            module.check()


_open: ContextVar[list["Trackers"] | None] = ContextVar("open trackers", default=None)


@contextmanager
def ended_trackers() -> Iterator[None]:
    """Around a stage: trackers that are begun inside have ended after it, however it ends."""
    begun: list[Trackers] = []
    token = _open.set(begun)
    status = "finished"
    try:
        yield
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        raise
    finally:
        _open.reset(token)
        for trackers in begun:
            trackers.finish({}, status)


class Trackers:
    """The trackers of a run; one that fails is left out with a warning, the training goes on."""

    def __init__(
        self, names: Sequence[str], run: TrackedRun, earlier: Sequence[Mapping[str, Any]]
    ) -> None:
        self._trackers: dict[str, Tracker] = {}
        if (begun := _open.get()) is not None:
            begun.append(self)
        path = run.report_dir / STATE_FILE
        ids = _read_ids(path)
        for name in names:

            def start(name: str = name) -> None:
                module = import_module(f"llmstages.report.{KINDS[name].module}")
                self._trackers[name] = module.start(run, ids.get(name), earlier)
                ids[name] = self._trackers[name].id
                path.parent.mkdir(exist_ok=True)
                temporary = path.with_name(path.name + ".tmp")
                temporary.write_text(json.dumps(ids) + "\n", encoding="utf-8")
                os.replace(temporary, path)

            self._try(name, start)

    def record(self, entry: Mapping[str, Any]) -> None:
        """Tell all of them of a line of `metrics.jsonl`."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(tracker.record, entry))

    def finish(self, metrics: Mapping[str, Any], status: str) -> None:
        """End all of them, once; metrics: those of the summary, of which numbers are kept."""
        figures = {
            f"summary/{name}": float(value)
            for name, value in metrics.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(tracker.finish, figures, status))
        self._trackers.clear()

    def _try(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever it is, the training matters more
            self._trackers.pop(name, None)
            line = next(iter(str(error).splitlines()), "")
            warn(f"no more {KINDS[name].title}: {type(error).__name__}: {line}")


def _read_ids(path: Path) -> dict[str, str]:
    """Ids by tracker; none where the file is missing or damaged."""
    try:
        ids: dict[str, str] = as_type(
            dict[str, str], parse_json(path.read_text(encoding="utf-8")), "ids"
        )
        return ids
    except (OSError, ValueError):
        return {}

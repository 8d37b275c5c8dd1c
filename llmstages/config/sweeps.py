"""What the jobs of a sweep came to, whichever sweeper chose them and wherever they ran."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llmstages.config.compose import to_dataclass
from llmstages.config.stages import TrainingConfig
from llmstages.errors import UserError

OBJECTIVES = {
    "pretrain": ("val_bits_per_byte", "minimize"),
    "finetune-instruct": ("val_loss", "minimize"),
    "finetune-classify": ("macro_f1", "maximize"),
}
"""The figure that a training stage returns, and which way it is better."""


@dataclass(frozen=True)
class Job:
    """A job of a sweep that has ended."""

    number: int
    settings: str
    """Overrides in which the jobs differ."""
    objective: float | None
    """None: it failed, or its figure is not finite."""
    outcome: str
    """Directory of the run, or what it failed with."""


@contextmanager
def recorded_jobs(subcommand: str) -> Iterator[list[Any]]:
    """Yields a list to which Hydra's `JobReturn` of every job launched inside is added.

    A launcher hands results to its sweeper alone, and a callback of Hydra's runs where the job
    does: so the launcher is looked over where Hydra makes it. Raises `UserError` when the sweeper
    would go the wrong way.
    """
    from hydra.core.plugins import Plugins
    from hydra.core.utils import JobStatus

    found: list[Any] = []
    plugins: Any = Plugins.instance()
    make = plugins.instantiate_launcher

    def looked_over(*arguments: Any, **named: Any) -> Any:
        sweeper = named["config"].hydra.sweeper
        objective, better = OBJECTIVES.get(subcommand, ("", ""))
        direction = sweeper.get("direction")
        asked = str(getattr(direction, "name", direction))
        if objective and direction is not None and asked != better:
            raise UserError(
                f"hydra.sweeper.direction={asked}: {subcommand} returns {objective}, and "
                f"the best is found with hydra.sweeper.direction={better}"
            )
        launcher = make(*arguments, **named)
        launch = launcher.launch

        def launch_and_keep(overrides: Any, initial_job_idx: int) -> Any:
            launched = launch(overrides, initial_job_idx=initial_job_idx)
            for job in launched if objective else ():
                # Optuna ends a sweep at a figure that it cannot compare.
                if job.status == JobStatus.COMPLETED and not math.isfinite(job.return_value):
                    error = FloatingPointError(f"{objective} is {job.return_value}")
                    job.status, job.return_value = JobStatus.FAILED, error
            found.extend(launched)
            return launched

        # Some launchers are sent to where the job runs, and the wrapper must not go with them.
        return _LookedOver(launch_and_keep)

    plugins.instantiate_launcher = looked_over
    try:
        yield found
    finally:
        del plugins.instantiate_launcher


class _LookedOver:
    """What a sweeper needs of a launcher."""

    def __init__(self, launch: Any) -> None:
        self.launch = launch


def jobs_of(subcommand: str, returned: Sequence[Any], typed: Sequence[str]) -> list[Job]:
    """The jobs in order: the best first, those that failed last. typed: the command's arguments."""
    from hydra.core.utils import JobStatus

    overrides = [list(job.overrides or ()) for job in returned]
    common = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
    as_typed = {text.lower() for text in typed}
    common |= {text for given in overrides for text in given if text.lower() in as_typed}
    jobs = []
    for number, (job, given) in enumerate(zip(returned, overrides, strict=True)):
        settings = " ".join(text for text in given if text not in common)
        if job.status == JobStatus.COMPLETED:
            outcome = _run_dir(subcommand, job.cfg, number)
            jobs.append(Job(number, settings, float(job.return_value), outcome))
        else:
            error = job._return_value
            line = next(iter(str(error).splitlines()), "")
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            jobs.append(Job(number, settings, None, f"failed: {kind}{line}"))
    sign = -1 if OBJECTIVES[subcommand][1] == "maximize" else 1
    return sorted(
        jobs, key=lambda job: (job.objective is None, sign * (job.objective or 0.0), job.number)
    )


def _run_dir(subcommand: str, composed: Any, number: int) -> str:
    config: TrainingConfig = to_dataclass(subcommand, composed)
    config.name_suffix = config.name_suffix or str(number)
    return str(config.run_dir)

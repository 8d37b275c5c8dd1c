"""A run in Weights & Biases; its files are in `report/wandb/`.

Project, entity, group and mode are those of W&B's environment variables: with
`WANDB_MODE=offline` nothing is sent, and `wandb sync` does it later. What W&B would add of its own,
figures of the machine, code, git and packages, is switched off.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from llmstages.errors import UserError
from llmstages.report.metrics import scalars
from llmstages.report.trackers import PROJECT, TrackedRun

FILE_NAMES = r"(offline-)?run-.*|latest-run|debug.*\.log"
"""What W&B writes into `report/wandb/`."""
SENDING = ("online", "shared", "run")
SILENT = ("offline", "disabled", "dryrun")
"""Values of `WANDB_MODE`."""
FINISH_SECONDS = 60.0
"""A server that has gone must not hold a process whose training is over."""


def check() -> None:
    """Raise `UserError` where W&B would not do what is asked, or nobody has logged in to send."""
    import wandb

    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        raise UserError(
            "logger=wandb: W&B knows no WANDB_DISABLED and would send the run: WANDB_MODE=disabled"
        )
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode not in (*SENDING, *SILENT):
        raise UserError(f"WANDB_MODE={mode}: choose one of {', '.join((*SENDING, *SILENT))}")
    if mode in SILENT:
        return
    try:
        logged_in = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise UserError(f"logger=wandb: {error}") from error
    if not logged_in:
        raise UserError(
            "logger=wandb: nobody is logged in: `wandb login`, or WANDB_API_KEY, or "
            "WANDB_MODE=offline to send nothing"
        )


class WandbRun:
    """A tracker.

    W&B takes steps in order only: those that it has are left out, and an evaluation that was made
    up stands at the step after the last that it has.
    """

    def __init__(
        self, run: TrackedRun, resume: str | None, earlier: Sequence[Mapping[str, Any]]
    ) -> None:
        import wandb

        self._is_new = run.is_new
        run.report_dir.mkdir(exist_ok=True)
        group = str(PurePosixPath(run.name).parent)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(run.report_dir),
            id=resume,
            resume="allow",
            name=run.name,
            group=os.environ.get("WANDB_RUN_GROUP") or (None if group == "." else group),
            job_type=run.stage,
            config=dict(run.config),
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                finish_timeout=FINISH_SECONDS,
                save_code=False,
                disable_code=True,
                disable_git=True,
                x_save_requirements=False,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
            ),
        )
        self.id: str = self._run.id
        # Offline nothing is known of what it has; a further part begins where this process does.
        if resume is None or not self._run.settings._offline:
            for entry in earlier:
                self.record(entry)

    def record(self, entry: Mapping[str, Any]) -> None:
        """Log a line of `metrics.jsonl`."""
        first_step = self._run.starting_step
        if self._is_new(entry, first_step):
            self._run.log(scalars(entry), step=max(entry["step"], first_step))

    def finish(self, figures: Mapping[str, float], status: str) -> None:
        """End the run."""
        self._run.summary.update({**figures, "summary/status": status})
        self._run.finish(exit_code=0 if status == "finished" else 1)


start = WandbRun

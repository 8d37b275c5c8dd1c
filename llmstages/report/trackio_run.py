"""A run in Trackio: an SQLite file in `TRACKIO_DIR`, the Space of `TRACKIO_SPACE_ID`, or a server.

Trackio has no summary: its figures are logged at the last step as `summary/<name>`.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import PurePosixPath
from typing import Any
from uuid import uuid4

from llmstages.report.metrics import scalars
from llmstages.report.trackers import PROJECT, TrackedRun


class TrackioRun:
    """A tracker. Trackio finds a run by its name, which so ends in letters of its own."""

    def __init__(
        self, run: TrackedRun, resume: str | None, earlier: Sequence[Mapping[str, Any]]
    ) -> None:
        import trackio
        from trackio import context_vars

        self.id = resume or f"{run.name}-{uuid4().hex[:8]}"
        self._step = 0
        self._is_new = run.is_new
        group = str(PurePosixPath(run.name).parent)
        with redirect_stdout(sys.stderr):  # standard output is for results
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=self.id,
                group=None if group == "." else group,
                config={**run.config, "stage": run.stage},
                resume="allow" if resume else "never",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        context_vars.current_run.set(None)  # or the next run's start would end this one
        # It would take a step twice, so those that are done again are left out.
        self._first_step = self._run._next_step if resume else 0
        for entry in earlier:
            self.record(entry)

    def record(self, entry: Mapping[str, Any]) -> None:
        """Log a line of `metrics.jsonl`."""
        self._step = entry["step"]
        if self._is_new(entry, self._first_step):
            self._run.log(scalars(entry), step=self._step)

    def finish(self, figures: Mapping[str, float], status: str) -> None:
        """End the run."""
        self._run.log({**figures, "summary/status": status}, step=self._step)
        with redirect_stdout(sys.stderr):
            self._run.finish()


start = TrackioRun

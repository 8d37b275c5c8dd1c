"""The metrics of a run as TensorBoard event files: `report/tensorboard/`.

Names are those of `metrics.jsonl`, steps are optimizer steps; figures of the summary are
`summary/<name>`, and stand beside the settings on the page HPARAMS. torch brings the writer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llmstages.report.metrics import scalars
from llmstages.report.trackers import TrackedRun, flatten

EVENT_FILE_PREFIX = "events.out.tfevents."
DIRECTORY = "tensorboard"
FLUSH_SECONDS = 10
"""A killed process loses no more than this of its events."""


class EventFiles:
    """A tracker: writes every figure of every entry.

    A resumed run writes a further file, whose first event tells TensorBoard to drop the steps that
    are done again. `earlier` entries are written when there is no event file yet.
    """

    id = DIRECTORY

    def __init__(
        self, run: TrackedRun, resume: str | None, earlier: Sequence[Mapping[str, Any]]
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        directory = run.report_dir / DIRECTORY
        self._config = {"stage": run.stage, **flatten(run.config)}
        self._step = max((entry["step"] for entry in earlier), default=0)
        resumed = any(directory.glob(f"{EVENT_FILE_PREFIX}*"))
        self._writer = SummaryWriter(
            str(directory),
            purge_step=self._step + 1 if resumed else None,
            flush_secs=FLUSH_SECONDS,
        )
        for entry in () if resumed else earlier:
            self.record(entry)

    def record(self, entry: Mapping[str, Any]) -> None:
        """Write the figures of a line of `metrics.jsonl`."""
        self._step = entry["step"]
        for name, value in scalars(entry).items():
            self._writer.add_scalar(name, value, self._step)
        if "event" in entry:
            self._writer.flush()

    def finish(self, figures: Mapping[str, float], status: str) -> None:
        """Write what is left."""
        from torch.utils.tensorboard.summary import hparams

        settings = {
            name: value if isinstance(value, (bool, int, float)) else str(value)
            for name, value in {**self._config, "status": status}.items()
        }
        for summary in hparams(settings, dict(figures)):  # type: ignore[no-untyped-call]
            self._writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
        for name, value in figures.items():
            self._writer.add_scalar(name, value, self._step)
        self._writer.close()


start = EventFiles

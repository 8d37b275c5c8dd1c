"""The metrics of a run as TensorBoard event files: `report/tensorboard/`.

Names are those of `metrics.jsonl`, steps are optimizer steps. TensorBoard is the extra
`tensorboard`; torch brings the writer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmstages.errors import UserError
from llmstages.report.metrics import scalars

EVENT_FILE_PREFIX = "events.out.tfevents."
FLUSH_SECONDS = 10
"""A killed process loses no more than this of its events."""


def check_tensorboard() -> None:
    """Raise `UserError` when TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UserError(
            "report.tensorboard=true needs TensorBoard: install it with "
            "pip install 'llmstages[tensorboard]'"
        ) from None


class EventFiles:
    """Writes every figure of every entry; an observer.

    A resumed run writes a further file, whose first event tells TensorBoard to drop the steps that
    are done again. `earlier` entries are written when there is no event file yet.
    """

    def __init__(self, directory: Path, earlier: Sequence[Mapping[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        resumed = any(directory.glob(f"{EVENT_FILE_PREFIX}*"))
        next_step = max((entry["step"] for entry in earlier), default=0) + 1
        self._writer = SummaryWriter(
            str(directory),
            purge_step=next_step if resumed else None,
            flush_secs=FLUSH_SECONDS,
        )
        for entry in () if resumed else earlier:
            self.record(entry)

    def record(self, entry: Mapping[str, Any]) -> None:
        """Write the figures of a line of `metrics.jsonl`."""
        for name, value in scalars(entry).items():
            self._writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

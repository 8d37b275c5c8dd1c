"""Figures of a step that the host reads without making the device wait.

Reading a number of a GPU makes the host wait until all work that was queued before is done, and the
GPU then waits for the host to queue more. So a step's figures are copied to pinned memory by the
device itself, and read after the next step has been queued.
"""

import torch
from torch import Tensor


class Figures:
    """A few numbers on their way from the device to the host."""

    def __init__(self, values: Tensor) -> None:
        """values: [n] on any device."""
        self.values = values.detach()
        self.copied: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self.values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self.values.copy_(values.detach(), non_blocking=True)
            self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.copied.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """The numbers; waits until the device has come so far, not for what was queued after."""
        if self.copied is not None:
            self.copied.synchronize()
        numbers: list[float] = self.values.tolist()
        return numbers

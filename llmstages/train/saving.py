"""Checkpoints written while training goes on: what they hold is copied, and a thread writes it.

At most one is being written. Whatever goes wrong in the thread is raised where the loop saves next,
or waits. Without memory for the copy the loop waits for the writing instead.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from llmstages.disk import free_bytes
from llmstages.errors import UserError

MEMORY_SHARE = 0.5
"""Of the memory that is free on the host, at most this much is taken for the copy."""


class CheckpointWriter:
    """Writes one checkpoint after the other, in a thread of its own."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.writing_seconds = 0.0
        """Spent in writing, by the thread or not."""
        self.waiting_seconds = 0.0
        """For which training stood still: copying, and waiting for the one before."""
        self.count = 0
        """Checkpoints that were begun."""

    def save(
        self,
        tensors: Mapping[str, Tensor],
        write: Callable[[Mapping[str, Tensor]], None],
        unchanging: Collection[str] = (),
    ) -> None:
        """Copy tensors to the host and have write(copies) done in the background.

        unchanging: names of those that no step changes, which need no copy where they are on the
        host. Raises what went wrong in the writing before this one.
        """
        begin = time.monotonic()
        self.count += 1
        self._join()
        as_they_are = {
            name: tensor.contiguous()
            for name, tensor in tensors.items()
            if name in unchanging and tensor.device.type == "cpu"
        }
        changing = {name: t for name, t in tensors.items() if name not in as_they_are}
        size = sum(tensor.nbytes for tensor in changing.values())
        if self.buffers or size < MEMORY_SHARE * available_memory_bytes():
            copies = self._copied(changing) | as_they_are
            self.thread = threading.Thread(
                target=self._run, args=(write, copies), name="checkpoint", daemon=True
            )
            self.thread.start()
        else:
            self._run(write, {name: tensor.cpu() for name, tensor in tensors.items()})
            self._raise()
        self.waiting_seconds += time.monotonic() - begin

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        """What is being written is written to its end, unless the user would not wait."""
        if kind is None:
            self.wait()
        elif self.thread is not None and not issubclass(kind, KeyboardInterrupt):
            self.thread.join()

    def wait(self) -> None:
        """Wait until everything is written; raises what went wrong."""
        self._join()

    def facts(self) -> dict[str, float]:
        """What saving took, for `summary.json`."""
        return {
            "checkpoints": self.count,
            "seconds": round(self.writing_seconds, 3),
            "waited_seconds": round(self.waiting_seconds, 3),
        }

    def _copied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors on the host, in memory that is used again for each checkpoint."""
        for name, tensor in tensors.items():
            if name not in self.buffers:
                pinned = tensor.device.type == "cuda"
                self.buffers[name] = torch.empty(
                    tensor.shape, dtype=tensor.dtype, pin_memory=pinned
                )
            self.buffers[name].copy_(tensor, non_blocking=True)
        if any(tensor.device.type == "cuda" for tensor in tensors.values()):
            torch.cuda.synchronize()
        return {name: self.buffers[name] for name in tensors}

    def _run(
        self, write: Callable[[Mapping[str, Tensor]], None], copies: Mapping[str, Tensor]
    ) -> None:
        begin = time.monotonic()
        try:
            write(copies)
        except BaseException as error:  # raised where the loop looks next
            self.error = error
        self.writing_seconds += time.monotonic() - begin

    def _join(self) -> None:
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        self._raise()

    def _raise(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error


def available_memory_bytes() -> float:
    """Memory of the host that can be had without swapping; no limit where that is not known."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return float("inf")


def _size(num_bytes: float) -> str:
    """As people say it: 5.2 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"


def require_room(directory: Path, checkpoint_bytes: int, count: int) -> None:
    """Raise `UserError` when the disk has no room for `count` checkpoints more."""
    free = free_bytes(directory)
    needed = checkpoint_bytes * count
    if free < needed:
        raise UserError(
            f"{directory}: {count} checkpoints of {_size(checkpoint_bytes)} may stand "
            f"there at a time, {_size(needed)}, and {_size(free)} are free: "
            "make room, set runs_dir= to another disk, or checkpoint.keep=1"
        )

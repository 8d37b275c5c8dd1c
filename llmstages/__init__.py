"""From raw text to a specialist language model in four stages: collect, pretrain, finetune, use."""

import time

__version__ = "0.1.0"

_process_began: float | None = time.monotonic()


def take_start_seconds() -> float:
    """When the work at hand began, on the clock of `time.monotonic`.

    The first call gives the moment this package was first imported, so that time budgets count the
    heavy imports too; later ones (further jobs of a sweep) give the present.
    """
    global _process_began
    began, _process_began = _process_began, None
    return time.monotonic() if began is None else began

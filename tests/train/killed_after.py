"""A run in several processes that ends after some steps: killed_after.py STEPS WORD ..."""

import os
import sys

from llmstages.cli import main
from llmstages.train.loop import Loop

STEPS = int(sys.argv[1])
whole = Loop.step


def step(loop: Loop) -> dict[str, float]:
    if loop.progress.step >= STEPS:
        loop.writer.wait()
        os._exit(9)
    return whole(loop)


Loop.step = step  # type: ignore[method-assign]
sys.exit(main(sys.argv[2:]))

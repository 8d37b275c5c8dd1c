"""`llmstages-lm-eval`: the command of EleutherAI's evaluation harness, which knows our checkpoints.

The harness finds models in a table of its own, to which a package cannot add from outside. So this
program adds `--model llmstages` (`llmstages/evaluate/harness_model.py`) and hands over; everything
else it does and prints is the harness's.
"""

import os
import sys

from llmstages.errors import UserError


def main() -> int:
    """Run the harness on the process's arguments; returns the exit status."""
    # Packages that the harness uses would tell their makers of what is loaded, local files too.
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        print(
            "error: llmstages-lm-eval needs lm-eval: install it with "
            "pip install 'llmstages[harness]'",
            file=sys.stderr,
        )
        return 2
    import llmstages.evaluate.harness_model  # noqa: F401  enters itself into the table

    try:
        cli_evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

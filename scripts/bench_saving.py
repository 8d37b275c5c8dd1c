"""How long training waits for its checkpoints, which a thread writes.

    python scripts/bench_saving.py [MODEL ...] [--every 8] [--saves 4] [--json FILE]

Each model (a file of conf/model; `tiny` and `small` unless named) is pretrained on random words and
saved every few steps. Shown are the size of a checkpoint, the seconds of writing, hashing and
syncing one, the seconds for which training stood still for it (copying its tensors, or waiting for
the one before), and how much slower steps were while one was written. A CPU computes on the cores
that write. Times are those of an idle machine.
"""

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measurement import widen_output, write_results
from torture import collect_words

from llmstages.report.terminal import table
from llmstages.train.device import choose_device

BATCH_TOKENS = 1024


def measure(model: str, corpus: Path, runs: Path, every: int, saves: int) -> dict[str, Any]:
    """Pretrain one model; what saving cost."""
    words = [
        *("pretrain", str(corpus), f"runs_dir={runs}", f"name={model}", f"model={model}"),
        *(f"steps={every * saves}", f"checkpoint.every_steps={every}", "compile='off'"),
        *(f"batch_tokens={BATCH_TOKENS}", "evaluate.num_samples=0", "evaluate.max_tokens=512"),
        *(f"evaluate.every_steps={every * saves}", "report.curves=false"),
    ]
    done = subprocess.run([sys.executable, "-m", "llmstages", *words], capture_output=True)
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    run = runs / model
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    saving = summary["saving"]
    files = [path for path in (run / "last").resolve().rglob("*") if path.is_file()]
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [entry for entry in map(json.loads, lines) if "loss" in entry][1:]
    seconds = {e["step"]: BATCH_TOKENS / e["tokens_per_second"] for e in steps}
    each = saving["seconds"] / saving["checkpoints"]
    overlapped = math.ceil(each / statistics.median(seconds.values()))
    during = [s for step, s in seconds.items() if step > every and (step - 1) % every < overlapped]
    apart = [s for step, s in seconds.items() if step <= every or (step - 1) % every >= overlapped]
    return {
        "model": model,
        "parameters": summary["model_shape"]["parameters"],
        "checkpoint_megabytes": sum(path.stat().st_size for path in files) / 1e6,
        "checkpoints": saving["checkpoints"],
        "writing_seconds": each,
        "waited_seconds": saving["waited_seconds"] / saving["checkpoints"],
        "waited_share": saving["waited_seconds"] / saving["seconds"],
        "step_seconds": statistics.median(apart),
        "step_seconds_while_writing": statistics.median(during),
    }


def main() -> int:
    """Measure, print the table, keep it as JSON."""
    widen_output()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["tiny", "small"])
    parser.add_argument("--every", type=int, default=8, help="steps between checkpoints")
    parser.add_argument("--saves", type=int, default=4, help="checkpoints of each model")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        corpus = collect_words(Path(name), random.Random(0))
        found = [
            measure(model, corpus, Path(name) / "runs", arguments.every, arguments.saves)
            for model in arguments.models
        ]
    rows = [
        (
            r["model"],
            r["parameters"],
            r["checkpoint_megabytes"],
            r["writing_seconds"],
            r["waited_seconds"],
            f"{r['waited_share']:.1%}",
            f"{r['step_seconds']:.3g}, {r['step_seconds_while_writing']:.3g}",
        )
        for r in found
    ]
    names = (
        "model",
        "parameters",
        "MB",
        "s to write",
        "s waited",
        "share",
        "s a step, and writing",
    )
    table("checkpoints", names, rows, to_output=True)
    if arguments.json:
        device = choose_device("auto")
        write_results(arguments.json, __file__, sys.argv[1:], device, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

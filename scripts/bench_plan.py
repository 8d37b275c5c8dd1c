"""What `llmstages plan` foretells of pretraining runs, beside what they take.

    python scripts/bench_plan.py [CORPUS_DIR] [--json FILE]

Each run is planned first, then done, in processes of their own with the same words: three sizes of
model on a corpus of random words, or on one that is named. Compared are the seconds of the whole
run, tokens a second, and peak memory. Times are those of an idle machine: on one that does other
things at the same time they say nothing.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measurement import widen_output, write_results
from torture import collect_words

from llmstages.report.terminal import table
from llmstages.train.device import choose_device

RUNS = {
    "nano": ("model=nano", "steps=300", "batch_tokens=2048"),
    "micro": ("model=micro", "steps=60", "batch_tokens=4096"),
    "tiny": ("model=tiny", "steps=20", "batch_tokens=8192"),
}
SHARED = ("evaluate.max_tokens=4096", "compile='off'")


def llmstages(*words: str) -> tuple[str, float]:
    """Standard output of a command, and its seconds."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "llmstages", *words], capture_output=True)
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    return done.stdout.decode(), time.monotonic() - began


def measure(name: str, corpus: Path, runs: Path) -> dict[str, Any]:
    """Plan a run and do it."""
    words = (str(corpus), *RUNS[name], *SHARED, f"runs_dir={runs}", f"name={name}")
    printed, plan_seconds = llmstages("plan", *words, "json=true")
    plan = json.loads(printed)
    llmstages("pretrain", *words)
    summary = json.loads((runs / name / "summary.json").read_text(encoding="utf-8"))
    foretold, took = plan["time"]["seconds"], summary["seconds"]
    return {
        "run": name,
        "words": [*RUNS[name], *SHARED],
        "parameters": plan["model"]["parameters"],
        "tokens": summary["tokens"],
        "plan_seconds": plan_seconds,
        "foretold_seconds": foretold,
        "seconds": took,
        "error": foretold / took - 1,
        "foretold_tokens_per_second": plan["time"]["tokens_per_second"],
        "tokens_per_second": summary["tokens_per_second"],
        "foretold_memory_bytes": plan["memory"]["total"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
    }


def main() -> int:
    """Measure, print the table, keep it as JSON."""
    widen_output()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", nargs="?", type=Path)
    parser.add_argument("--runs", nargs="+", choices=tuple(RUNS), default=list(RUNS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        corpus = arguments.corpus or collect_words(Path(directory), random.Random(0))
        found = [measure(name, corpus, Path(directory) / "runs") for name in arguments.runs]
    columns = ("run", "parameters", "tokens", "s foretold", "s", "error", "tokens/s foretold")
    rows = [
        (
            r["run"],
            r["parameters"],
            r["tokens"],
            r["foretold_seconds"],
            r["seconds"],
            f"{r['error']:+.1%}",
            r["foretold_tokens_per_second"],
            r["tokens_per_second"],
        )
        for r in found
    ]
    table("plans", (*columns, "tokens/s"), rows, to_output=True)
    if arguments.json:
        device = choose_device("auto")
        write_results(arguments.json, __file__, sys.argv[1:], device, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

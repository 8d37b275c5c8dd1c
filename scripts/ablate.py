"""What each choice of pretraining is worth: the same run with one thing changed, several seeds.

    python scripts/ablate.py CORPUS_DIR [--model nano] [--tokens 2e6] [--seeds 0,1] [--json FILE]
                             [--only NAME,...] [--jobs 1] [OVERRIDE ...]

Every run is `llmstages pretrain CORPUS_DIR model=... budget.tokens=... seed=...` with the overrides
of its row. The table gives validation bits a byte (mean over the seeds, and half the range between
them), the difference from the default, and tokens a second. Rows take turns, seed by seed, so that
a slow hour does not fall on one of them alone. With `--jobs 2` two runs share the cores of the
machine: small models learn the same in much less time, and speeds are those of half the cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from measurement import provenance, write_record

from llmstages.report.terminal import say, table
from llmstages.train.device import choose_device, hardware_facts, machine_facts
from llmstages.train.optimizer import EMBEDDING_LR_RATIO

CHOICES = {
    "default": [],
    "AdamW instead of Muon": ["optim=adamw", "optim.lr=null", "optim.embedding_lr=null"],
    "without NorMuon's scaling of neurons": ["optim.neuron_beta=0"],
    "weight decay not cautious": ["optim.cautious_decay=false"],
    "no weight decay": ["optim.weight_decay=0"],
    "3 Newton-Schulz iterations": ["optim.num_iterations=3"],
    "5 Newton-Schulz iterations": ["optim.num_iterations=5"],
    "momentum 0.9": ["optim.momentum=0.9"],
    "momentum 0.95": ["optim.momentum=0.95"],
    "no clipping": ["optim.clip_norm=0"],
    "z-loss 1e-4": ["z_loss=1e-4"],
    "cosine": ["schedule=cosine"],
    "WSD": ["schedule=wsd", "schedule.decay_share=0.3"],
    "linear decay from the start": ["schedule=wsd", "schedule.decay_share=0.98"],
    "NanoChat layout": ["model.layout=nanochat", "model.intermediate_size=480"],
    "Qwen3 layout": ["model.layout=qwen3", "model.intermediate_size=344"],
    "untied embeddings": ["model.tie_embeddings=false"],
    "attention inside documents only": ["mask_documents=true"],
    "learning rates halved": ["@lr=0.5"],
    "learning rates doubled": ["@lr=2"],
    "batch halved": ["@batch=0.5"],
    "batch doubled": ["@batch=2"],
}
"""Name of a row -> its overrides; `@` marks one that is a multiple of what the default derives."""


def run(
    corpus: str, name: str, overrides: list[str], runs_dir: Path, num_threads: int
) -> dict[str, float]:
    """One run; its bits a byte, speed, rate and batch."""
    command = [sys.executable, "-m", "llmstages", "pretrain", corpus, f"name={name}"]
    command += [f"runs_dir={runs_dir}", "evaluate.every_steps=1000000", "evaluate.num_samples=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
    subprocess.run([*command, *overrides], check=True, stdout=subprocess.DEVNULL, env=environment)
    summary = json.loads((runs_dir / name / "summary.json").read_text(encoding="utf-8"))
    plan = json.loads((runs_dir / name / "plan.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((runs_dir / name / "config.yaml").read_text(encoding="utf-8"))
    embedding_lr = config["optim"]["embedding_lr"] or EMBEDDING_LR_RATIO * plan["lr"]
    return {
        "bits_per_byte": summary["metrics"]["val_bits_per_byte"],
        "tokens_per_second": summary["tokens_per_second"],
        "seconds": summary["seconds"],
        "lr": plan["lr"],
        "embedding_lr": embedding_lr,
        "batch_tokens": summary["tokens"] / summary["steps"],
    }


def resolved(overrides: list[str], default: dict[str, float]) -> list[str]:
    """Overrides with the multiples worked out."""
    found = []
    for override in overrides:
        key, _, factor = override.partition("=")
        if key == "@lr":
            found.append(f"optim.lr={float(factor) * default['lr']}")
            found.append(f"optim.embedding_lr={float(factor) * default['embedding_lr']}")
        elif key == "@batch":
            found.append(f"batch_tokens={round(float(factor) * default['batch_tokens'])}")
        else:
            found.append(override)
    return found


def main() -> None:
    """Run what is asked for, print the table, keep it as JSON."""
    parser = argparse.ArgumentParser(description="Ablations of pretraining.")
    parser.add_argument("corpus")
    parser.add_argument("overrides", nargs="*", help="for all rows, such as model.num_layers=2")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tokens", type=float, default=2e6)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", help="names of rows, with commas; the default is always run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--json", help="write rows and machine to this file too")
    arguments = parser.parse_args()
    rows = dict(CHOICES)
    if arguments.only:
        wanted = ["default", *arguments.only.split(",")]
        if unknown := [name for name in wanted if name not in rows]:
            parser.error(f"no such row: {unknown[0]}; there are {', '.join(rows)}")
        rows = {name: rows[name] for name in wanted}
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    num_threads = max(1, len(os.sched_getaffinity(0)) // arguments.jobs)
    with tempfile.TemporaryDirectory() as folder:

        def measure(name: str, seed: int) -> None:
            common = [f"model={arguments.model}", f"budget.tokens={int(arguments.tokens)}"]
            common += [f"seed={seed}", *arguments.overrides]
            own = resolved(rows[name], found["default"][0]) if name != "default" else []
            run_name = f"{list(rows).index(name)}-{seed}"
            result = run(arguments.corpus, run_name, [*common, *own], Path(folder), num_threads)
            found[name].append({"seed": seed, **result})
            say(f"{name}, seed {seed}: {result['bits_per_byte']:.4f} bits a byte")

        turns = [(name, seed) for seed in seeds for name in rows]
        measure(*turns.pop(0))  # the default: others are multiples of what it derives
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for done in [pool.submit(measure, *turn) for turn in turns]:
                done.result()
    means = {
        name: statistics.mean(r["bits_per_byte"] for r in results)
        for name, results in found.items()
    }
    lines = []
    for name, results in found.items():
        bits = [r["bits_per_byte"] for r in results]
        speed = statistics.median(r["tokens_per_second"] for r in results)
        lines.append(
            (
                name,
                " ".join(rows[name]),
                f"{means[name]:.4f}",
                f"{(max(bits) - min(bits)) / 2:.4f}",
                f"{means[name] - means['default']:+.4f}",
                f"{speed:,.0f}",
            )
        )
    columns = ("choice", "overrides", "bits a byte", "half range", "difference", "tokens/s")
    table(f"{arguments.model}, {arguments.tokens:,.0f} tokens", columns, lines, to_output=True)
    if arguments.json:
        device = choose_device("auto")
        record = {
            **provenance(__file__, sys.argv[1:]),
            "machine": machine_facts(device) | hardware_facts(device),
            "rows": {
                name: {"overrides": rows[name], "runs": sorted(results, key=lambda r: r["seed"])}
                for name, results in found.items()
            },
        }
        write_record(Path(arguments.json), record)


if __name__ == "__main__":
    main()

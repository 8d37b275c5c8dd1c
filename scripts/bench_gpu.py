"""All that is to be measured of pretraining on a GPU, in one command of less than ten minutes.

    python scripts/bench_gpu.py [--parts speed,large,memory,resume,learn] [--corpus CORPUS_DIR]
        [--nanogpt DIR] [--nanochat DIR] [--fp8] [--wheels .wheels] [--json FILE]

It needs a GPU machine with Python 3.12 and PyTorch, this checkout, and no network: packages that
are missing there are installed into a temporary folder from the wheels that `make gpu-wheels` has
put beside it. Checkouts of peers and a finished corpus (`llmstages collect`, with its tokens, made
elsewhere) are carried along.

    speed    124M at 1,024 tokens, compiled, beside the peers given
    large    354M, 757M and 1.3B at 2,048 tokens; with --fp8 again with 8-bit products
    memory   1.3B at 2,048 tokens, optimizer included, in a process capped to 24 GB
    resume   a run that is interrupted and continued, against one that is not: the same losses?
    learn    bits a byte after equal time, beside nanochat; needs --corpus

Each job is a process of its own with a time limit. One that fails or finds no time left is noted,
and the others go on; parts can be run in calls of their own (`learn` takes most of a call). The
record of each job, with device, versions, commit and date, is put into the JSON file in place of
the one of an earlier call. Two calls do it all: `--parts speed,large,memory` and `--parts
resume,learn`. --dry-run does all of it with tiny models on whatever there is; it shows
that everything runs and measures nothing.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measurement import COMMIT_VARIABLE, ROOT, provenance, write_record

PARTS = ("speed", "large", "memory", "resume", "learn")
TOTAL_SECONDS = 560.0

# What llmstages imports for pretraining, by name of import, and the distribution that brings it.
PACKAGES = {
    "hydra": "hydra_core",
    "omegaconf": "omegaconf",
    "antlr4": "antlr4_python3_runtime",
    "sentencepiece": "sentencepiece",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "pyarrow": "pyarrow",
    "numpy": "numpy",
    "rich": "rich",
    "markdown_it": "markdown_it_py",
    "mdurl": "mdurl",
    "pygments": "pygments",
    "charset_normalizer": "charset_normalizer",
    "jinja2": "jinja2",
    "markupsafe": "markupsafe",
    "yaml": "pyyaml",
    "packaging": "packaging",
}


@dataclass(frozen=True)
class Job:
    """One thing to measure."""

    part: str
    name: str
    command: list[str]
    seconds: float
    """Time limit."""
    least_seconds: float = 20.0
    """It is not begun with less time left."""


def install_missing(wheels: Path, target: Path) -> None:
    """Install what cannot be imported from a folder of wheels. Ends the program if one lacks."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return
    found: list[str] = []
    for name in missing:
        stem = PACKAGES[name] + "-"
        wheel = next((p for p in wheels.glob("*.whl") if p.name.lower().startswith(stem)), None)
        if wheel is None:
            sys.exit(
                f"error: {name} is not installed and {wheels} has no wheel of it: run "
                f"`make gpu-wheels GPU_PACKAGES='{' '.join(PACKAGES[n] for n in missing)}'` "
                "where there is a network, and carry the folder along"
            )
        found.append(str(wheel))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), *found], check=True, stdout=sys.stderr)


def jobs_of(arguments: argparse.Namespace, out: Path) -> list[Job]:
    """The jobs of the parts asked for, in order."""
    bench = [sys.executable, str(ROOT / "scripts" / "bench_pretrain.py")]
    compare = [sys.executable, str(ROOT / "scripts" / "compare_pretrain.py")]
    dry = arguments.dry_run
    peers = [word for folder in (arguments.nanogpt, arguments.nanochat) if folder
             for word in ("--peer", str(folder))]  # fmt: skip
    tiny = ["--dry-run", "--compile", "off"] if dry else []

    def speed(name: str, part: str, words: Sequence[str], seconds: float) -> Job:
        written = ["--json", str(out / f"{name}.json")]
        return Job(part, name, [*bench, *words, *written, *tiny], seconds)

    at_2048 = ["--context-length", "2048", "--seconds", "3"]
    jobs = [
        speed("speed", "speed", ["small", *peers], 240),
        speed("large", "large", ["medium", "large", "xl", *at_2048], 300),
        speed(
            "memory",
            "memory",
            [
                *("xl", *at_2048, "--memory-gb", "24", "--batch-tokens", "16384"),
                *("--micro-batch-tokens", "8192", "--activation-checkpointing"),
            ],
            150,
        ),
    ]
    if arguments.fp8:
        jobs += [
            speed("speed-fp8", "speed", ["small", "--fp8"], 120),
            speed("large-fp8", "large", ["large", "xl", *at_2048, "--fp8"], 200),
        ]
    if arguments.corpus is not None:
        corpus = str(arguments.corpus.resolve())
        own = [sys.executable, __file__, "--job", "resume", "--corpus", corpus]
        own += ["--json", str(out / "resume.json"), *(["--dry-run"] if dry else [])]
        jobs.append(Job("resume", "resume", own, 150))
        learn = [*compare, corpus, "--seconds", str(arguments.learn_seconds)]
        learn += ["--json", str(out / "learn.json"), "--model", arguments.model]
        if arguments.nanochat:
            learn += ["--peer", str(arguments.nanochat)]
        if dry:
            learn += [
                "--compile",
                "off",
                "--set",
                "model.context_length=32",
                "--set",
                "batch_tokens=64",
            ]
        both = (2 if arguments.nanochat else 1) * arguments.learn_seconds
        jobs.append(Job("learn", "learn", learn, both + 90, both + 30))
    return [job for job in jobs if job.part in arguments.parts]


def run_job(job: Job, left: float, out: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Its record, or why there is none."""
    if left < job.least_seconds:
        return {"error": f"not begun: {left:.0f} s left, it needs {job.least_seconds:.0f}"}
    log = out / f"{job.name}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            job.command, stdout=file, stderr=file, env=environment, start_new_session=True
        )
        try:
            status = process.wait(min(job.seconds, left))
            why = f"status {status}"
        except subprocess.TimeoutExpired:
            status, why = 1, f"stopped after {min(job.seconds, left):.0f} s"
        finally:
            kill_group(process)
    text = log.read_text(encoding="utf-8", errors="replace")
    print(text, flush=True)
    path = out / f"{job.name}.json"
    if status == 0 and path.is_file():
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return {"error": f"{why}: {said[-1] if said else 'it said nothing'}"}


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a job and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def check_resume(arguments: argparse.Namespace) -> None:
    """Train twice, once with an interruption, and compare the losses of all steps."""
    steps, model = (4, "nano") if arguments.dry_run else (20, "small")
    words = [
        *(sys.executable, "-m", "llmstages", "pretrain", str(arguments.corpus)),
        *(
            f"steps={steps}",
            f"model={model}",
            "evaluate.num_samples=0",
            "evaluate.max_tokens=20000",
        ),
        *(f"checkpoint.every_steps={steps // 2}", f"evaluate.every_steps={steps}"),
    ]
    if arguments.dry_run:
        words += ["model.context_length=32", "batch_tokens=64", "compile=off"]
    else:
        words += ["batch_tokens=32768", "compile=on"]
    with tempfile.TemporaryDirectory() as runs:
        command = [*words, f"runs_dir={runs}"]
        subprocess.run([*command, "name=whole"], check=True)
        checkpoint = Path(runs) / "cut" / "checkpoints" / f"step-{steps // 2:06d}"
        process = subprocess.Popen([*command, "name=cut"])
        while process.poll() is None and not checkpoint.is_dir():
            time.sleep(0.02)
        process.kill()
        process.wait()
        if not checkpoint.is_dir() or (Path(runs) / "cut" / "summary.json").exists():
            raise SystemExit("resume: the run to be cut off was not cut off half-way")
        subprocess.run([*command, "name=cut"], check=True)
        whole, cut = losses(Path(runs) / "whole"), losses(Path(runs) / "cut")
    result = {
        "model": model,
        "steps": steps,
        "interrupted_after_step": steps // 2,
        "identical": whole == cut,
        "largest_difference": max(abs(a - b) for a, b in zip(whole, cut, strict=True)),
    }
    print(result)
    write_record(arguments.json, {**provenance(__file__, sys.argv[1:]), "results": result})


def losses(run: Path) -> list[float]:
    """Training losses of a run, by step."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--corpus", type=Path, help="a finished corpus with its tokens")
    parser.add_argument("--model", default="small", help="what learns: a size of conf/model")
    parser.add_argument("--learn-seconds", type=float, default=240.0)
    parser.add_argument("--nanogpt", type=Path, help="a checkout")
    parser.add_argument("--nanochat", type=Path, help="a checkout")
    parser.add_argument("--fp8", action="store_true", help="measure fp8 too")
    parser.add_argument("--wheels", type=Path, default=ROOT / ".wheels")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "pretrain_gpu.json")
    parser.add_argument("--dry-run", action="store_true", help="tiny: does it run?")
    parser.add_argument("--commit", help="what is measured, where git cannot tell")
    parser.add_argument("--job", choices=("resume",), help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    arguments.parts = arguments.parts.split(",")
    if unknown := sorted(set(arguments.parts) - set(PARTS)):
        parser.error(f"--parts {unknown[0]}: choose from {', '.join(PARTS)}")
    if arguments.dry_run:
        arguments.model = "nano"
        if arguments.json == parser.get_default("json"):
            arguments.json = Path(tempfile.gettempdir()) / "pretrain_gpu_dry_run.json"
    return arguments


def main(words: Sequence[str]) -> None:
    """Run the jobs and write what they measured after each."""
    began = time.monotonic()
    arguments = parse(words)
    if arguments.job == "resume":
        check_resume(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        site, out = Path(folder) / "site", Path(folder) / "out"
        site.mkdir()
        out.mkdir()
        install_missing(arguments.wheels, site)
        before = os.environ.get("PYTHONPATH")
        path = [str(ROOT), str(site), *([before] if before else [])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
        if arguments.commit:
            environment[COMMIT_VARIABLE] = arguments.commit
        records: dict[str, Any] = {}
        if arguments.json.is_file():
            records = json.loads(arguments.json.read_text(encoding="utf-8"))
        for part in ("resume", "learn"):
            if part in arguments.parts and arguments.corpus is None:
                print(f"{part}: not measured: it needs --corpus", flush=True)
        for job in jobs_of(arguments, out):
            left = TOTAL_SECONDS - (time.monotonic() - began)
            begin = time.monotonic()
            record = run_job(job, left, out, environment)
            record["job_seconds"] = round(time.monotonic() - begin, 1)
            if arguments.dry_run:
                record["dry_run"] = True
            if "error" not in record or "error" in records.get(job.name, record):
                records[job.name] = record  # a failure does not take the place of figures
            write_record(arguments.json, records)
            print(f"{job.name}: {record.get('error', 'measured')}", flush=True)
    print(f"{time.monotonic() - began:.0f} s in all; figures in {arguments.json.name}")


if __name__ == "__main__":
    main(sys.argv[1:])

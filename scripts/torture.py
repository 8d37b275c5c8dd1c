"""Kill training runs again and again, and see whether they end as if nothing had been.

    python scripts/torture.py [--kills 30] [--stages pretrain,instruct,...] [--seed 0]
                              [--processes 1] [--jobs 2] [--json FILE]

Each stage, fine-tuning with adapters among them, is run once undisturbed and once killed with
SIGKILL at random moments until it has been killed often enough; then it may end. Three of four
kills wait for what is rare, and hit it within its first milliseconds: a checkpoint whose files are
being written, one that is complete but has not got its name, an evaluation. In the end weights,
optimizer state and the lines of all steps and evaluations must be equal, bit for bit.
The exit status is 1 when one is not. The data are random words, made on the spot.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measurement import widen_output, write_results

from llmstages.report.terminal import say, table
from llmstages.train.device import choose_device

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "ro", "su", "ta", "ve")
STAGES = ("pretrain", "instruct", "instruct-lora", "classify", "classify-dora")
STEPS = 300
EVALUATE_EVERY = 20
AIMS = ("anything", "saving", "renaming", "evaluating")
"""What kills wait for, in turn."""
COMMON = [
    *("device=cpu", "compile='off'", "report.curves=false", "evaluate.num_samples=0"),
    *(f"steps={STEPS}", f"evaluate.every_steps={EVALUATE_EVERY}", "checkpoint.every_steps=7"),
]
TINY = [
    *("model=nano", "model.num_layers=2", "model.hidden_size=64", "model.num_heads=2"),
    *("model.num_kv_heads=1", "model.head_dim=32", "model.intermediate_size=128"),
    *("model.context_length=64", "batch_tokens=512", "dropout=0.1", "evaluate.max_tokens=2000"),
]


def words_of(generator: random.Random, count: int) -> str:
    """Random words."""
    return " ".join(
        "".join(generator.choices(SYLLABLES, k=generator.randint(1, 3))) for _ in range(count)
    )


def collect_words(folder: Path, generator: random.Random) -> Path:
    """A corpus of random words."""
    (folder / "texts").mkdir()
    for number in range(60):
        text = words_of(generator, 1500)
        (folder / "texts" / f"{number}.txt").write_text(text, encoding="utf-8")
    collect = ["collect", str(folder / "texts"), "name=texts", "quality='off'", "dedup='off'"]
    collect += ["tokenizer.vocab_size=512", f"corpora_dir={folder / 'corpora'}"]
    command = [sys.executable, "-m", "llmstages", *collect]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "corpora" / "texts"


def make_data(folder: Path, seed: int) -> dict[str, list[str]]:
    """A corpus, pairs and labelled rows; for each stage its command line without a name."""
    generator = random.Random(seed)
    corpus = collect_words(folder, generator)
    pairs = [
        {"prompt": words_of(generator, 6), "completion": words_of(generator, 4)} for _ in range(200)
    ]
    rows = [{"text": words_of(generator, 8), "label": generator.choice("abc")} for _ in range(300)]
    for name, entries in (("pairs", pairs), ("rows", rows)):
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    runs = f"runs_dir={folder / 'runs'}"
    base = f"base={folder / 'runs' / 'pretrain-whole'}"
    instruct = [
        *("finetune-instruct", str(folder / "pairs.jsonl"), runs, base, *COMMON),
        *("batch_tokens=256", "max_new_tokens=4", "evaluate.num_generations=4"),
        "max_cut_share=0.5",
    ]
    classify = [
        *("finetune-classify", str(folder / "rows.jsonl"), runs, base, *COMMON),
        *("batch_size=8", "baselines=false"),
    ]
    return {
        "pretrain": ["pretrain", str(corpus), runs, *COMMON, *TINY],
        "instruct": instruct,
        "instruct-lora": [*instruct, "method=lora"],
        "classify": classify,
        "classify-dora": [*classify, "method=lora", "method.decomposed=true"],
    }


def start(words: list[str], processes: int) -> "subprocess.Popen[bytes]":
    """A training process, or several, in a group of their own."""
    command = [sys.executable, "-m", "llmstages"]
    if processes > 1:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, "-m", *launcher, "-m", "llmstages"]
    return subprocess.Popen(
        [*command, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # so small a model is quickest on one
        start_new_session=True,
    )


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and theirs: torchrun gives each its own session."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for path in children for child in path.read_text().split()]
    return found + [further for child in found for further in descendants(child)]


def moment(run: Path) -> str:
    """What a run is at, as far as its files say."""
    names = [path.name for path in (run / "checkpoints").glob("step-*")]
    if any(name.endswith(".old") for name in names):
        return "replacing"
    for name in names:
        if name.endswith(".tmp"):
            complete = (run / "checkpoints" / name / "llmstages.json").is_file()
            return "renaming" if complete else "saving"
    metrics = run / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines() if metrics.is_file() else []
    if not lines:
        return "before the first step"
    try:
        entry = json.loads(lines[-1])
    except json.JSONDecodeError:
        return "writing metrics"
    evaluated = entry["step"] % EVALUATE_EVERY == 0 and "event" not in entry
    return "evaluating" if evaluated else "between saves"


def kill_once(
    words: list[str], run: Path, generator: random.Random, processes: int, aim: str
) -> str | None:
    """Start or continue a run and kill it; what it was at, None when it had ended before."""
    process = start(words, processes)
    began = (run / "metrics.jsonl").stat().st_size if (run / "metrics.jsonl").is_file() else 0
    while process.poll() is None:  # until it does steps of its own
        path = run / "metrics.jsonl"
        if path.is_file() and path.stat().st_size not in (0, began):
            break
        time.sleep(0.002)
    if aim == "anything":
        time.sleep(generator.uniform(0, 1.0))
    else:
        while process.poll() is None and moment(run) != aim:
            time.sleep(0.0002)
        if aim != "renaming":
            time.sleep(generator.uniform(0, 0.02))
    if process.poll() is None:
        for pid in [process.pid, *descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.communicate()
    if process.returncode == 0:
        return None
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"{run.name}: it failed with status {process.returncode}")
    return moment(run)


def result(run: Path) -> dict[str, Any]:
    """Everything of a finished run that must be equal."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [
        {key: value for key, value in json.loads(line).items() if "second" not in key}
        for line in lines
    ]
    files = ("model.safetensors", "trainer/state.safetensors")
    hashes = {
        f"{link}/{name}": hashlib.sha256((run / link / name).read_bytes()).hexdigest()
        for link in ("last", "best")
        for name in files
    }
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return {"entries": entries, **hashes, "metrics": summary["metrics"], "steps": summary["steps"]}


def torture(
    stage: str, words: list[str], runs: Path, kills: int, seed: int, processes: int
) -> dict[str, Any]:
    """Kill one stage so many times; what was hit, and whether the end is the same."""
    begin = time.monotonic()
    generator = random.Random(f"{seed} {stage}")
    whole = runs / f"{stage}-whole"
    process = start([*words, f"name={whole.name}"], processes)
    error = process.communicate()[1]
    if process.returncode:
        raise SystemExit(error.decode())
    moments: Counter[str] = Counter()
    rounds = 0
    identical = True
    while moments.total() < kills:
        rounds += 1
        run = runs / f"{stage}-killed-{rounds}"
        command = [*words, f"name={run.name}"]
        while moments.total() < kills:
            aim = AIMS[moments.total() % len(AIMS)]
            hit = kill_once(command, run, generator, processes, aim)
            if hit is None:
                break
            moments[hit] += 1
        if hit:  # enough: let it come to its end
            process = start(command, processes)
            process.communicate()
        identical = identical and result(run) == result(whole)
        say(f"{stage}: {moments.total()} kills, {'as' if identical else 'NOT as'} undisturbed")
    return {
        "stage": stage,
        "kills": moments.total(),
        "moments": dict(moments),
        "runs": rounds,
        "identical": identical,
        "seconds": round(time.monotonic() - begin, 1),
    }


def main() -> int:
    """Torture each stage, print the table, keep it as JSON; 1 when a run ended otherwise."""
    widen_output()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30, help="of each stage")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="of each run, by torchrun")
    parser.add_argument("--jobs", type=int, default=2, help="stages at a time")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    stages = arguments.stages.split(",")
    if unknown := set(stages) - set(STAGES):
        parser.error(f"no stage {sorted(unknown)[0]}: {', '.join(STAGES)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = make_data(folder, arguments.seed)
        if stages != ["pretrain"]:  # the others start from it
            process = start([*commands["pretrain"], "name=pretrain-whole"], arguments.processes)
            if process.wait():
                raise SystemExit("the base model could not be made")
        with ThreadPoolExecutor(arguments.jobs) as pool:
            kept = (folder / "runs", arguments.kills, arguments.seed, arguments.processes)
            found = list(pool.map(lambda stage: torture(stage, commands[stage], *kept), stages))
    rows = [
        (
            r["stage"],
            r["kills"],
            ", ".join(f"{k} {v}" for k, v in r["moments"].items()),
            r["runs"],
            "yes" if r["identical"] else "NO",
            r["seconds"],
        )
        for r in found
    ]
    table(
        f"runs of {STEPS} steps, {arguments.processes} process(es)",
        ("stage", "kills", "while", "runs", "identical", "seconds"),
        rows,
        to_output=True,
    )
    if arguments.json:
        device = choose_device("cpu")
        write_results(arguments.json, __file__, sys.argv[1:], device, found)
    return 0 if all(r["identical"] for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())

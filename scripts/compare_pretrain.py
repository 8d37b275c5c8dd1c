"""Bits a byte of held-out text after equal wall-clock time, beside other projects' models.

    python scripts/compare_pretrain.py CORPUS_DIR --seconds 240 --peer DIR [--peer DIR ...]
        [--model small] [--set KEY=VALUE ...] [--json FILE]

llmstages trains through its command line (`llmstages pretrain CORPUS_DIR budget.seconds=...`). Each
peer (a checkout of nanoGPT, nanochat or litgpt, or the word `transformers`) is given the same token
shards in the same order, the same shape as far as it has one, and as many tokens a step unless
`--peer-batch-tokens` says otherwise; its model, initialisation, optimizer and schedule are its own.
The schedule needs the number of steps beforehand: they are found as llmstages finds them, from a
few steps that are timed and undone, and lowered once, half-way, when the machine has become slower.

The time counts from the start of each process, imports and compilation included. llmstages pays
for its evaluations and checkpoints out of it; a peer makes none, and its last evaluation is not
counted. All of the validation text is evaluated, in windows of the context length that do not
overlap, every token once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from bench_pretrain import facts
from contestants.contestant import Order, Peer
from contestants.opening import open_peer, peer_name
from measurement import Answers, Worker, WorkerFailed, provenance, widen_output, write_record

from llmstages.data.corpus import Corpus
from llmstages.data.shards import Shard, write_token_shards
from llmstages.data.streams import PretrainingData
from llmstages.errors import UserError
from llmstages.evaluate.held_out import held_out_metrics
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.report.terminal import say, table, warn
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.device import choose_device, choose_dtype, peak_memory_bytes, wait_for

PROBE_STEPS = 7
MAX_PROBE_SHARE = 0.15


# ---- llmstages -----------------------------------------------------------------------------------


def train_ours(arguments: argparse.Namespace, runs_dir: Path) -> dict[str, Any]:
    """Train through the command line; the row of the table, and what peers are told."""
    command = [
        *(sys.executable, "-m", "llmstages", "pretrain", str(arguments.corpus)),
        *(f"runs_dir={runs_dir}", "name=ours", f"budget.seconds={arguments.seconds}"),
        *(f"model={arguments.model}", f"device={arguments.device}", f"dtype={arguments.dtype}"),
        *(f"compile={arguments.compile}", "evaluate.num_samples=0", *arguments.set),
    ]
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise UserError(f"llmstages pretrain ended with status {done.returncode}")
    run = runs_dir / "ours"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    shape = {key: value for key, value in summary["model_shape"].items() if key != "parameters"}
    return {
        "who": "llmstages",
        "how": f"its command line, {' '.join(arguments.set) or 'defaults'}",
        "parameters": summary["model_shape"]["parameters"],
        "shape": shape,
        "compiled": plan["compile"] != "off",
        "context_length": shape["context_length"],
        "rows_per_step": plan["rows_per_step"],
        "rows_per_micro_batch": plan["rows_per_micro_batch"],
        "batch_tokens": plan["rows_per_step"] * shape["context_length"],
        "steps": summary["steps"],
        "tokens": summary["tokens"],
        "tokens_per_second": summary["tokens_per_second"],
        "training_seconds": summary["seconds"],
        "seconds": round(time.monotonic() - began, 2),
        **whole_validation(run, arguments),
        "peak_memory_bytes": summary["peak_memory_bytes"],
    }


def whole_validation(run: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Figures of a run on all validation text: with a time budget it may have read a part only."""
    checkpoint = load_checkpoint(run)
    device = choose_device(arguments.device)
    _, validation_shards = shards_of(arguments.corpus)
    found = held_out_metrics(
        checkpoint.model.to(device),
        validation_shards,
        context_length=checkpoint.model.config.context_length,
        rows_per_batch=16,
        device=device,
        dtype=choose_dtype(arguments.dtype, device),
    )
    return {"nats_per_token": found["val_loss"], "bits_per_byte": found["val_bits_per_byte"]}


# ---- a peer, in a process of its own -------------------------------------------------------------


def work(order: dict[str, Any]) -> None:
    """Train and evaluate one peer."""
    answers = Answers()
    device = choose_device(order["device"])
    dtype = choose_dtype(order["dtype"], device)
    train_shards, validation_shards = shards_of(Path(order["corpus"]))
    shape = TransformerConfig(**order["shape"])
    data = PretrainingData(
        train_shards,
        context_length=order["context_length"],
        rows_per_step=order["rows_per_step"],
        rows_per_micro_batch=min(order["rows_per_micro_batch"], order["rows_per_step"]),
        seed=0,
    )
    task = Order(shape, data, device, dtype, order["compiled"], order["lr_factor"])
    peer = open_peer(order["who"], task)
    deadline = order["began"] + order["seconds"]
    trained = train_peer(peer, data, deadline)
    result = held_out_metrics(
        cast(Transformer, peer.module),  # the loss knows what it is
        validation_shards,
        context_length=order["context_length"],
        rows_per_batch=data.rows_per_micro_batch,
        device=device,
        dtype=torch.float32,  # the peer sees to its own type
        loss=lambda _, batch: peer.loss_sum(batch),
    )
    answers.give(
        {
            "how": peer.how,
            "parameters": peer.num_parameters,
            "batch_tokens": data.tokens_per_step,
            "peak_memory_bytes": peak_memory_bytes(device),
            **trained,
            "training_seconds": round(trained["ended"] - order["began"], 2),
            "nats_per_token": result["val_loss"],
            "bits_per_byte": result["val_bits_per_byte"],
            **facts(device, dtype),
        }
    )


def shards_of(corpus_dir: Path) -> tuple[list[Shard], list[Shard]]:
    """Training and validation shards of a corpus with its own tokenizer."""
    corpus = Corpus.open(corpus_dir)
    shards = write_token_shards(corpus, Tokenizer.load(corpus.tokenizer_dir))
    return shards.of_split("train"), shards.of_split("validation")


def train_peer(peer: Peer, data: PretrainingData, deadline: float) -> dict[str, Any]:
    """Train until the deadline (on the clock of `time.time`); steps, tokens and speed."""
    device = peer.order.device
    before = {name: value.detach().clone() for name, value in peer.module.state_dict().items()}
    began = time.time()
    probed: list[float] = []
    while len(probed) <= PROBE_STEPS:
        begin = time.time()
        try:
            peer.optimizer_step(len(probed), 10**6)
        except torch.OutOfMemoryError:
            if data.rows_per_micro_batch == 1:
                raise
            torch.cuda.empty_cache()
            data.rows_per_micro_batch = (data.rows_per_micro_batch + 1) // 2
            continue
        wait_for(device)
        probed.append(time.time() - begin)
        if time.time() - began > MAX_PROBE_SHARE * (deadline - began):
            break
    peer.module.load_state_dict(before)
    peer.restart()
    steps = max(1, int((deadline - time.time()) / median(probed[1:] or probed)))
    begin, step, checked = time.time(), 0, False
    while step < steps:
        peer.optimizer_step(step, steps)
        step += 1
        if not checked and (step >= steps // 2 or time.time() > (begin + deadline) / 2):
            checked = True
            step_seconds = (time.time() - begin) / step
            possible = step + int((deadline - time.time()) / step_seconds)
            if possible < 0.97 * steps:
                steps = max(step + 1, possible)
    wait_for(device)
    ended = time.time()
    return {
        "steps": steps,
        "tokens": steps * data.tokens_per_step,
        "tokens_per_second": round(steps * data.tokens_per_step / (ended - begin), 1),
        "first_step_seconds": round(probed[0], 2),
        "ended": ended,
    }


# ---- in the main process -------------------------------------------------------------------------


def run_peer(where: str, ours: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The row of a peer."""
    rows_per_step = ours["rows_per_step"]
    if arguments.peer_batch_tokens:
        rows_per_step = max(1, arguments.peer_batch_tokens // ours["context_length"])
    worker = Worker(
        __file__,
        {
            "who": where,
            "corpus": str(arguments.corpus),
            "shape": ours["shape"],
            "context_length": ours["context_length"],
            "rows_per_step": rows_per_step,
            "rows_per_micro_batch": ours["rows_per_micro_batch"],
            "device": arguments.device,
            "dtype": arguments.dtype,
            "compiled": ours["compiled"]
            if arguments.compile == "auto"
            else arguments.compile == "on",
            "lr_factor": arguments.peer_lr_factor,
            "seconds": arguments.seconds,
            "began": time.time(),
        },
    )
    row: dict[str, Any] = {"who": peer_name(where)}
    try:
        row |= worker.answer()
        row["seconds"] = round(time.monotonic() - worker.began, 2)
    except WorkerFailed as error:
        warn(f"{row['who']} cannot be trained: {error}")
        row["error"] = str(error)
    finally:
        worker.close()
    return row


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises `UserError` for a peer that is none."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS_DIR")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--peer", action="append", default=[], metavar="DIR")
    parser.add_argument("--model", default="micro", help="a size of conf/model")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="settings of llmstages"
    )
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--peer-batch-tokens", type=int, help="tokens a step; else those of ours")
    parser.add_argument(
        "--peer-lr-factor", type=float, default=1.0, help="times a peer's own rates"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args(words)
    for where in arguments.peer:
        peer_name(where)
    return arguments


def main(words: Sequence[str]) -> None:
    """Train all, print the table, write the record."""
    arguments = parse(words)
    corpus = Corpus.open(arguments.corpus)
    train_shards, _ = shards_of(arguments.corpus)  # so that nobody's time goes into tokenizing
    corpus_tokens = sum(shard.info.tokens for shard in train_shards)
    with tempfile.TemporaryDirectory() as runs_dir:
        ours = train_ours(arguments, Path(runs_dir))
    rows = [ours, *(run_peer(where, ours, arguments) for where in arguments.peer)]
    for row in rows:
        row["epochs"] = row["tokens"] / corpus_tokens if "tokens" in row else None
    widen_output()
    columns = {
        "who": "who",
        "parameters": "parameters",
        "batch_tokens": "batch tokens",
        "steps": "steps",
        "tokens": "tokens seen",
        "epochs": "epochs",
        "tokens_per_second": "tokens/s",
        "training_seconds": "seconds",
        "bits_per_byte": "bits a byte",
    }
    table(
        f"{arguments.corpus.name}, {corpus_tokens:,} training tokens, {arguments.seconds:g} s each",
        list(columns.values()),
        [[row[key] for key in columns] for row in rows if "error" not in row],
        to_output=True,
    )
    for row in rows:
        say(f"{row['who']}: {row.get('how') or 'not measured: ' + row['error']}")
    if arguments.json:
        device = choose_device(arguments.device)
        write_record(
            arguments.json,
            {
                **provenance(__file__, words),
                **facts(device, choose_dtype(arguments.dtype, device)),
                "corpus": {"name": corpus.name, "manifest": corpus.manifest_hash},
                "corpus_tokens": corpus_tokens,
                "seconds": arguments.seconds,
                "results": rows,
            },
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(json.loads(sys.argv[2]))
    else:
        try:
            main(sys.argv[1:])
        except UserError as error:
            sys.exit(f"error: {error}")

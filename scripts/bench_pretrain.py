"""Pretraining speed of this machine: tokens a second, share of the peak, memory, for some shapes.

    python scripts/bench_pretrain.py [SHAPE ...] [--peer DIR ...] [--compile on|off|both]
        [--batch-tokens N] [--vocab-size N] [--context-length N] [--json FILE]

SHAPE is a size of conf/model, or keys of the model group: `hidden_size=384,num_layers=6`, or both:
`small,context_length=2048`; `reference` is width 384, 6 layers, 256 tokens. What follows from the
width is derived unless given. Without any, those for this kind of device are taken.

Whole optimizer steps (batches, forward, backward, clipping, optimizer) on random tokens, done by
the training loop's own code. Each contestant of a shape has a process of its own, so that its peak
memory is its own; all of them are started, then measured in turns (A B A B ...), because a machine
has other work too: the median of the rounds is shown with the slowest and the fastest.

--peer DIR times another project's model with its own optimizer on the same batches: a checkout of
nanoGPT, nanochat or litgpt, or the word `transformers`. Width, layers, heads, context, vocabulary
and batch are the same, and FLOPs are counted by one formula (docs/architecture.md); the table has
the parameters of each. A peer that fails says so in a line.

"of peak" is the share of the data sheet's bf16 FLOP/s, for known devices; "of ceiling" that of the
fastest matrix product measured in this run, before the first and after the last shape. "start" is
the time from the start of the process to the end of its first step, compilation included.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from contestants.contestant import Contestant, Order
from contestants.opening import open_peer, peer_name
from measurement import Answers, Worker, WorkerFailed, provenance, widen_output, write_record

from llmstages.config.folders import conf_dir
from llmstages.config.groups import ModelConfig
from llmstages.config.stages import PretrainConfig
from llmstages.data.batch import Batch
from llmstages.data.streams import stack_rows
from llmstages.errors import UserError
from llmstages.model.transformer import TransformerConfig
from llmstages.report.terminal import say, table, warn
from llmstages.stages.pretrain import transformer_config
from llmstages.stages.shared.setup import choose_machine
from llmstages.train.device import (
    choose_device,
    choose_dtype,
    hardware_facts,
    has_compiler,
    keep_freed_memory,
    machine_facts,
    measured_peak_flops,
    peak_flops,
    peak_memory_bytes,
    wait_for,
)

REFERENCE = "hidden_size=384,num_layers=6,context_length=256"
SHAPES = {"cpu": ["nano", "micro", "reference"], "cuda": ["small", "medium", "large"]}
VOCAB_SIZE = {"cpu": 8192, "cuda": 50_304}
BATCH_TOKENS = {"cpu": 8192, "cuda": 131_072}
SECONDS = 4.0
ROUNDS = 3
WARM_UP_STEPS = 2
OURS = "llmstages"


# ---- shapes and batches --------------------------------------------------------------------------


def parse_shape(text: str, vocab_size: int, context_length: int | None) -> TransformerConfig:
    """The shape meant by a word of the command line. Raises `UserError`."""
    import yaml

    known = {field.name: field.type for field in fields(ModelConfig)} | {"vocab_size": int}
    values: dict[str, Any] = {}
    for part in text.replace("reference", REFERENCE).split(","):
        key, equals, value = part.partition("=")
        if not equals:
            path = conf_dir() / "model" / f"{part}.yaml"
            if not path.is_file():
                names = ", ".join(sorted(path.stem for path in path.parent.glob("*.yaml")))
                raise UserError(f"{part}: no size of conf/model ({names}) and no key=value")
            values |= yaml.safe_load(path.read_text(encoding="utf-8"))
        elif key not in known:
            raise UserError(f"{text}: {key} is no key of the model group")
        else:
            values[key] = yaml.safe_load(value)
    if context_length is not None:
        values["context_length"] = context_length
    vocab_size = values.pop("vocab_size", vocab_size)
    return transformer_config(ModelConfig(**derived_shape(values)), vocab_size)


def derived_shape(values: dict[str, Any]) -> dict[str, Any]:
    """Keys of the model group, with what follows from the width where it is not given.

    Heads of 64, all of them with keys of their own, and a feed-forward layer of 8/3 of the width in
    multiples of 64: as many parameters as the four-fold one that has no gate.
    """
    if "hidden_size" not in values:
        return values
    width = values["hidden_size"]
    head_dim = values.get("head_dim", 64 if width % 64 == 0 else width)
    heads = values.get("num_heads", max(1, width // head_dim))
    return {
        "head_dim": head_dim,
        "num_heads": heads,
        "num_kv_heads": heads,
        "intermediate_size": max(64, round(width * 8 / 3 / 64) * 64),
    } | values


class RandomRows:
    """Rows of random tokens: the same ones for whoever is measured."""

    def __init__(
        self, vocab_size: int, context_length: int, rows_per_step: int, rows_per_micro_batch: int
    ) -> None:
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.rows_per_step = rows_per_step
        self.rows_per_micro_batch = min(rows_per_micro_batch, rows_per_step)

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """Micro-batches of a step, a function of its number."""
        generator = np.random.default_rng(step)
        for first in range(0, self.rows_per_step, self.rows_per_micro_batch):
            rows = min(self.rows_per_micro_batch, self.rows_per_step - first)
            ids = generator.integers(0, self.vocab_size, (rows, self.context_length + 1))
            yield stack_rows([(row, "random") for row in ids])


# ---- in the worker -------------------------------------------------------------------------------


def work(order: dict[str, Any]) -> None:
    """The measuring side: build, do a first step, then a round for each line that comes in."""
    answers = Answers()
    device = choose_device(order["device"])
    if order["who"] in (OURS, "ceiling"):
        keep_freed_memory(device)  # a peer runs as its own scripts run it
    dtype = choose_dtype(order["dtype"], device)
    if order["who"] == "ceiling":
        flops, product = measured_peak_flops(device, dtype, order["seconds"])
        answers.give({"flops_per_second": flops, "shape": product, **facts(device, dtype)})
        return
    if order["memory_gb"] is not None and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(order["memory_gb"] * 1e9 / total)
    shape = TransformerConfig(**order["shape"])
    rows = RandomRows(
        shape.vocab_size,
        shape.context_length,
        max(1, order["batch_tokens"] // shape.context_length),
        max(1, order["micro_batch_tokens"] // shape.context_length),
    )
    task = Order(shape, rows, device, dtype, order["compiled"])
    contestant = open_contestant(order, task)
    steps = first_step(contestant, rows)
    wait_for(device)
    first = time.monotonic()
    for step in range(steps, steps + WARM_UP_STEPS):
        contestant.optimizer_step(step, 10**6)
    wait_for(device)
    answers.give(
        {
            "how": contestant.how,
            "parameters": contestant.num_parameters,
            "matrix_parameters": contestant.num_matrix_parameters,
            "flops_per_token": contestant.flops_per_token,
            "batch_tokens": task.batch_tokens,
            "micro_batch_tokens": rows.rows_per_micro_batch * rows.context_length,
            "warm_up_seconds": round(time.monotonic() - first, 2),
        }
    )
    step = steps + WARM_UP_STEPS
    for line in sys.stdin:
        seconds = json.loads(line)["seconds"]
        begin, done = time.monotonic(), 0
        while not done or time.monotonic() - begin < seconds:
            contestant.optimizer_step(step + done, 10**6)
            done += 1
        wait_for(device)
        took = time.monotonic() - begin
        step += done
        answers.give(
            {
                "steps": done,
                "tokens_per_second": done * task.batch_tokens / took,
                "peak_memory_bytes": peak_memory_bytes(device),
            }
        )


def open_contestant(order: dict[str, Any], task: Order) -> Contestant:
    """The one that the order names."""
    if order["who"] != OURS:
        return open_peer(order["who"], task)
    from contestants.ours import Ours

    return Ours(
        task, order["optimizer"], fp8=order["fp8"], checkpoint_blocks=order["checkpoint_blocks"]
    )


def first_step(contestant: Contestant, rows: RandomRows) -> int:
    """Do a first step, in smaller micro-batches while memory runs out; how many were tried."""
    tried = 0
    while True:
        tried += 1
        try:
            contestant.optimizer_step(tried - 1, 10**6)
            return tried
        except torch.OutOfMemoryError:
            if rows.rows_per_micro_batch == 1:
                raise
        torch.cuda.empty_cache()
        rows.rows_per_micro_batch = (rows.rows_per_micro_batch + 1) // 2


def facts(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "machine": machine_facts(device) | hardware_facts(device),
        "dtype": str(dtype).removeprefix("torch."),
        "data_sheet_flops_per_second": peak_flops(device),
    }


# ---- in the main process -------------------------------------------------------------------------


def measure_ceiling(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fastest matrix product at this moment."""
    worker = Worker(
        __file__,
        {
            "who": "ceiling",
            "device": arguments.device,
            "dtype": arguments.dtype,
            "seconds": 0.2 if arguments.dry_run else 3.0,
        },
    )
    try:
        return worker.answer()
    finally:
        worker.close()


def measure_shape(
    name: str, shape: TransformerConfig, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each contestant and mode, measured in turns."""
    rows: list[dict[str, Any]] = []
    workers: list[Worker] = []
    try:
        for who in [OURS, *arguments.peer]:
            for mode in arguments.modes:
                row: dict[str, Any] = {
                    "shape_name": name,
                    "who": OURS if who == OURS else peer_name(who),
                    "mode": mode,
                    "shape": asdict(shape),
                }
                worker = Worker(
                    __file__,
                    {
                        "who": who,
                        "optimizer": arguments.optim,
                        "fp8": arguments.fp8,
                        "checkpoint_blocks": arguments.activation_checkpointing,
                        "shape": asdict(shape),
                        "device": arguments.device,
                        "dtype": arguments.dtype,
                        "compiled": mode == "compiled",
                        "batch_tokens": arguments.batch_tokens,
                        "micro_batch_tokens": arguments.micro_batch_tokens,
                        "memory_gb": arguments.memory_gb,
                    },
                )
                try:
                    row |= worker.answer()
                except WorkerFailed as error:
                    warn(f"{name}: {row['who']} ({mode}) cannot be measured: {error}")
                    rows.append(row | {"error": str(error)})
                    worker.close()
                    continue
                started = time.monotonic() - worker.began - row["warm_up_seconds"]
                rows.append(row | {"start_seconds": round(started, 2), "rounds": []})
                workers.append(worker)
        running = [row for row in rows if "error" not in row]
        for _ in range(arguments.rounds):
            for row, worker in zip(running, workers, strict=True):
                if "error" in row:
                    continue
                try:
                    answer = worker.ask({"seconds": arguments.seconds})
                except WorkerFailed as error:
                    row["error"] = str(error)
                    continue
                row["rounds"].append(answer["tokens_per_second"])
                row["peak_memory_bytes"] = answer["peak_memory_bytes"]
    finally:
        for worker in workers:
            worker.close()
    return rows


def finish(rows: list[dict[str, Any]], ceiling: float, peak: float | None) -> None:
    """Add to each row what follows from its rounds, and to a peer's what it is beside ours."""
    for row in rows:
        if "error" in row:
            continue
        speeds = row["rounds"]
        flops = row["flops_per_token"] * median(speeds)
        row["tokens_per_second"] = spread(speeds)
        row["flops_per_second"] = flops
        row["mfu"] = None if peak is None else flops / peak
        row["share_of_ceiling"] = flops / ceiling
    for row in rows:
        ours = next(
            (
                other
                for other in rows
                if other["who"] == OURS
                and (other["shape_name"], other["mode"]) == (row["shape_name"], row["mode"])
            ),
            None,
        )
        if row["who"] == OURS or ours is None or "error" in row or "error" in ours:
            continue
        tokens = [a / b for a, b in zip(ours["rounds"], row["rounds"], strict=True)]
        per_token = ours["flops_per_token"] / row["flops_per_token"]
        row["ours_over_peer_tokens"] = spread(tokens)
        row["ours_over_peer_flops"] = spread([ratio * per_token for ratio in tokens])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of some values."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def label(row: dict[str, Any]) -> str:
    """A short name of a row's shape."""
    name, shape = row["shape_name"], row["shape"]
    if "hidden_size=" in name:
        return f"width {shape['hidden_size']}, {shape['num_layers']} layers"
    return str(name.partition(",")[0])


def show(rows: list[dict[str, Any]], ceiling: dict[str, Any], batch_tokens: int) -> None:
    """Print the tables."""
    widen_output()
    peak = ceiling["data_sheet_flops_per_second"]
    good = [row for row in rows if "error" not in row]
    table(
        f"pretraining, whole optimizer steps of {batch_tokens:,} tokens, {ceiling['dtype']}; "
        f"fastest matrix product {ceiling['flops_per_second'] / 1e9:,.0f} GFLOP/s"
        + (f", data sheet {peak / 1e9:,.0f}" if peak else ""),
        [
            "model",
            "who",
            "mode",
            "parameters",
            "context",
            "tokens/s",
            "slowest",
            "fastest",
            "GFLOP/s",
            "of peak",
            "of ceiling",
            "start s",
            "peak MB",
        ],
        [
            [
                label(row),
                row["who"],
                row["mode"],
                row["parameters"],
                row["shape"]["context_length"],
                round(row["tokens_per_second"]["median"]),
                round(row["tokens_per_second"]["min"]),
                round(row["tokens_per_second"]["max"]),
                round(row["flops_per_second"] / 1e9, 1),
                None if row["mfu"] is None else round(row["mfu"], 3),
                round(row["share_of_ceiling"], 3),
                row["start_seconds"],
                round(row["peak_memory_bytes"] / 1e6),
            ]
            for row in good
        ],
        to_output=True,
    )
    peers = [row for row in good if "ours_over_peer_flops" in row]
    if peers:
        table(
            "llmstages over the peer, round by round",
            [
                "model",
                "peer",
                "mode",
                "tokens/s",
                "FLOP/s",
                "least",
                "most",
                "the peer's step",
            ],
            [
                [
                    label(row),
                    row["who"],
                    row["mode"],
                    row["ours_over_peer_tokens"]["median"],
                    row["ours_over_peer_flops"]["median"],
                    row["ours_over_peer_flops"]["min"],
                    row["ours_over_peer_flops"]["max"],
                    row["how"],
                ]
                for row in peers
            ],
            to_output=True,
        )
    for row in rows:
        if "error" in row:
            say(f"not measured: {row['shape_name']}, {row['who']} ({row['mode']}): {row['error']}")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line, with defaults for this device. Raises `UserError`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", metavar="SHAPE")
    parser.add_argument("--peer", action="append", default=[], metavar="DIR")
    parser.add_argument("--compile", choices=("on", "off", "both"), default="on")
    parser.add_argument("--batch-tokens", type=int, help="tokens an optimizer step")
    parser.add_argument("--micro-batch-tokens", type=int, help="tokens through the model at once")
    parser.add_argument("--vocab-size", type=int)
    parser.add_argument("--context-length", type=int)
    parser.add_argument("--optim", default="muon", help="our optimizer: muon or adamw")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--fp8", action="store_true", help="our matrix products in 8 bits")
    parser.add_argument(
        "--activation-checkpointing", action="store_true", help="ours: compute blocks twice"
    )
    parser.add_argument("--memory-gb", type=float, help="cap on the GPU's memory, 1e9 bytes")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--dry-run", action="store_true", help="tiny: does it run?")
    arguments = parser.parse_args(words)
    machine = choose_machine(
        PretrainConfig(
            device=arguments.device,
            dtype=arguments.dtype,
            micro_batch_tokens=arguments.micro_batch_tokens,
        )
    )
    kind = "cuda" if machine.device.type == "cuda" else "cpu"
    arguments.device = machine.device.type
    arguments.micro_batch_tokens = machine.micro_batch_tokens
    arguments.shapes = arguments.shapes or SHAPES[kind]
    arguments.vocab_size = arguments.vocab_size or VOCAB_SIZE[kind]
    arguments.batch_tokens = arguments.batch_tokens or BATCH_TOKENS[kind]
    if arguments.dry_run:
        arguments.shapes = ["hidden_size=32,num_layers=1,context_length=32"]
        arguments.vocab_size, arguments.batch_tokens = 64, 64
        arguments.context_length = None
        arguments.seconds, arguments.rounds = 0.05, 1
    if arguments.compile != "off" and kind == "cpu" and not has_compiler():
        warn("torch.compile needs a C++ compiler, and none was found: measuring without")
        arguments.compile = "off"
    arguments.modes = {"on": ["compiled"], "off": ["eager"], "both": ["eager", "compiled"]}[
        arguments.compile
    ]
    for where in arguments.peer:
        peer_name(where)
    return arguments


def main(words: Sequence[str]) -> None:
    """Measure every shape, print the tables, write the record."""
    arguments = parse(words)
    shapes = {
        text: parse_shape(text, arguments.vocab_size, arguments.context_length)
        for text in arguments.shapes
    }
    before = measure_ceiling(arguments)
    rows: list[dict[str, Any]] = []
    for name, shape in shapes.items():
        rows += measure_shape(name, shape, arguments)
    after = before if arguments.dry_run else measure_ceiling(arguments)
    ceiling = max(before, after, key=lambda found: found["flops_per_second"])
    finish(rows, ceiling["flops_per_second"], ceiling["data_sheet_flops_per_second"])
    show(rows, ceiling, arguments.batch_tokens)
    if arguments.json:
        write_record(
            arguments.json,
            {
                **provenance(__file__, words),
                "machine": ceiling["machine"],
                "dtype": ceiling["dtype"],
                "data_sheet_flops_per_second": ceiling["data_sheet_flops_per_second"],
                "ceiling_flops_per_second": ceiling["flops_per_second"],
                "ceiling_before_flops_per_second": before["flops_per_second"],
                "ceiling_shape": ceiling["shape"],
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

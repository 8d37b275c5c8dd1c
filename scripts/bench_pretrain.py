"""Pretraining speed of this machine: tokens a second, share of the peak, memory, for some shapes.

    python scripts/bench_pretrain.py [--json FILE] [MODEL ...]

Whole optimizer steps on random tokens, as the training loop does them. Each shape is measured alone
in a process of its own, in eager mode and compiled where there is a compiler.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch

from llmstages.config.folders import conf_dir
from llmstages.config.groups import ModelConfig, OptimConfig
from llmstages.data.batch import Batch
from llmstages.data.streams import stack_rows
from llmstages.model.counts import flops_per_token, num_parameters
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import table
from llmstages.stages.pretrain import transformer_config
from llmstages.train.device import (
    choose_device,
    choose_dtype,
    has_compiler,
    machine_facts,
    peak_flops,
    peak_memory_bytes,
)
from llmstages.train.losses import dense_loss
from llmstages.train.optimizer import make_optimizers

VOCAB_SIZE = 8192
BATCH_TOKENS = 8192
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16_384}
SECONDS = 8.0
"""Measured after one step that is not; at least three steps."""


def model_config(name: str) -> ModelConfig:
    """A size of conf/model."""
    import yaml

    text = (conf_dir() / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    return ModelConfig(**yaml.safe_load(text))


def random_batches(context_length: int, micro_batch_tokens: int) -> Iterator[Batch]:
    """The micro-batches of one optimizer step."""
    generator = np.random.default_rng(0)
    rows = max(1, micro_batch_tokens // context_length)
    for _ in range(max(1, BATCH_TOKENS // (rows * context_length))):
        ids = generator.integers(0, VOCAB_SIZE, (rows, context_length + 1))
        yield stack_rows([(row, "random") for row in ids])


def measure(name: str, compiled: bool) -> dict[str, object]:
    """One row of the table."""
    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    model = Transformer(transformer_config(model_config(name), VOCAB_SIZE)).to(device)
    model.initialize(torch.Generator(device).manual_seed(0))
    optimizers = make_optimizers(model, OptimConfig(), 1e-3)
    loss_fn = torch.compile(dense_loss, dynamic=False) if compiled else dense_loss
    context_length = model.config.context_length
    batches = [
        batch.to(device)
        for batch in random_batches(context_length, MICRO_BATCH_TOKENS.get(device.type, 4096))
    ]
    tokens_per_step = sum(batch.num_real_tokens for batch in batches)

    def step() -> None:
        for batch in batches:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                loss, count = loss_fn(model, batch)
            (loss / count).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    began = time.monotonic()
    step()
    first = time.monotonic() - began
    began, steps = time.monotonic(), 0
    while steps < 3 or time.monotonic() - began < SECONDS:
        step()
        steps += 1
    tokens_per_second = steps * tokens_per_step / (time.monotonic() - began)
    flops = flops_per_token(model.config, context_length) * tokens_per_second
    peak = peak_flops(device)
    return {
        "model": name,
        "mode": "compiled" if compiled else "eager",
        "parameters": num_parameters(model.config),
        "context_length": context_length,
        "batch_tokens": tokens_per_step,
        "dtype": str(dtype).removeprefix("torch."),
        "tokens_per_second": round(tokens_per_second, 1),
        "gflops_per_second": round(flops / 1e9, 1),
        "mfu": None if peak is None else round(flops / peak, 4),
        "first_step_seconds": round(first, 2),
        "peak_memory_mb": round(peak_memory_bytes(device) / 1e6),
        "shape": asdict(model.config),
        "machine": machine_facts(device),
    }


def main() -> None:
    """Measure each shape in a process of its own, so that peak memory is that shape's."""
    parser = argparse.ArgumentParser(description="Pretraining speed of this machine.")
    parser.add_argument("models", nargs="*", default=["nano", "micro", "tiny"])
    parser.add_argument("--json", help="write the rows to this file too")
    parser.add_argument("--one", choices=("eager", "compiled"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.models[0], arguments.one == "compiled")))
        return
    modes = ["eager", "compiled"] if has_compiler() else ["eager"]
    rows = []
    for name in arguments.models:
        for mode in modes:
            command = [sys.executable, __file__, name, "--one", mode]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    columns = (
        "model",
        "mode",
        "parameters",
        "context_length",
        "tokens_per_second",
        "gflops_per_second",
        "mfu",
        "first_step_seconds",
        "peak_memory_mb",
    )
    table(
        "pretraining, whole optimizer steps",
        [column.replace("_", " ") for column in columns],
        [[row[column] for column in columns] for row in rows],
        to_output=True,
    )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)


if __name__ == "__main__":
    main()

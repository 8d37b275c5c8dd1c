"""Speed of generation: llmstages and transformers on the same model, prompts and device.

    python scripts/bench_generate.py [MODEL ...] [--new-tokens 128] [--batch 1,16] [--rounds 3]
        [--prompts FILE] [--threads N] [--device cpu] [--json FILE]

MODEL is a checkpoint or run directory, or a size of conf/model with random weights (`tiny` with a
vocabulary of 4,096; `small`, 124M parameters, of 50,304: both are the default). Transformers opens
the same checkpoint with AutoModelForCausalLM. Both continue prompts of unequal length by the
likeliest token, in float32 and without stopping; a reading of the prompts is part of the time, the
loading and the laying out of weights are not. Prompts are random tokens, or for a checkpoint the
first lines of FILE; llmstages guesses ahead what stood in a text before, which random weights make
rare. Within a process the two take turns, so that what
else the machine does hits both: beside tokens a second the table has the ratio of each round. The
answers must be the same tokens, and those of a batch the same as one prompt at a time: else it says
so, and the exit status is 1.

CPU seconds are those of the process, all threads together: a machine with other work inflates them
less than the time on the wall.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench_pretrain import parse_shape
from measurement import widen_output, write_record, write_results
from safetensors.torch import save_file

from llmstages.config.folders import conf_dir
from llmstages.model.counts import num_parameters
from llmstages.model.decoding import Decoder
from llmstages.model.generation import Sampling, generate
from llmstages.model.layouts import config_to_disk, disk_name
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import say, table, warn
from llmstages.train.checkpoint import load_checkpoint, resolve_checkpoint
from llmstages.train.device import choose_device, wait_for

MODELS = ["tiny", "small"]
VOCAB_SIZES = {"small": 50_304, "medium": 50_304, "large": 50_304, "xl": 50_304}
SMALL_VOCAB_SIZE = 4_096
SHORTEST_PROMPT, LONGEST_PROMPT = 16, 64

Tokens = list[list[int]]


def random_model(name: str) -> Transformer:
    """A size of conf/model whose weights are all random, so that its answers go on changing."""
    model = Transformer(parse_shape(name, VOCAB_SIZES.get(name, SMALL_VOCAB_SIZE), None))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            mean = 1.0 if parameter.dim() == 1 else 0.0
            parameter.normal_(mean, 0.05, generator=generator)
    return model.eval()


def open_both(name: str, device: torch.device) -> tuple[Transformer, Any]:
    """A model as llmstages and as transformers open it."""
    from transformers import AutoModelForCausalLM

    theirs: Any
    if not (conf_dir() / "model" / f"{name}.yaml").is_file():
        ours = load_checkpoint(name).model
        theirs = AutoModelForCausalLM.from_pretrained(resolve_checkpoint(name), dtype="float32")
    else:
        ours = random_model(name)
        layout = ours.config.layout
        weights = {
            disk_name(key, layout=layout, classifier=False): parameter.detach()
            for key, parameter in ours.named_parameters()
        }
        with tempfile.TemporaryDirectory() as folder:
            save_file(weights, Path(folder) / "model.safetensors", {"format": "pt"})
            disk = config_to_disk(ours.config, end_id=0, pad_id=1, labels=None)
            write_record(Path(folder) / "config.json", disk)
            theirs = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    theirs.generation_config.eos_token_id = None  # neither of the two stops
    theirs.generation_config.pad_token_id = 0
    return ours.to(device).eval(), theirs.to(device).eval()


def random_prompts(count: int, vocab_size: int) -> Tokens:
    """Prompts of unequal length."""
    generator = torch.Generator().manual_seed(1)
    span = LONGEST_PROMPT - SHORTEST_PROMPT
    lengths = [SHORTEST_PROMPT + 19 * index % span for index in range(count)]
    return [
        torch.randint(vocab_size, (length,), generator=generator).tolist() for length in lengths
    ]


def line_prompts(count: int, path: str, name: str) -> Tokens:
    """The first lines of a file as a checkpoint's tokenizer has them, cut to `LONGEST_PROMPT`."""
    tokenizer = load_checkpoint(name).tokenizer
    with Path(path).open(encoding="utf-8") as file:
        lines = [line.strip() for line in file if len(line.split()) >= SHORTEST_PROMPT]
    return [tokenizer.encode(line)[:LONGEST_PROMPT] for line in lines[:count]]


def our_way(decoder: Decoder, new_tokens: int) -> Callable[[Tokens], Tokens]:
    """Continues prompts with llmstages."""

    def answer(prompts: Tokens) -> Tokens:
        answers = generate(
            decoder, prompts, max_new_tokens=new_tokens, stop_ids=[], sampling=Sampling(0.0)
        )
        return [found.tokens for found in answers]

    return answer


def their_way(model: Any, new_tokens: int, device: torch.device) -> Callable[[Tokens], Tokens]:
    """Continues prompts with transformers, padded on the left as it wants them."""

    def answer(prompts: Tokens) -> Tokens:
        longest = max(map(len, prompts))
        missing = [longest - len(prompt) for prompt in prompts]
        pairs = list(zip(missing, prompts, strict=True))
        ids = torch.tensor([[0] * gap + prompt for gap, prompt in pairs], device=device)
        mask = torch.tensor([[0] * gap + [1] * len(prompt) for gap, prompt in pairs], device=device)
        found = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False)
        answers: Tokens = found[:, longest:].tolist()
        return answers

    return answer


def measure(name: str, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: a model and a number of prompts, in turns."""
    device = choose_device(arguments.device)
    model, foreign = open_both(name, device)
    room = model.config.context_length - LONGEST_PROMPT
    new_tokens = min(arguments.new_tokens, room)
    if arguments.prompts:
        prompts = line_prompts(batch, arguments.prompts, name)
    else:
        prompts = random_prompts(batch, model.config.vocab_size)
    ways = {
        "ours": our_way(Decoder(model), new_tokens),
        "theirs": their_way(foreign, new_tokens, device),
    }
    answers = {who: way(prompts) for who, way in ways.items()}  # also a first, unmeasured round
    apart = answers["ours"]
    if batch > 1 and not arguments.quick:
        apart = [ways["ours"]([prompt])[0] for prompt in prompts]
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    cpu: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(arguments.rounds):
        for who, way in ways.items():
            began, used = time.perf_counter(), time.process_time()
            way(prompts)
            wait_for(device)
            seconds[who].append(time.perf_counter() - began)
            cpu[who].append(time.process_time() - used)
    tokens = batch * new_tokens
    return {
        "model": Path(name).name,
        "parameters": num_parameters(model.config),
        "batch": batch,
        "new_tokens": new_tokens,
        "same_tokens": answers["ours"] == answers["theirs"],
        "same_alone": apart == answers["ours"],
        "ours_tokens_per_second": median(tokens / took for took in seconds["ours"]),
        "theirs_tokens_per_second": median(tokens / took for took in seconds["theirs"]),
        "ours_over_theirs": ratios(seconds),
        "ours_over_theirs_cpu_seconds": ratios(cpu),
        "seconds": seconds,
        "cpu_seconds": cpu,
    }


def ratios(taken: dict[str, list[float]]) -> dict[str, float]:
    """How many times as quick ours is, round by round."""
    found = [b / a for a, b in zip(taken["ours"], taken["theirs"], strict=True)]
    return {"median": median(found), "min": min(found), "max": max(found)}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table(
        "tokens a second, likeliest token, float32",
        [
            *("model", "parameters", "prompts", "llmstages", "transformers", "ratio"),
            *("least", "most", "of CPU seconds", "same tokens", "same one by one"),
        ],
        [
            [
                row["model"],
                row["parameters"],
                row["batch"],
                round(row["ours_tokens_per_second"], 1),
                round(row["theirs_tokens_per_second"], 1),
                *(round(row["ours_over_theirs"][key], 2) for key in ("median", "min", "max")),
                round(row["ours_over_theirs_cpu_seconds"]["median"], 2),
                "yes" if row["same_tokens"] else "no",
                "yes" if row["same_alone"] else "no",
            ]
            for row in rows
        ],
        to_output=True,
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--batch", default="1,16", help="numbers of prompts, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", default=None, metavar="FILE", help="lines of text")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="leave out the check one by one")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args(argv)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.models:
        for batch in map(int, arguments.batch.split(",")):
            rows.append(measure(name, batch, arguments))
            say(f"{name}, {batch}: {rows[-1]['ours_over_theirs']['median']:.2f} times")
    widen_output()
    show(rows)
    if arguments.json is not None:
        device = choose_device(arguments.device)
        write_results(arguments.json, __file__, argv, device, rows)
    wrong = [row for row in rows if not (row["same_tokens"] and row["same_alone"])]
    for row in wrong:
        warn(f"{row['model']}, {row['batch']} prompts: the answers differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Speed of `llmstages predict`: texts a second, from the rows of a file to JSON Lines.

    python scripts/bench_predict.py [MODEL ...] [--texts 4000] [--dtype float32,bfloat16]
        [--batch-size 32] [--rounds 3] [--data FILE] [--threads N] [--device cpu] [--json FILE]

MODEL is a classifier's checkpoint or run directory, or a size of conf/model with random weights and
four labels (`nano` and `micro`: both are the default). Texts are pieces of Python's help, of 3 to
27 words (about 24 tokens of a vocabulary of 4,096 trained on them), or the rows of FILE. Seconds
are those of the stage, loading included. The types take turns, so that what else the machine does
hits both.

CPU seconds are those of the process, all threads together: a machine with other work inflates them
less than the time on the wall. `other labels` counts the texts whose label is not that of the first
type, though its two likeliest are more than 0.01 apart.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from typing import Any

import torch
from bench_pretrain import parse_shape
from measurement import widen_output, write_results

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.config.folders import conf_dir
from llmstages.config.uses import PredictConfig
from llmstages.data.labelled_texts import read_texts
from llmstages.model.counts import num_parameters
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import say, table
from llmstages.stages import predict
from llmstages.text.tokenizer import Tokenizer, train_tokenizer
from llmstages.train.checkpoint import CheckpointInfo, Lineage, load_checkpoint, save_checkpoint
from llmstages.train.device import choose_device

MODELS = ["nano", "micro"]
LABELS = ["a", "b", "c", "d"]
VOCAB_SIZE = 4_096
FEWEST_WORDS, MOST_WORDS = 3, 27
MARGIN = 0.01


def write_texts(path: Path, count: int) -> None:
    """A file of pieces of Python's help."""
    source = random.Random(0)
    words = " ".join(topics.values()).split()
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            begin = source.randrange(len(words) - MOST_WORDS)
            text = " ".join(words[begin : begin + source.randint(FEWEST_WORDS, MOST_WORDS)])
            file.write(json.dumps({"text": text}) + "\n")


def random_classifier(name: str, tokenizer: Tokenizer, directory: Path) -> None:
    """A checkpoint of a size of conf/model whose weights are all random."""
    shape = replace(parse_shape(name, tokenizer.vocab_size, None), num_labels=len(LABELS))
    model = Transformer(shape)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            mean = 1.0 if parameter.dim() == 1 else 0.0
            parameter.normal_(mean, 0.05, generator=generator)
    info = CheckpointInfo("finetune-classify", 0, 0, {}, Lineage())
    save_checkpoint(directory, model, tokenizer, info, labels=LABELS)


def measure(name: str, directory: Path, data: Path, arguments: argparse.Namespace) -> list[Any]:
    """A row for each type."""
    checkpoint = load_checkpoint(str(directory))
    ids = checkpoint.tokenizer.encode_batch([text for _, text in read_texts(data)])
    dtypes = arguments.dtype.split(",")
    seconds: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
    cpu: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(arguments.rounds):
        for dtype in dtypes:
            output = data.with_name(f"{dtype}.out")
            began, used = time.perf_counter(), time.process_time()
            predict.run(
                PredictConfig(
                    checkpoint_dir=str(directory),
                    data=str(data),
                    output=str(output),
                    batch_size=arguments.batch_size,
                    device=arguments.device,
                    dtype=dtype,
                )
            )
            seconds[dtype].append(time.perf_counter() - began)
            cpu[dtype].append(time.process_time() - used)
            lines = output.read_text(encoding="utf-8").splitlines()
            found[dtype] = [json.loads(line)["probabilities"] for line in lines]
    return [
        {
            "model": Path(name).name,
            "parameters": num_parameters(checkpoint.model.config),
            "dtype": dtype,
            "texts": len(ids),
            "tokens_per_text": sum(map(len, ids)) / len(ids),
            "batch_size": arguments.batch_size,
            "texts_per_second": median(len(ids) / took for took in seconds[dtype]),
            "texts_per_cpu_second": median(len(ids) / took for took in cpu[dtype]),
            "other_labels": other_labels(found[dtypes[0]], found[dtype]),
            "seconds": seconds[dtype],
            "cpu_seconds": cpu[dtype],
        }
        for dtype in dtypes
    ]


def other_labels(first: Iterable[dict[str, float]], second: Iterable[dict[str, float]]) -> int:
    """Texts whose label differs though the first has a margin."""
    count = 0
    for one, other in zip(first, second, strict=True):
        best, next_best = sorted(one.values(), reverse=True)[:2]
        same = max(one, key=lambda key: one[key]) == max(other, key=lambda key: other[key])
        count += not same and best - next_best > MARGIN
    return count


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--dtype", default="float32,bfloat16", help="types, with commas")
    parser.add_argument("--batch-size", type=int, default=PredictConfig.batch_size)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=None, metavar="FILE")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args(argv)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            data = Path(folder) / "texts.jsonl"
            write_texts(data, arguments.texts)
        copy = Path(folder) / data.name
        if copy != data:
            copy.write_bytes(data.read_bytes())
        tokenizer: Tokenizer | None = None
        for name in arguments.models:
            directory = Path(name)
            if (conf_dir() / "model" / f"{name}.yaml").is_file():
                if tokenizer is None:
                    config = TokenizerConfig(vocab_size=VOCAB_SIZE)
                    tokenizer = train_tokenizer(topics.values(), config)
                directory = Path(folder) / name
                random_classifier(name, tokenizer, directory)
            rows += measure(name, directory, copy, arguments)
            say(f"{name}: {rows[-1]['texts_per_second']:.0f} texts a second in {rows[-1]['dtype']}")
    widen_output()
    columns = ["model", "parameters", "dtype", "texts", "tokens_per_text", "texts_per_second"]
    columns += ["texts_per_cpu_second", "other_labels"]
    table(
        "predict, loading included",
        [column.replace("_", " ") for column in columns],
        [[row[column] for column in columns] for row in rows],
        to_output=True,
    )
    if arguments.json is not None:
        device = choose_device(arguments.device)
        write_results(arguments.json, __file__, argv, device, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

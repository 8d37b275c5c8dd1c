"""Speed of `llmstages serve`: requests and tokens a second, by the number of clients.

    python scripts/bench_serve.py [MODEL ...] [--clients 1,8,32] [--seconds 8] [--max-tokens 64]
        [--threads N] [--device cpu] [--json FILE]

MODEL is a checkpoint or run directory, or a size of conf/model with random weights (`nano` is the
default). The server is a process of its own, started as a user would start it. Each client is a
thread here that asks for a stream again and again: prompts are 24 words of Python's help, answers
greedy and `--max-tokens` long (of a trained model shorter where it stops). Requests counted are
those whose answers were whole within the time, tokens what the server counted;
`first_token_seconds` is from the request to the first piece of text.

CPU seconds are those of the server, all threads together: a machine with other work inflates them
less than the time on the wall.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median, quantiles
from typing import Any

import torch
from bench_pretrain import parse_shape
from measurement import widen_output, write_results

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.config.folders import conf_dir
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import say, table
from llmstages.text.tokenizer import train_tokenizer
from llmstages.train.checkpoint import CheckpointInfo, Lineage, save_checkpoint
from llmstages.train.device import choose_device

MODELS = ["nano"]
VOCAB_SIZE = 4_096
PROMPT_WORDS = 24
WARM_UP_SECONDS = 1.0


@dataclass
class Asked:
    """What one client has seen."""

    seconds: list[float] = field(default_factory=list)
    first_token_seconds: list[float] = field(default_factory=list)


def random_model(name: str, directory: Path) -> None:
    """A checkpoint of a size of conf/model whose weights are all random."""
    tokenizer = train_tokenizer(topics.values(), TokenizerConfig(vocab_size=VOCAB_SIZE))
    model = Transformer(parse_shape(name, tokenizer.vocab_size, None))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            mean = 1.0 if parameter.dim() == 1 else 0.0
            parameter.normal_(mean, 0.05, generator=generator)
    save_checkpoint(directory, model, tokenizer, CheckpointInfo("pretrain", 0, 0, {}, Lineage()))


@contextmanager
def server(directory: Path, arguments: argparse.Namespace) -> Iterator[Any]:
    """A server of a checkpoint; yields its process and its port."""
    command = [sys.executable, "-m", "llmstages", "serve", str(directory), "port=0"]
    environment = dict(os.environ)
    if arguments.threads is not None:
        environment["OMP_NUM_THREADS"] = str(arguments.threads)
    process = subprocess.Popen(
        [*command, f"device={arguments.device}"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    try:
        lines = iter(process.stderr)
        line = next((line for line in lines if "http://" in line), "")
        if not line:
            raise SystemExit("the server did not start")
        # What else it writes must be read, or it would wait.
        threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()
        yield process, int(line.partition("http://127.0.0.1:")[2].split()[0])
    finally:
        process.terminate()
        process.wait(20)


def ask(port: int, number: int, max_tokens: int, end: float, counted_from: float) -> Asked:
    """One client: ask until the time is over."""
    source, words = random.Random(number), " ".join(topics.values()).split()
    asked = Asked()
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    while (began := time.monotonic()) < end:
        at = source.randrange(len(words) - PROMPT_WORDS)
        body = {
            "prompt": " ".join(words[at : at + PROMPT_WORDS]),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
        }
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        assert response.status == 200, response.read()
        response.readline()
        first = time.monotonic()
        response.read()
        ended = time.monotonic()
        if ended >= counted_from and ended <= end:
            asked.seconds.append(ended - began)
            asked.first_token_seconds.append(first - began)
    connection.close()
    return asked


def used(process: subprocess.Popen[str], port: int) -> tuple[float, float, float]:
    """The time, the CPU seconds of the server, and the tokens it has generated, until now."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    tokens = json.loads(connection.getresponse().read())["new_tokens"]
    connection.close()
    return time.monotonic(), cpu_seconds(process.pid), tokens


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, in Linux's own words (proc_pid_stat(5)); elsewhere 0."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(
    process: subprocess.Popen[str], port: int, clients: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """A row of the table."""
    counted_from = time.monotonic() + WARM_UP_SECONDS
    end = counted_from + arguments.seconds
    found: list[Asked] = []
    threads = [
        threading.Thread(
            target=lambda n=n: found.append(ask(port, n, arguments.max_tokens, end, counted_from))
        )
        for n in range(clients)
    ]
    for thread in threads:
        thread.start()
    time.sleep(WARM_UP_SECONDS)
    before = used(process, port)
    time.sleep(max(0.0, end - time.monotonic()))
    took, cpu, tokens = (b - a for a, b in zip(before, used(process, port), strict=True))
    for thread in threads:
        thread.join()
    assert len(found) == clients, "a client has failed"
    seconds: list[float] = [one for asked in found for one in asked.seconds]
    first = [one for asked in found for one in asked.first_token_seconds]
    return {
        "clients": clients,
        "requests": len(seconds),
        "requests_per_second": len(seconds) / arguments.seconds,
        "new_tokens_per_second": tokens / took,
        "new_tokens_per_cpu_second": tokens / cpu if cpu else None,
        "seconds_median": median(seconds) if seconds else None,
        "seconds_p95": quantiles(seconds, n=20)[-1] if len(seconds) > 1 else None,
        "first_token_seconds_median": median(first) if first else None,
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--clients", default="1,8,32", help="numbers of clients, with commas")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            directory = Path(name)
            if (conf_dir() / "model" / f"{name}.yaml").is_file():
                directory = Path(folder) / name
                random_model(name, directory)
            with server(directory, arguments) as (process, port):
                for clients in map(int, arguments.clients.split(",")):
                    rows.append(
                        {"model": Path(name).name, **measure(process, port, clients, arguments)}
                    )
                    speed = rows[-1]["new_tokens_per_second"]
                    say(f"{name}, {clients} clients: {speed:.0f} tokens a second")
    widen_output()
    columns = list(rows[0])
    table(
        f"answers of {arguments.max_tokens} tokens",
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

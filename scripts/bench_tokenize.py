"""Tokenizing speed of this machine, beside SentencePiece and the `tokenizers` library.

    python scripts/bench_tokenize.py [--output FILE] [--kinds bpe:4096,...] [--cores 1,2] PATH ...

PATH is a text file (.gz too) or a directory of such; each file is a document. A vocabulary of each
kind is trained on them, or the one in --tokenizer DIR is taken. Every way of encoding is measured
alone, in a process of its own that starts without any word known, on so many cores; all must give
the same ids. Where ids are not ours, the line says so.

    arrays       Tokenizer.encode_arrays
    lists        Tokenizer.encode_batch
    shards       write_token_shards: reads Parquet, counts words, writes the files
    sentencepiece             the model itself, on all cores
    tokenizers                our tokenizer.json in the library, encode_batch
    tokenizers-fast           the same, encode_batch_fast
    tokenizers-fast-words     the same, with a pre-tokenizer so that its cache of words can help
"""

import argparse
import gzip
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.report.terminal import table
from llmstages.text.tokenizer import Tokenizer, train_tokenizer

KINDS = "bpe:4096,bpe:32000,unigram:4096,char:1024"
WAYS = (
    "arrays",
    "lists",
    "shards",
    "sentencepiece",
    "tokenizers",
    "tokenizers-fast",
    "tokenizers-fast-words",
)


def read_texts(paths: Sequence[Path], characters: int) -> list[str]:
    """The files named, and those in the directories named, cut into documents of so many."""
    files = [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file() and file.name != "SOURCE.md"
    ]
    contents = (
        gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for file in files
    )
    texts = [content.decode("utf-8", "replace") for content in contents]
    if not characters:
        return texts
    return [
        text[start : start + characters]
        for text in texts
        for start in range(0, len(text), characters)
    ]


def by_arrays(texts: list[str], directory: Path) -> Callable[[], Any]:
    tokenizer = Tokenizer.load(directory)
    return lambda: tokenizer.encode_arrays(texts)


def by_lists(texts: list[str], directory: Path) -> Callable[[], Any]:
    tokenizer = Tokenizer.load(directory)
    return lambda: tokenizer.encode_batch(texts)


def by_shards(texts: list[str], directory: Path) -> Callable[[], Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from llmstages.data.corpus import DOCUMENT_SCHEMA, Corpus, Counts, Split
    from llmstages.data.shards import TokenShards, write_token_shards

    class OneSource(Corpus):
        def __init__(self, directory: Path) -> None:
            self.directory = directory

        sources: ClassVar = ["text"]
        weights: ClassVar = {}

        def counts(self, split: Split) -> Counts:
            return Counts(bytes=num_bytes if split == "train" else 0)

    num_bytes = sum(len(text.encode()) for text in texts)
    tokenizer = Tokenizer.load(directory)
    corpus = OneSource(directory / "corpus")
    (corpus.directory / "documents" / "train").mkdir(parents=True)
    rows = [{"id": f"{number:016x}", "text": text} for number, text in enumerate(texts)]
    pq.write_table(
        pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA),
        corpus.directory / "documents" / "train" / "text-00000.parquet",
        compression="zstd",
    )

    def without_ends(shards: TokenShards) -> list[Any]:
        shard = shards.of_split("train")[0]
        bounds = [*shard.starts.tolist(), len(shard.ids)]
        return [shard.ids[i : j - 1] for i, j in pairwise(bounds)]

    return lambda: without_ends(write_token_shards(corpus, tokenizer))


def by_sentencepiece(texts: list[str], directory: Path) -> Callable[[], Any]:
    import sentencepiece

    model = (directory / "tokenizer.model").read_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return lambda: processor.encode(texts, num_threads=os.cpu_count())


def by_tokenizers(
    texts: list[str], directory: Path, *, fast: bool = True, words: bool = False
) -> Callable[[], Any]:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    if words:
        pattern = tokenizers.Regex("\u2581*[^\u2581\n]*\n*")
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(pattern, "isolated")
    encode = tokenizer.encode_batch_fast if fast else tokenizer.encode_batch
    return lambda: [encoding.ids for encoding in encode(texts, add_special_tokens=False)]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One way of encoding, in this process."""
    way, cores, directory = arguments.way, int(arguments.cores), arguments.tokenizer
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    texts = read_texts(arguments.paths, arguments.document_characters)
    ways: dict[str, Callable[[], Callable[[], Any]]] = {
        "arrays": lambda: by_arrays(texts, directory),
        "lists": lambda: by_lists(texts, directory),
        "shards": lambda: by_shards(texts, directory),
        "sentencepiece": lambda: by_sentencepiece(texts, directory),
        "tokenizers": lambda: by_tokenizers(texts, directory, fast=False),
        "tokenizers-fast": lambda: by_tokenizers(texts, directory),
        "tokenizers-fast-words": lambda: by_tokenizers(texts, directory, words=True),
    }
    encode = ways[way]()
    started, cpu_started = time.perf_counter(), sum(os.times()[:4])  # those of children too
    encoded = encode()
    seconds, cpu_seconds = time.perf_counter() - started, sum(os.times()[:4]) - cpu_started
    digest = hashlib.sha256()
    for ids in encoded:
        digest.update(np.asarray(ids, dtype="<u4").tobytes())
        digest.update(b"\xff" * 4)
    num_bytes, num_tokens = sum(len(text.encode()) for text in texts), sum(map(len, encoded))
    return {
        "way": way,
        "cores": cores,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "megabytes_per_second": round(num_bytes / seconds / 1e6, 2),
        "tokens_per_second": round(num_tokens / seconds),
        "megabytes": round(num_bytes / 1e6, 3),
        "documents": len(texts),
        "tokens": num_tokens,
        "peak_memory_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "load_average": os.getloadavg()[0],
        "ids_sha256": digest.hexdigest(),
    }


def in_a_process(
    way: str, cores: int, directory: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """`measure` in a fresh process; what it fails with is its result."""
    with tempfile.TemporaryDirectory() as copy:
        for file in directory.iterdir():
            (Path(copy) / file.name).write_bytes(file.read_bytes())
        command = [sys.executable, __file__, "--way", way, "--cores", str(cores)]
        command += ["--document-characters", str(arguments.document_characters)]
        command += ["--tokenizer", copy, *map(str, arguments.paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"way": way, "cores": cores, "error": done.stderr.strip().splitlines()[-1:]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(directory: Path, kind: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All ways with one vocabulary; each the best of some runs, which take turns."""
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for _ in range(arguments.repeat):
        for way in arguments.ways.split(","):
            for cores in map(int, arguments.cores.split(",")):
                result = in_a_process(way, cores, directory, arguments) | {"vocabulary": kind}
                known = best.setdefault((way, cores), result)
                if result.get("seconds", 1e9) < known.get("seconds", 1e9):
                    best[way, cores] = result
    results = list(best.values())
    for result in results:
        result["same_ids"] = result.get("ids_sha256") == results[0].get("ids_sha256")
    return results


def main() -> None:
    """Measure and print a table for each vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer/ directory; else some trained")
    parser.add_argument("--kinds", default=KINDS)
    parser.add_argument("--cores", default=f"1,{os.cpu_count()}")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--document-characters", type=int, default=0, help="cut")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments)))
        return
    results = []
    texts = [] if arguments.tokenizer else read_texts(arguments.paths, 0)
    for kind in ["given"] if arguments.tokenizer else arguments.kinds.split(","):
        with tempfile.TemporaryDirectory() as trained:
            directory = arguments.tokenizer or Path(trained)
            if not arguments.tokenizer:
                name, size = kind.split(":")
                started = time.perf_counter()
                tokenizer = train_tokenizer(texts, TokenizerConfig(kind=name, vocab_size=int(size)))
                print(f"{kind} trained in {time.perf_counter() - started:.1f} s")
                tokenizer.save(directory)
            found = compare(directory, kind, arguments)
        results += found
        table(
            f"{kind}, {found[0].get('megabytes')} MB",
            ["way", "cores", "MB/s", "MB/CPU s", "tokens/s", "s", "peak MB", "ids"],
            [row(result) for result in found],
            to_output=True,
        )
    if arguments.output:
        words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
        record = {
            # Paths of this machine are nobody else's.
            "command": " ".join(["python", "scripts/bench_tokenize.py", *words]),
            "date": time.strftime("%Y-%m-%d"),
            "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
            "results": results,
        }
        arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def row(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    if "error" in result:
        return [result["way"], str(result["cores"]), *["failed"] * 5, str(result["error"])]
    return [
        result["way"],
        str(result["cores"]),
        f"{result['megabytes_per_second']:.1f}",
        f"{result['megabytes'] / result['cpu_seconds']:.1f}",
        f"{result['tokens_per_second']:,}",
        f"{result['seconds']:.2f}",
        str(result["peak_memory_megabytes"]),
        "same" if result["same_ids"] else "other",
    ]


if __name__ == "__main__":
    main()

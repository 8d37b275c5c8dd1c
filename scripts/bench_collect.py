"""Speed and memory of `llmstages collect`, step by step.

    python scripts/bench_collect.py [PATH ...] [--generate BYTES] [--output FILE] [SETTING ...]

The texts under PATH are cut into documents of about 3 kB; with --generate so many bytes of
perturbed documents are made of them, a twentieth near duplicates and a fiftieth exact ones. Without
PATH it is Python's own documentation. `llmstages collect` then runs in a process of its own with
all rules of FineWeb on, exact and near duplicates removed, and the memory of this process and its
workers is watched (proportional set size: pages that they share count once). Settings such as
dedup=exact are handed on. With --cap the run is stopped, and the exit status is 1, when memory goes
above so many bytes.
"""

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmstages.report.terminal import table

DOCUMENT_CHARACTERS = 3000
INPUT_BYTES = 64_000_000
"""Generated text in one input file."""
SAMPLE_SECONDS = 0.5
"""Between two looks at the memory; each takes a few milliseconds."""
NUM_PARAGRAPHS = 50_000
"""Paragraphs that generated documents are made of: each stands in few of them."""
SETTINGS = ("quality=fineweb", "dedup=near", "tokenizer.vocab_size=4096")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="PATH|SETTING")
    parser.add_argument("--generate", type=float, default=0, metavar="BYTES")
    parser.add_argument("--cap", type=float, default=float("inf"), metavar="BYTES")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder otherwise")
    arguments = parser.parse_intermixed_args()
    settings = [word for word in arguments.words if "=" in word]
    paths = [Path(word) for word in arguments.words if "=" not in word]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        (folder / "input").mkdir()
        documents, size = write_input(folder / "input", paths, int(arguments.generate))
        command = [
            *(sys.executable, "-m", "llmstages", "collect", str(folder / "input")),
            *("name=bench", f"corpora_dir={folder}", "keep_work=false", *SETTINGS, *settings),
        ]
        run = watched(command, arguments.cap)
        if run["status"] != 0:
            print(f"collect ended with status {run['status']}", file=sys.stderr)
            return 1
        result = report(folder / "bench", documents, size, run, command)
    show(result)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


# What is collected.


def write_input(folder: Path, paths: list[Path], generate: int) -> tuple[int, int]:
    """Write JSON Lines of documents; returns how many, and the bytes of their text."""
    texts = documents_of(read_texts(paths))
    if generate:
        texts = perturbed(list(texts), generate)
    count = size = 0
    file = None
    for text in texts:
        if file is None or file.tell() > INPUT_BYTES:
            if file is not None:
                file.close()
            file = (folder / f"{count:09d}.jsonl").open("wb")
        file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
        count += 1
        size += len(text.encode())
    if file is not None:
        file.close()
    return count, size


def read_texts(paths: list[Path]) -> Iterator[str]:
    """All texts under the paths, or those of Python's documentation."""
    from llmstages.collect.sources import list_inputs, read_input
    from llmstages.collect.sources.records import RawDocument
    from llmstages.config.collect_groups import FetchConfig, SourceConfig

    kinds = [] if paths else ["python_topics", "python_stdlib", "python_packages"]
    sources = {kind: SourceConfig(kind=kind) for kind in kinds}
    if paths:
        sources["files"] = SourceConfig(paths=[str(path) for path in paths])
    listing = list_inputs(sources, FetchConfig(), Path(), lambda _: None)
    for name, entries in listing.inputs.items():
        for entry in entries:
            for found in read_input(entry, sources[name], "skip"):
                if isinstance(found, RawDocument):
                    yield found.text


def documents_of(texts: Iterator[str]) -> Iterator[str]:
    """Documents of about 3,000 characters, cut between lines."""
    for text in texts:
        start = 0
        while len(text) - start > DOCUMENT_CHARACTERS // 2:
            end = text.find("\n", start + DOCUMENT_CHARACTERS)
            end = len(text) if end < 0 or end > start + 2 * DOCUMENT_CHARACTERS else end + 1
            end = min(end, start + 2 * DOCUMENT_CHARACTERS)
            yield text[start:end]
            start = end


def perturbed(texts: list[str], size: int) -> Iterator[str]:
    """Documents put together from paragraphs of the texts, each with a word replaced."""
    rng = random.Random(0)
    paragraphs = list(shuffled_paragraphs(texts, rng))
    vocabulary = sorted({word for text in texts for word in text.split()})

    def paragraph() -> str:
        before, after = paragraphs[int(rng.random() * len(paragraphs))]
        return before + vocabulary[int(rng.random() * len(vocabulary))] + after

    total = 0
    document: list[str] = []
    while total < size:
        kind = rng.random()
        if kind < 0.02 and document:
            pass  # an exact duplicate of the one before
        elif kind < 0.07 and document:
            document[0] = document[0].rpartition(" ")[0]  # a near duplicate
        else:
            document, length = [], 0
            while length < DOCUMENT_CHARACTERS:
                document.append(paragraph())
                length += len(document[-1])
        text = "\n\n".join(document)
        total += len(text.encode())
        yield text


def shuffled_paragraphs(texts: list[str], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Four sentences from anywhere each, cut before and after one word."""
    sentences = [
        sentence
        for text in texts
        for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
        if 30 < len(sentence) < 400
    ]
    for _ in range(NUM_PARAGRAPHS):
        words = " ".join(rng.choices(sentences, k=4)).split(" ")
        place = rng.randrange(len(words))
        before, after = " ".join(words[:place]), " ".join(words[place + 1 :])
        yield before + " " * bool(before), " " * bool(after) + after


# The run and its memory.


def watched(command: list[str], cap: float) -> dict[str, Any]:
    """Run a command; its status, seconds, and samples of (time, bytes) of its process tree."""
    samples: list[tuple[float, int]] = []
    started = time.perf_counter()
    process = subprocess.Popen(command)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            used = tree_memory(process.pid)
            samples.append((time.time(), used))
            if used > cap:
                print(f"{used:,} bytes of memory are above the cap of {cap:,.0f}", file=sys.stderr)
                process.kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    ended.set()
    watcher.join()
    return {"status": status, "seconds": time.perf_counter() - started, "samples": samples}


def tree_memory(pid: int) -> int:
    """Proportional set size of a process and its descendants, in bytes."""
    total = 0
    for member in [pid, *descendants(pid)]:
        try:
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue  # it has ended
        found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
        total += int(found[1]) * 1024 if found else 0
    return total


def descendants(pid: int) -> list[int]:
    """Processes below a process."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in path.read_text(encoding="ascii").split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


# The report.


def report(
    corpus: Path, documents: int, size: int, run: dict[str, Any], command: list[str]
) -> dict[str, Any]:
    """What was measured, as it is written to --output."""
    collect = json.loads((corpus / "collect.json").read_text(encoding="utf-8"))
    manifest = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
    steps = []
    for step in collect["steps"]:
        end = step["started_at"] + step["seconds"]
        used = [used for at, used in run["samples"] if step["started_at"] <= at <= end]
        steps.append(
            {
                "step": step["name"],
                "seconds": step["seconds"],
                "documents_per_second": round(documents / max(step["seconds"], 1e-3)),
                "megabytes_per_second": round(size / 1e6 / max(step["seconds"], 1e-3), 2),
                "peak_memory_bytes": max(used, default=0),
            }
        )
    return {
        # Paths of this machine are nobody else's.
        "command": " ".join(
            ["python", "scripts/bench_collect.py"]
            + [Path(word).name if "/" in word else word for word in sys.argv[1:]]
        ),
        "settings": [word for word in command if "=" in word and "corpora_dir" not in word],
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **{name: manifest["versions"][name] for name in ("daft",)},
        },
        "documents": documents,
        "bytes": size,
        "seconds": round(run["seconds"], 1),
        "peak_memory_bytes": max((used for _, used in run["samples"]), default=0),
        "steps": steps,
        "dropped": {
            rule: counts["documents"]
            for source in manifest["sources"]
            for rule, counts in source["dropped"].items()
        },
    }


def show(result: dict[str, Any]) -> None:
    """Print the report."""
    table(
        f"{result['documents']:,} documents, {result['bytes'] / 1e6:,.1f} MB",
        ["step", "seconds", "documents/s", "MB/s", "peak MB"],
        [
            [
                step["step"],
                step["seconds"],
                step["documents_per_second"],
                step["megabytes_per_second"],
                round(step["peak_memory_bytes"] / 1e6),
            ]
            for step in result["steps"]
        ],
        to_output=True,
    )
    cleaning = [
        step["seconds"]
        for step in result["steps"]
        if step["step"].startswith(("cleaning", "finding", "writing documents"))
    ]
    print(
        f"cleaning, filters, exact and near duplicates: "
        f"{result['documents'] / max(sum(cleaning), 1e-3):,.0f} documents a second; "
        f"all in {result['seconds']} s, {result['peak_memory_bytes'] / 1e6:,.0f} MB at most"
    )


if __name__ == "__main__":
    sys.exit(main())

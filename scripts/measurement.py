"""What a benchmark's JSON says of where its figures come from, and the processes that measure."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llmstages.train.device import hardware_facts, machine_facts

ROOT = Path(__file__).resolve().parent.parent
COMMIT_VARIABLE = "LLMSTAGES_COMMIT"
"""Names the commit where the checkout was carried along without git."""


def provenance(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Command, date, commit and versions. Of paths only the last part is kept."""
    words = [Path(word).name if "/" in word else word for word in arguments]
    return {
        "command": " ".join(["python", f"scripts/{Path(script).name}", *words]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **versions("torch", "transformers")},
    }


def commit() -> str | None:
    """The commit that is checked out, with `+changes` when files differ; None if unknown."""
    if given := os.environ.get(COMMIT_VARIABLE):
        return given
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_results(
    path: Path, script: str, arguments: Sequence[str], device: torch.device, results: Any
) -> None:
    """Write what a script measured on a device, with where it comes from."""
    machine = machine_facts(device) | hardware_facts(device)
    write_record(path, {**provenance(script, arguments), "machine": machine, "results": results})


def widen_output() -> None:
    """Let tables have all their columns where standard output is a file or a pipe."""
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "170")


class WorkerFailed(RuntimeError):
    """A worker ended before it answered; the message is the last line that it wrote."""


class Worker:
    """A script in a process of its own, started as `script --worker ORDER`.

    It answers with lines of JSON on its standard output; each further order is a line of JSON on
    its standard input, and it ends when that is closed.
    """

    def __init__(self, script: str, order: Mapping[str, Any]) -> None:
        # Closed in close(), with the process that writes to it.
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, script, "--worker", json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        """The next answer. Raises `WorkerFailed`."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = [line.strip() for line in self.errors if line.strip()]
            last = said[-1] if said else "it said nothing"
            raise WorkerFailed(f"{last} (status {self.process.returncode})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer to a further order."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said at its end comes with the answer
        return self.answer()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.errors.close()


class Answers:
    """The worker's side: standard output is kept for answers, other prints go to errors."""

    def __init__(self) -> None:
        self.file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def give(self, answer: Mapping[str, Any]) -> None:
        """Write one answer."""
        self.file.write(json.dumps(answer) + "\n")
        self.file.flush()

"""The same corpus from Ray with two nodes as from the embedded engine, whatever is killed."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import TypeAlias

import pyarrow.parquet as pq
import pytest

from llmstages.data.corpus import Corpus

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed"
)
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")

# Several small tasks and buckets, so that there is something to be spread, and to be lost.
COLLECT = """
import sys
from llmstages import cli
from llmstages.collect.steps import measure, read
read.TASK_BYTES, measure.BUCKET_BYTES, measure.PARALLEL_BYTES = 300_000, 400_000, 0
cli.main()
"""
# Parts that are measured kill the process that does it.
DEADLY = """
import os, signal
from llmstages.collect import engine
engine.MOST_LOSSES = 2
run = engine.Engine.run
def run_deadly(self, task, names, parallel):
    deadly = lambda name: os.kill(os.getpid(), signal.SIGKILL)
    return run(self, deadly if parallel else task, names, parallel)
engine.Engine.run = run_deadly
"""
# Two machines, as far as Ray knows: each has a worker of its own. They end with standard input.
TWO_NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
print(cluster.address, cluster.head_node.all_processes["raylet"][0].process.pid, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
LOST = "warning: a worker was lost"
Command: TypeAlias = subprocess.Popen[bytes]
ENVIRONMENT = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class Nodes:
    """A Ray cluster of two nodes on this machine."""

    address: str
    head: int
    """Process of the head node, which no cluster survives the loss of."""


@dataclass(frozen=True)
class Busy:
    """A worker in the middle of a task: it stands still."""

    worker: int
    part: str
    """The part of the raw documents that it has open."""


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """A cluster, as long as the block lasts."""
    command = [sys.executable, "-c", TWO_NODES]
    with subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as cluster:
        assert cluster.stdout
        address, head = cluster.stdout.readline().split()
        yield Nodes(address, int(head))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python's help texts, with near duplicates of some."""
    folder = tmp_path_factory.mktemp("texts")
    for number, (name, text) in enumerate(sorted(topics.items())):
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        if number % 5 == 0:
            (folder / f"{name}-again.md").write_text(text + "\nOne more line.\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def expected(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The corpus as the embedded engine makes it, undisturbed."""
    corpora = tmp_path_factory.mktemp("expected")
    process = collect(texts, corpora)
    assert process.wait(timeout=240) == 0, said(corpora)
    corpus = Corpus.open(corpora / "local")
    (source,) = corpus.manifest.sources
    assert source.dropped["near_duplicate"].documents > 5
    return corpus


def collect(texts: Path, corpora: Path, *overrides: str, program: str = COLLECT) -> Command:
    """Start the command; what it says is written down beside the corpora."""
    arguments = [
        *("collect", str(texts), "pii=replace", "tokenizer.vocab_size=500"),
        *(f"corpora_dir={corpora}", *overrides),
    ]
    with (corpora / "said").open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments], env=ENVIRONMENT, stdout=file, stderr=file
        )


def said(corpora: Path) -> str:
    """What the command has said so far."""
    return (corpora / "said").read_text()


def stop_a_busy_worker(
    work: Path,
    process: Command,
    fits: Callable[[int], bool] = lambda worker: True,
) -> Busy:
    """Wait for a worker that has a part of the raw documents open, and stop it there."""
    while process.poll() is None:
        for worker in filter(fits, workers()):
            part = open_part(worker, work)
            if part is None:
                continue
            os.kill(worker, signal.SIGSTOP)
            if open_part(worker, work) == part:
                return Busy(worker, part)
            os.kill(worker, signal.SIGCONT)
        time.sleep(0.005)
    raise AssertionError("it ended before a worker was caught at work")


def workers() -> set[int]:
    """The worker processes of Daft on this machine."""
    return processes("cmdline", b"daft.execution.udf_worker")


def processes(file: str, words: bytes) -> set[int]:
    """Processes with these words in a file of theirs in /proc."""
    found = set()
    for folder in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended
            if folder.name.isdigit() and words in (folder / file).read_bytes():
                found.add(int(folder.name))
    return found


def open_part(worker: int, work: Path) -> str | None:
    """The part of the raw documents that a worker has open."""
    with suppress(OSError):
        for link in Path(f"/proc/{worker}/fd").iterdir():
            path = Path(os.readlink(link))
            if path.match("read-*/*.parquet") and path.is_relative_to(work):
                return path.stem
    return None


def parent(process: int) -> int:
    """The process that started one."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def name_of(process: int) -> str:
    """The name of a process."""
    return Path(f"/proc/{process}/comm").read_text().strip()


def measured(work: Path) -> set[str]:
    """The parts that are done."""
    return {path.name.split(".")[0] for path in work.glob("measured-*/*.measures.parquet")}


def assert_same(corpus: Corpus, expected: Corpus) -> None:
    """Equal manifests, equal rows in equal files."""
    assert corpus.manifest_hash == expected.manifest_hash
    for part in ("documents", "dropped"):
        found, wanted = (
            {path.relative_to(one.directory): path for path in (one.directory / part).rglob("*.*")}
            for one in (corpus, expected)
        )
        assert found.keys() == wanted.keys()
        assert wanted
        for path in wanted:
            assert pq.read_table(found[path]).equals(pq.read_table(wanted[path]))


@needs_proc
def test_a_killed_worker_of_the_embedded_engine_is_made_up_for(
    texts: Path, expected: Corpus, tmp_path: Path
) -> None:
    process = collect(texts, tmp_path)
    busy = stop_a_busy_worker(tmp_path / "local.work", process)
    assert busy.part not in measured(tmp_path / "local.work")
    os.kill(busy.worker, signal.SIGKILL)
    assert process.wait(timeout=240) == 0, said(tmp_path)
    assert said(tmp_path).count(LOST) == 1
    assert_same(Corpus.open(tmp_path / "local"), expected)


def test_work_that_kills_every_worker_is_given_up(
    texts: Path, expected: Corpus, tmp_path: Path
) -> None:
    process = collect(texts, tmp_path, program=DEADLY + COLLECT)
    assert process.wait(timeout=240) == 1
    assert said(tmp_path).count(LOST) == 1
    assert "error: collect failed: WorkersLost: 2 times over the same work" in said(tmp_path)
    process = collect(texts, tmp_path)
    assert process.wait(timeout=240) == 0, said(tmp_path)
    assert_same(Corpus.open(tmp_path / "local"), expected)


@pytest.mark.slow
@needs_ray
@needs_proc
def test_ray_gives_the_same_corpus_whatever_is_killed(
    texts: Path, expected: Corpus, tmp_path: Path
) -> None:
    work = tmp_path / "local.work"
    with two_nodes() as nodes:
        on_ray = ("engine=ray", f"engine.address={nodes.address}")
        process = collect(texts, tmp_path, *on_ray)
        busy = stop_a_busy_worker(work, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        os.kill(busy.worker, signal.SIGCONT)  # goes on for a while
        while processes("comm", b"ray::RaySwordfi"):  # until Ray ends what ran for that driver
            time.sleep(0.05)

        process = collect(texts, tmp_path, *on_ray)
        busy = stop_a_busy_worker(work, process, is_worker_of_ray)
        assert busy.part not in measured(work)
        os.kill(busy.worker, signal.SIGKILL)
        while LOST not in said(tmp_path):
            assert process.poll() is None
            time.sleep(0.05)

        busy = stop_a_busy_worker(work, process, is_worker_of_ray)
        assert busy.part not in measured(work)
        os.kill(parent(busy.worker), signal.SIGKILL)
        os.kill(busy.worker, signal.SIGCONT)  # goes on for a while

        def is_on_the_second_node(worker: int) -> bool:
            return is_worker_of_ray(worker) and node_of(worker) != nodes.head

        busy = stop_a_busy_worker(work, process, is_on_the_second_node)
        assert busy.part not in measured(work)
        os.kill(node_of(busy.worker), signal.SIGKILL)
        os.kill(busy.worker, signal.SIGCONT)
        assert process.wait(timeout=240) == 0, said(tmp_path)
    assert_same(Corpus.open(tmp_path / "local"), expected)


def is_worker_of_ray(worker: int) -> bool:
    """Whether the actor that started it, and the node of that, are there still."""
    try:
        return name_of(parent(worker)).startswith("ray::") and name_of(node_of(worker)) == "raylet"
    except OSError:
        return False


def node_of(worker: int) -> int:
    """The node of a worker: what started the actor that started it."""
    return parent(parent(worker))

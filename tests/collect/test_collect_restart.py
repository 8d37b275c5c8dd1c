"""A run that was killed goes on where it was; another threshold needs no new reading."""

import importlib.metadata
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmstages.config.collect_groups import (
    CorpusConfig,
    DedupConfig,
    QualityConfig,
    TokenizerConfig,
)
from llmstages.config.stages import CollectConfig
from llmstages.data.corpus import Corpus
from llmstages.errors import UserError
from llmstages.stages.collect import run

NUM_KILLS = 4

DRIVER = """
import sys
from llmstages.collect.steps import measure, read
from llmstages import cli
# Many small tasks, parts and buckets, so that there is much to be interrupted in.
read.TASK_BYTES, read.PART_BYTES, read.PARALLEL_BYTES = 100_000, (50_000, 50_000), 10**12
measure.BUCKET_BYTES, measure.PARALLEL_BYTES = 200_000, 10**12
sys.exit(cli.main())
"""

LOCK = """
import sys
from pathlib import Path
from llmstages.disk import lock_directory
locked = lock_directory(Path(sys.argv[1]), "at it")
print("locked", flush=True)
sys.stdin.read()
"""


def write_texts(folder: Path, count: int, seed: int = 0) -> Path:
    """Files of different texts, some of them duplicates, of 20 kB each."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(2000)]
    folder.mkdir(parents=True)
    for index in range(count):
        words = rng.choices(vocabulary, k=3000)
        lines = [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
        (folder / f"{index:03d}.txt").write_text("\n".join(lines))
        if index % 10 == 0:
            (folder / f"{index:03d}-copy.txt").write_text("\n".join(["Another line.", *lines]))
    return folder


def collect(texts: Path, corpora: Path) -> "subprocess.Popen[bytes]":
    """Start the command on a folder."""
    arguments = ["collect", str(texts), f"corpora_dir={corpora}", "tokenizer.vocab_size=500"]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_killed_at_random_moments_the_corpus_is_the_same(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts", 60)
    started = time.monotonic()
    assert collect(texts, tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - started
    expected = Corpus.open(tmp_path / "whole" / "local").manifest_hash

    rng = random.Random(1)
    done_before: dict[str, int] = {}
    work = tmp_path / "killed" / "local.work"
    kills = 0
    while kills < NUM_KILLS:
        process = collect(texts, tmp_path / "killed")
        try:
            assert process.wait(timeout=rng.uniform(0.2, 1.0) * seconds) == 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        else:  # it came to its end between two kills: once more from the beginning
            assert Corpus.open(tmp_path / "killed" / "local").manifest_hash == expected
            shutil.rmtree(tmp_path / "killed")
            done_before = {}
        # What was finished before this run is the same file still: it was not done again.
        done = {
            str(path): path.stat().st_ino
            for pattern in ("read-*/*.json", "measured-*/*.measures.parquet")
            for path in work.glob(pattern)
        }
        assert done_before.items() <= done.items()
        done_before = done
    assert collect(texts, tmp_path / "killed").wait() == 0
    assert Corpus.open(tmp_path / "killed" / "local").manifest_hash == expected


def config(texts: Path, corpora: Path, **settings: object) -> CollectConfig:
    """Collect one folder."""
    values = {
        "corpus": CorpusConfig(validation_share=0.1),
        "tokenizer": TokenizerConfig(vocab_size=400),
        "paths": [str(texts)],
        "corpora_dir": str(corpora),
    }
    return CollectConfig(**(values | settings))  # type: ignore[arg-type]


def inodes(work: Path, pattern: str) -> dict[str, int]:
    """Which files there are: a file made again is another one."""
    return {str(path): path.stat().st_ino for path in work.glob(pattern)}


def test_another_threshold_reads_nothing_again(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts", 30)
    (texts / "short.txt").write_text("Only these few words stand here, and no more than these.")
    run(config(texts, tmp_path))
    work = tmp_path / "local.work"
    read, measured = inodes(work, "read-*/*"), inodes(work, "measured-*/*")
    assert read
    assert measured

    strict = config(texts, tmp_path, quality=QualityConfig(min_words=50), overwrite=True)
    run(strict)
    assert inodes(work, "read-*/*") == read
    assert inodes(work, "measured-*/*") == measured
    (source,) = Corpus.open(tmp_path / "local").manifest.sources
    assert source.dropped["min_words"].documents == 1

    # Duplicates are decided anew, too; taking lines out measures anew, and still reads nothing.
    run(config(texts, tmp_path, dedup=DedupConfig(near=False), overwrite=True))
    assert inodes(work, "measured-*/*") == measured
    run(config(texts, tmp_path, quality=QualityConfig(min_words_per_line=5), overwrite=True))
    assert inodes(work, "read-*/*") == read
    assert inodes(work, "measured-*/*") != measured


@pytest.mark.parametrize("name", ["000-new.txt", "010-new.txt", "new.txt"])
def test_little_more_than_what_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("llmstages.collect.steps.read.TASK_BYTES", 60_000)
    texts = write_texts(tmp_path / "texts", 20)
    run(config(texts, tmp_path))
    work = tmp_path / "local.work"
    before = inodes(work, "read-*/*.json")
    assert len(before) >= 5
    (texts / name).write_text("Quite another text. " * 100)
    run(config(texts, tmp_path, overwrite=True))
    after = inodes(work, "read-*/*.json")
    assert len(before.items() - after.items()) <= 1  # the task that it falls into
    assert len(after.items() - before.items()) <= 2  # which it may cut in two


def test_killed_while_clearing_up_it_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmstages.collect.steps.measure.BUCKET_BYTES", 100_000)
    texts = write_texts(tmp_path / "texts", 30)
    run(config(texts, tmp_path / "whole"))

    class Killed(BaseException):
        """Stands for SIGKILL."""

    remove = shutil.rmtree

    def remove_one_and_die(path: Path, ignore_errors: bool = False) -> None:
        if path.name == "decisions":
            next(path.iterdir()).unlink()
            raise Killed
        remove(path, ignore_errors)

    monkeypatch.setattr("llmstages.stages.collect.shutil.rmtree", remove_one_and_die)
    with pytest.raises(Killed):
        run(config(texts, tmp_path / "killed"))
    monkeypatch.undo()
    monkeypatch.setattr("llmstages.collect.steps.measure.BUCKET_BYTES", 100_000)
    run(config(texts, tmp_path / "killed"))
    hashes = {Corpus.open(tmp_path / name / "local").manifest_hash for name in ("whole", "killed")}
    assert len(hashes) == 1


def test_another_version_of_a_package_measures_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = write_texts(tmp_path / "texts", 20)
    run(config(texts, tmp_path))
    before = inodes(tmp_path / "local.work", "measured-*/*")
    installed = importlib.metadata.version
    monkeypatch.setattr(
        "importlib.metadata.version", lambda name: "99" if name == "ftfy" else installed(name)
    )
    run(config(texts, tmp_path, overwrite=True))
    assert not before.keys() & inodes(tmp_path / "local.work", "measured-*/*").keys()


def test_work_can_be_done_without(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts", 20)
    run(config(texts, tmp_path, keep_work=False))
    assert not (tmp_path / "local.work").exists()
    kept = Corpus.open(tmp_path / "local").manifest_hash
    run(config(texts, tmp_path / "other"))
    assert Corpus.open(tmp_path / "other" / "local").manifest_hash == kept


def test_a_mistake_leaves_nothing_behind(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("Too few words.")
    with pytest.raises(UserError, match="words are too few"):
        run(config(texts, tmp_path / "corpora"))
    assert not (tmp_path / "corpora").exists()


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts", 20)
    work = tmp_path / "local.work"
    work.mkdir()
    other = [sys.executable, "-c", LOCK, str(work)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(other, **pipes) as process:  # its input is closed at the end
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match="another process is collecting this corpus: wait for"):
            run(config(texts, tmp_path))


def test_the_record_of_time_has_every_step(tmp_path: Path) -> None:
    run(config(write_texts(tmp_path / "texts", 20), tmp_path))
    record = json.loads((tmp_path / "local" / "collect.json").read_text())
    assert [step["name"] for step in record["steps"]] == [
        *("finding inputs", "reading", "cleaning and measuring", "finding duplicates, deciding"),
        *("writing documents", "training the tokenizer", "writing token shards"),
    ]

"""What many tests share: a tiny corpus of Python's own help texts, and tiny runs on it.

Everything heavy is made once a session. Tests never write into a shared directory: they get copies
or directories of their own.
"""

import os

# One thread: tiny models are fastest so, a busy machine does not slow them down, and sums have one
# order. Before torch is imported, and inherited by subprocesses.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import pytest

from llmstages.config.collect_groups import CorpusConfig, SourceConfig, TokenizerConfig
from llmstages.config.groups import CheckpointConfig, EvaluateConfig, ModelConfig, ReportConfig
from llmstages.config.stages import (
    CollectConfig,
    FinetuneClassifyConfig,
    FinetuneInstructConfig,
    PretrainConfig,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from playwright.sync_api import Browser

    from llmstages.data.shards import Shard
    from llmstages.model.transformer import Transformer

# A job in the background of a shell without a terminal ignores Ctrl-C, and so do the programs it
# starts: tests that interrupt one would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of half a minute and more run where they are asked for."""
    if item.get_closest_marker("slow") and not os.environ.get("LLMSTAGES_TEST_SLOW"):
        pytest.skip("half a minute and more: make test-slow, or LLMSTAGES_TEST_SLOW=1")


TINY_MODEL = {
    "name": "test",
    "num_layers": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "context_length": 64,
}


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two sources with weights, through the real collect stage."""
    from llmstages.stages import collect

    directory = tmp_path_factory.mktemp("tiny")
    texts = directory / "texts"
    texts.mkdir()
    for number, name in enumerate(sorted(topics)[:40]):
        (texts / f"{number}.txt").write_text(topics[name], encoding="utf-8")
    collect.run(
        CollectConfig(
            corpus=CorpusConfig(
                name="tiny",
                sources={
                    "topics": SourceConfig(kind="python_topics", weight=0.75),
                    "texts": SourceConfig(kind="files", paths=[str(texts)], weight=0.25),
                },
            ),
            tokenizer=TokenizerConfig(vocab_size=512, sample_bytes=200_000),
            corpora_dir=str(directory / "corpora"),
        )
    )
    return directory / "corpora" / "tiny"


@pytest.fixture(scope="session")
def pretrain_config(tiny_corpus: Path) -> Callable[..., PretrainConfig]:
    """pretrain_config(runs_dir, **settings): 8 steps of a model with 2 layers of width 32."""

    def make(runs_dir: Path, **settings: object) -> PretrainConfig:
        defaults = {
            "data": str(tiny_corpus),
            "runs_dir": str(runs_dir),
            "model": ModelConfig(**TINY_MODEL),
            "batch_tokens": 512,
            "micro_batch_tokens": 256,
            "dtype": "float32",
            "device": "cpu",
            "compile": "off",
            "evaluate": EvaluateConfig(every_steps=4, max_tokens=2000, num_samples=0),
            "checkpoint": CheckpointConfig(every_steps=2),
            "report": ReportConfig(curves=False),
        }
        if not {"steps", "epochs", "budget"} & settings.keys():
            defaults["steps"] = 8
        return PretrainConfig(**{**defaults, **settings})

    return make


@pytest.fixture(scope="session")
def tiny_run(
    tmp_path_factory: pytest.TempPathFactory, pretrain_config: Callable[..., PretrainConfig]
) -> Path:
    """A finished pretraining run: read only."""
    from llmstages.stages import pretrain

    runs_dir = tmp_path_factory.mktemp("runs")
    pretrain.run(pretrain_config(runs_dir, report=ReportConfig()))
    return runs_dir / "pretrain"


@pytest.fixture(scope="session")
def labelled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of two topics' texts, labelled by the topic: JSON Lines with 60 rows."""
    path = tmp_path_factory.mktemp("labelled") / "lines.jsonl"
    rows = [
        {"text": f"{line.strip()} {number}", "label": label}
        for label in ("integers", "strings")
        for number, line in enumerate(_lines(topics[f"{label}"], 30))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def instruct_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names of topics and the beginnings of their texts: 40 pairs."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"What is {name}?", "completion": " ".join(topics[name].split()[:8])}
        for name in sorted(topics)[:40]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def classify_config(tiny_run: Path, labelled_file: Path) -> Callable[..., FinetuneClassifyConfig]:
    """classify_config(runs_dir, **settings): 6 steps on `labelled_file`."""

    def make(runs_dir: Path, **settings: object) -> FinetuneClassifyConfig:
        defaults = {
            "data": str(labelled_file),
            "base": str(tiny_run),
            "runs_dir": str(runs_dir),
            "batch_size": 8,
            "micro_batch_tokens": 256,
            "baselines": False,
            "dtype": "float32",
            "device": "cpu",
            "compile": "off",
            "evaluate": EvaluateConfig(every_steps=3),
            "checkpoint": CheckpointConfig(every_steps=2),
            "report": ReportConfig(curves=False),
        }
        if not {"steps", "epochs", "budget"} & settings.keys():
            defaults["steps"] = 6
        return FinetuneClassifyConfig(**{**defaults, **settings})

    return make


@pytest.fixture(scope="session")
def instruct_config(tiny_run: Path, instruct_file: Path) -> Callable[..., FinetuneInstructConfig]:
    """instruct_config(runs_dir, **settings): 6 steps on `instruct_file`."""

    def make(runs_dir: Path, **settings: object) -> FinetuneInstructConfig:
        defaults = {
            "data": str(instruct_file),
            "base": str(tiny_run),
            "runs_dir": str(runs_dir),
            "batch_tokens": 256,
            "micro_batch_tokens": 128,
            "max_new_tokens": 4,
            "max_cut_share": 0.5,
            "dtype": "float32",
            "device": "cpu",
            "compile": "off",
            "evaluate": EvaluateConfig(
                every_steps=3, max_tokens=2000, num_samples=0, num_generations=4
            ),
            "checkpoint": CheckpointConfig(every_steps=2),
            "report": ReportConfig(curves=False),
        }
        if not {"steps", "epochs", "budget"} & settings.keys():
            defaults["steps"] = 6
        return FinetuneInstructConfig(**{**defaults, **settings})

    return make


@pytest.fixture(scope="session")
def classifier_run(
    tmp_path_factory: pytest.TempPathFactory,
    classify_config: Callable[..., FinetuneClassifyConfig],
) -> Path:
    """A finished classification run with baselines: read only."""
    from llmstages.stages import finetune_classify

    runs_dir = tmp_path_factory.mktemp("classifier")
    finetune_classify.run(classify_config(runs_dir, baselines=True, report=ReportConfig()))
    return runs_dir / "lines-classify"


@pytest.fixture(scope="session")
def instruct_run(
    tmp_path_factory: pytest.TempPathFactory,
    instruct_config: Callable[..., FinetuneInstructConfig],
) -> Path:
    """A finished instruction-tuning run: read only."""
    from llmstages.stages import finetune_instruct

    runs_dir = tmp_path_factory.mktemp("instruct")
    finetune_instruct.run(instruct_config(runs_dir, report=ReportConfig()))
    return runs_dir / "pairs-instruct"


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Headless Chromium: the one that the variable CHROMIUM names, one on the path, or
    playwright's own."""
    reason = "pages are tried in a browser"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as drivers:
        try:
            started = drivers.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def text_state() -> "Callable[[Transformer, list[int]], torch.Tensor]":
    """text_state(model, ids): what a classifier's head reads of one text, by its definition."""
    import torch

    def state(model: "Transformer", ids: list[int]) -> torch.Tensor:
        before_norm = []
        hook = model.norm.register_forward_pre_hook(lambda _, args: before_norm.append(args[0][0]))
        model(torch.tensor([ids]))
        hook.remove()
        states = before_norm[0]
        is_last = model.config.pooling == "last"
        return model.norm(states[-1] if is_last else states.mean(dim=0))

    return state


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished pretraining run, to damage."""
    return Path(shutil.copytree(tiny_run, tmp_path / "runs" / "pretrain", symlinks=True))


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """cli(*words) -> exit status, standard output, standard error; runs in an empty directory."""
    from llmstages.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([str(word) for word in words])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def make_shard(tmp_path: Path) -> "Callable[..., Shard]":
    """make_shard(ids, source=..., split=..., weight=...): a shard in which 0 ends a document."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from llmstages.data.shards import Shard, ShardInfo, shard_stem

    def make(
        ids: "np.ndarray",
        source: str = "source",
        split: str = "train",
        weight: float | None = None,
        num_bytes: int = 0,
    ) -> Shard:
        array = np.asarray(ids, dtype="<u2")
        ends = [int(end) + 1 for end in np.flatnonzero(array == 0)]
        starts = [0, *(end for end in ends if end < len(array))]
        stem = shard_stem(split, source)
        (tmp_path / f"{stem}.bin").write_bytes(array.tobytes())
        names = [f"document-{number}" for number in range(len(starts))]
        table = pa.table({"id": names, "start": pa.array(starts, pa.int64())})
        pq.write_table(table, tmp_path / f"{stem}.documents.parquet")
        info = ShardInfo(split, source, len(array), len(starts), 0, num_bytes, weight)
        return Shard(tmp_path, info, np.dtype("<u2"))

    return make


def _lines(text: str, count: int) -> list[str]:
    """`count` lines of a text with something in them, from the start again at its end."""
    lines = [line for line in text.splitlines() if len(line.split()) > 2]
    return [lines[index % len(lines)] for index in range(count)]

"""The same corpus from Ray with two workers as from Daft's own engine."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow.parquet as pq
import pytest

from llmstages.data.corpus import Corpus

# Many small tasks and buckets, so that there is something to be spread.
EMBEDDED = """
import sys
from llmstages import cli
from llmstages.collect.steps import measure, read
read.TASK_BYTES, read.PART_BYTES, measure.BUCKET_BYTES = 50_000, (50_000, 50_000), 200_000
sys.exit(cli.main())
"""
# Two machines, as far as Ray knows: each has a worker of its own.
ON_TWO_NODES = """
import sys
import ray
from ray.cluster_utils import Cluster
from llmstages import cli
from llmstages.collect.steps import measure, read
read.TASK_BYTES, read.PART_BYTES, measure.BUCKET_BYTES = 50_000, (50_000, 50_000), 200_000
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
status = cli.main([*sys.argv[1:], f"engine.address={cluster.address}"])
ray.shutdown()
cluster.shutdown()
sys.exit(status)
"""


def texts(folder: Path) -> Path:
    """Python's help texts, with near duplicates of some."""
    folder.mkdir()
    for number, (name, text) in enumerate(sorted(topics.items())):
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        if number % 5 == 0:
            (folder / f"{name}-again.md").write_text(text + "\nOne more line.\n", encoding="utf-8")
    return folder


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_gives_the_same_corpus(tmp_path: Path) -> None:
    folder = texts(tmp_path / "texts")
    arguments = ["collect", str(folder), "pii=replace", "tokenizer.vocab_size=500"]
    commands = {
        "embedded": [sys.executable, "-c", EMBEDDED, *arguments],
        "ray": [sys.executable, "-c", ON_TWO_NODES, *arguments, "engine=ray"],
    }
    for name, command in commands.items():
        subprocess.run(
            [*command, f"corpora_dir={tmp_path / name}"],
            check=True,
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
            capture_output=True,
            timeout=240,
        )
    embedded, ray = (Corpus.open(tmp_path / name / "local") for name in commands)
    assert ray.manifest_hash == embedded.manifest_hash
    (source,) = ray.manifest.sources
    assert source.dropped["near_duplicate"].documents > 5
    for path in sorted((embedded.directory / "documents").rglob("*.parquet")):
        other = ray.directory / path.relative_to(embedded.directory)
        assert pq.read_table(other).equals(pq.read_table(path))

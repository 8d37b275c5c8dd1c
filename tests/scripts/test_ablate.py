"""The ablations: rows are settings that exist, multiples are worked out, every seed is measured."""

import json
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

from llmstages.config.compose import to_dataclass
from llmstages.config.folders import conf_dir
from llmstages.config.schema import register_schema

DEFAULT = {"lr": 0.01, "embedding_lr": 0.03, "batch_tokens": 2048.0}


def test_every_row_is_made_of_settings_that_are_accepted():
    import ablate

    bundles: list[
        dict[str, str]
    ] = []  # composing takes a second: rows of different keys go together
    for overrides in ablate.CHOICES.values():
        own = {o.partition("=")[0]: o for o in ablate.resolved(overrides, DEFAULT)}
        free = next((bundle for bundle in bundles if not bundle.keys() & own.keys()), None)
        if free is None:
            bundles.append(own)
        else:
            free.update(own)
    register_schema("pretrain")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for bundle in bundles:
            overrides = ["data=x", "model=nano", *bundle.values()]
            to_dataclass("pretrain", compose("pretrain", overrides))
    assert len(bundles) < len(ablate.CHOICES) / 2


def test_multiples_are_of_what_the_default_derived():
    import ablate

    found = ablate.resolved(["@lr=2", "@batch=0.5", "z_loss=1e-4"], DEFAULT)
    assert found == [
        "optim.lr=0.02",
        "optim.embedding_lr=0.06",
        "batch_tokens=1024",
        "z_loss=1e-4",
    ]


def test_rows_by_seeds_and_their_difference(tmp_path: Path, monkeypatch, capsys):
    import ablate

    calls = []

    def run(corpus, name, overrides, runs_dir, num_threads):
        calls.append((name, num_threads))
        seed = 0.1 if "seed=1" in overrides else 0.0
        worse = 0.5 if "optim=adamw" in overrides else 0.0
        return {"bits_per_byte": 2.0 + seed + worse, "tokens_per_second": 10.0, **DEFAULT}

    monkeypatch.setattr(ablate, "run", run)
    monkeypatch.setattr(ablate.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    json_path = tmp_path / "found.json"
    arguments = ["--seeds", "0,1", "--only", "AdamW instead of Muon", "--jobs", "2"]
    monkeypatch.setattr(sys, "argv", ["ablate.py", "corpus", *arguments, "--json", str(json_path)])
    ablate.main()
    assert sorted(calls) == [("0-0", 2), ("0-1", 2), ("1-0", 2), ("1-1", 2)]
    rows = json.loads(json_path.read_text(encoding="utf-8"))["rows"]
    assert [len(row["runs"]) for row in rows.values()] == [2, 2]
    table = capsys.readouterr().out
    assert "2.0500" in table
    assert "+0.5000" in table

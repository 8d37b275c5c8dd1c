"""The whole way by the command line: collect, pretrain, two specialists, generate, predict."""

import gc
import json
import os
from pathlib import Path

import pytest

TINY = [
    "device=cpu",
    "dtype=float32",
    "compile='off'",
    "checkpoint.every_steps=2",
    "evaluate.every_steps=2",
    "evaluate.max_tokens=500",
    "evaluate.num_samples=1",
]
MODEL = [
    "model.num_layers=1",
    "model.hidden_size=32",
    "model.num_heads=2",
    "model.num_kv_heads=1",
    "model.head_dim=16",
    "model.intermediate_size=48",
    "model.context_length=64",
]


@pytest.fixture
def succeeds(cli):
    def call(*words):
        status, out, err = cli(*words)
        assert status == 0, err
        return out

    return call


def summary(run):
    return json.loads(Path("runs", run, "summary.json").read_text(encoding="utf-8"))


def test_from_raw_text_to_a_specialist(succeeds, labelled_file, instruct_file):
    """The defaults chain: each step finds what the one before it made."""
    succeeds("collect", "experiment=smoke", "name=python")
    succeeds("pretrain", "steps=4", "batch_tokens=512", *MODEL, *TINY)
    assert summary("pretrain")["metrics"]["val_bits_per_byte"] < 4.5

    succeeds("finetune", labelled_file, "steps=2", "batch_size=8", *TINY)
    assert summary("lines-classify")["baselines"].keys() == {"majority", "tfidf"}
    succeeds(
        *("finetune", instruct_file, "steps=2", "batch_tokens=256", "max_new_tokens=4"),
        *("evaluate.num_generations=4", "max_cut_share=0.5", *TINY),
    )
    assert summary("pairs-instruct")["metrics"]["val_loss"] > 0

    assert succeeds("generate", "runs/pretrain", "The", "max_new_tokens=4").startswith("The")
    assert "probability" in succeeds("generate", "runs/pretrain", "The lion is in the", "top=10")
    succeeds("generate", "runs/pairs-instruct", "What is LISTS?", "max_new_tokens=4")
    lines = succeeds("predict", "runs/lines-classify", labelled_file).splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(1, 61))
    assert {path.name for path in Path().iterdir()} == {"corpora", "runs"}


@pytest.fixture
def data_dir():
    name = os.environ.get("LLMSTAGES_DATA")
    if not name:
        pytest.skip("LLMSTAGES_DATA is not set: the folder of real data sets")
    return Path(name)


# Daft leaves the pipes of its worker processes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["tinyshakespeare", "english_novels/B*"])
def test_real_text(succeeds, data_dir, name):
    succeeds("collect", data_dir / name, "name=real", "tokenizer.vocab_size=512")
    succeeds("pretrain", "corpora/real", "steps=3", "batch_tokens=512", *MODEL, *TINY)
    assert summary("pretrain")["metrics"]["val_bits_per_byte"] < 5
    gc.collect()


@pytest.mark.parametrize(
    ("name", "run", "more"),
    [
        ("classify/sms_spam/SMSSpamCollection", "SMSSpamCollection-classify", []),
        # Its context of 64 tokens cuts most answers.
        ("instruct/rasbt/instruction-data.json", "instruction-data-instruct", ["max_cut_share=1"]),
    ],
)
def test_real_labelled_data(succeeds, data_dir, tiny_run, name, run, more):
    succeeds("finetune", data_dir / name, f"base={tiny_run}", "steps=3", *more, *TINY)
    assert summary(run)["status"] == "finished"

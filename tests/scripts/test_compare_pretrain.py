"""Learning beside peers: the same evaluation as the stage's, and a time budget that is kept."""

import json
import time
from argparse import Namespace

import pytest
import torch
from torch import nn

from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.losses import dense_loss


def test_the_evaluation_is_the_stages_own(tiny_run, tiny_corpus):
    from compare_pretrain import evaluate, shards_of

    summary = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    _, validation = shards_of(tiny_corpus)
    cpu = torch.device("cpu")
    model = load_checkpoint(tiny_run).model
    found = evaluate(model, dense_loss, validation, 64, 3, cpu, torch.float32)
    assert found["bits_per_byte"] == pytest.approx(summary["metrics"]["val_bits_per_byte"], 1e-5)
    assert found["nats_per_token"] == pytest.approx(summary["metrics"]["val_loss"], 1e-5)


class Counting:
    """A peer whose one weight counts its steps, and whose steps take 5 ms; the first takes more."""

    def __init__(self):
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)
        self.order = Namespace(device=torch.device("cpu"))
        self.calls = []
        self.restarts = 0

    def optimizer_step(self, step, steps):
        time.sleep(0.2 if not self.calls else 0.005)
        self.calls.append((step, steps))
        self.module.weight.data += 1
        return 0.0

    def restart(self):
        self.restarts += 1


def test_a_peer_is_probed_undone_and_ends_in_time():
    from compare_pretrain import PROBE_STEPS, train_peer

    peer = Counting()
    data = Namespace(rows_per_micro_batch=1, tokens_per_step=10)
    began = time.time()
    result = train_peer(peer, data, began + 2.0)
    assert 1.5 < result["ended"] - began < 2.5
    assert peer.restarts == 1
    assert float(peer.module.weight) == result["steps"]  # those of the probe are not in it
    training = peer.calls[PROBE_STEPS + 1 :]
    assert [step for step, _ in training] == list(range(result["steps"]))
    assert training[-1][1] == result["steps"]  # the schedule was told the number that was done
    assert result["tokens"] == 10 * result["steps"]


def test_a_peer_learns_from_the_shards(tiny_corpus, checkout):
    from compare_pretrain import run_peer

    shape = {
        "vocab_size": 512,
        "num_layers": 1,
        "hidden_size": 16,
        "num_heads": 1,
        "num_kv_heads": 1,
        "head_dim": 16,
        "intermediate_size": 32,
        "context_length": 32,
    }
    ours = {
        "shape": shape,
        "context_length": 32,
        "rows_per_step": 4,
        "rows_per_micro_batch": 2,
        "compiled": False,
    }
    arguments = Namespace(
        corpus=tiny_corpus,
        device="cpu",
        dtype="float32",
        compile="auto",
        seconds=4.0,
        peer_batch_tokens=64,
        peer_lr_factor=300.0,
    )
    row = run_peer(str(checkout), ours, arguments)
    assert "error" not in row, row
    assert row["batch_tokens"] == 64
    assert row["tokens"] == 64 * row["steps"]
    assert 0.5 < row["bits_per_byte"] < 50.0  # how far it comes depends on the machine
    assert row["bits_per_byte"] > row["nats_per_token"]  # fewer than 1.44 bytes a token here

"""Learning beside peers: the same evaluation as the stage's, and a time budget that is kept."""

import math
from argparse import Namespace

import pytest
import torch
from torch import nn


class Counting:
    """A peer whose one weight counts its steps. A step takes 0.25 s, the first a second more."""

    def __init__(self, slower_after=10**6):
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)
        self.order = Namespace(device=torch.device("cpu"))
        self.calls = []
        self.restarts = 0
        self.now = 1000.0
        self.slower_after = slower_after

    def time(self):
        return self.now

    def optimizer_step(self, step, steps):
        self.now += 1.25 if not self.calls else 0.25
        if len(self.calls) > self.slower_after:
            self.now += 0.25
        self.calls.append((step, steps))
        self.module.weight.data += 1
        return 0.0

    def restart(self):
        self.restarts += 1


def test_a_peer_is_probed_undone_and_ends_in_time(monkeypatch):
    import compare_pretrain

    peer = Counting()
    monkeypatch.setattr(compare_pretrain, "time", peer)
    data = Namespace(rows_per_micro_batch=1, tokens_per_step=10)
    result = compare_pretrain.train_peer(peer, data, 1000.0 + 33.0)
    # 1 + 8 * 0.25 s go into the probe: 30 s are left
    assert (result["steps"], result["ended"]) == (120, 1033.0)
    assert (result["tokens"], result["tokens_per_second"]) == (1200, 40.0)
    assert result["first_step_seconds"] == 1.25
    assert peer.restarts == 1
    assert peer.module.weight.item() == 120  # those of the probe are not in it
    assert peer.calls[8:] == [(step, 120) for step in range(120)]


def test_a_peer_that_becomes_slower_still_ends_in_time(monkeypatch):
    import compare_pretrain

    peer = Counting(slower_after=8)  # all but the first after the probe
    monkeypatch.setattr(compare_pretrain, "time", peer)
    data = Namespace(rows_per_micro_batch=1, tokens_per_step=10)
    result = compare_pretrain.train_peer(peer, data, 1000.0 + 33.0)
    assert 59 <= result["steps"] <= 61
    assert result["ended"] <= 1033.5
    assert peer.calls[-1] == (result["steps"] - 1, result["steps"])


def test_a_peer_learns_from_the_shards(tiny_corpus, checkout):
    from compare_pretrain import run_peer, shards_of

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
    infos = [shard.info for shard in shards_of(tiny_corpus)[1]]
    bits = (
        row["nats_per_token"]
        / math.log(2)
        * sum(info.tokens - 1 - info.documents for info in infos)
    )
    assert row["bits_per_byte"] == pytest.approx(bits / sum(info.bytes for info in infos))
    assert row["nats_per_token"] < 60.0  # a table of random logits, or better

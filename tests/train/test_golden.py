"""Losses of a fixed seed, kept in a file: an unmeant change of the arithmetic shows here.

The data are computed, so that neither a tokenizer's nor Python's version matters. To take new
losses on purpose: LLMSTAGES_WRITE_GOLDEN=1 python -m pytest tests/train/test_golden.py
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from llmstages.config.groups import CheckpointConfig, EvaluateConfig, OptimConfig, ScheduleConfig
from llmstages.config.stages import PretrainConfig
from llmstages.data.streams import PretrainingData
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import Lineage
from llmstages.train.loop import LOWEST_LOSS, Training, train
from llmstages.train.losses import dense_loss
from llmstages.train.run import Run

GOLDEN = Path(__file__).parent.parent / "golden" / "losses.json"


@pytest.mark.parametrize(("optimizer", "schedule"), [("adamw", "cosine"), ("muon", "wsd")])
def test_golden_losses(tmp_path, tiny_corpus, make_shard, optimizer, schedule):
    model = Transformer(
        TransformerConfig(
            vocab_size=64,
            num_layers=2,
            hidden_size=32,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            intermediate_size=64,
            context_length=32,
        )
    )
    model.initialize(torch.Generator().manual_seed(0))
    numbers = np.arange(4000)
    data = PretrainingData(
        [make_shard(1 + (numbers * 5 + numbers // 50) % 63)],
        context_length=32,
        rows_per_step=8,
        rows_per_micro_batch=4,
        seed=0,
    )
    run = Run(tmp_path / "run", "pretrain", PretrainConfig(), {})
    train(
        Training(
            run=run,
            model=model,
            tokenizer=Tokenizer.load(tiny_corpus / "tokenizer"),
            data=data,
            loss=dense_loss,
            evaluate=lambda: {"val_loss": 0.0},
            goal=LOWEST_LOSS,
            lineage=Lineage(),
            device=torch.device("cpu"),
            dtype=torch.float32,
            lr=0.01,
            optim=OptimConfig(name=optimizer),
            schedule=ScheduleConfig(name=schedule, warmup_share=0.2),
            checkpoint=CheckpointConfig(),
            evaluation=EvaluateConfig(every_steps=100),
            steps=10,
            seconds=None,
        )
    )
    lines = (run.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("LLMSTAGES_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps({**golden, optimizer: found}, indent=1) + "\n")
        pytest.skip("new losses written")
    assert found == pytest.approx(golden[optimizer], abs=1e-4)
    assert found[-1] < found[0] - 0.3

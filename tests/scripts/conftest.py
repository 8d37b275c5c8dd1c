"""The scripts as modules, and a peer of the tests' own in place of a checkout."""

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

# What the adapter of nanoGPT relies on, and no more: a table of next-token logits with positions.
MODEL = """
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        print("prints of a peer are no answers")
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
            }
        )

    def forward(self, idx, targets):
        places = self.transformer.wpe(torch.arange(idx.shape[1], device=idx.device))
        hidden = self.transformer.wte(idx) + places
        logits = hidden @ self.transformer.wte.weight.T
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)
        return logits, loss

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.SGD(self.parameters(), lr=learning_rate)
"""


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`import bench_pretrain` and the others, as a script finds its neighbours."""
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that is taken for nanoGPT."""
    folder = tmp_path / "peer"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "train.py").write_text("", encoding="utf-8")
    return folder


@pytest.fixture
def broken_checkout(tmp_path: Path) -> Path:
    """A folder that is taken for nanochat, and whose import fails."""
    folder = tmp_path / "broken" / "nanochat"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('no such kernel')", encoding="utf-8")
    (folder / "gpt.py").write_text("", encoding="utf-8")
    return folder.parent

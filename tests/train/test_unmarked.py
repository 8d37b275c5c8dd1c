"""Optimizers that do not import torch's compiler."""

import subprocess
import sys

import torch

from llmstages.train.unmarked import AdamW

TRAINS = """
import sys
import torch
from llmstages.train.muon import Muon
from llmstages.train.unmarked import AdamW

weight = torch.ones(4, 4, requires_grad=True)
for optimizer in (Muon([weight], lr=0.1), AdamW([weight], lr=0.1, fused=True)):
    weight.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
print("torch._dynamo" in sys.modules)
"""


def test_a_step_does_not_import_the_compiler():
    found = subprocess.run([sys.executable, "-c", TRAINS], capture_output=True, text=True)
    assert (found.stdout, found.returncode) == ("False\n", 0), found.stderr


def test_steps_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(3, 5, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    settings = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizers = AdamW([ours], **settings), torch.optim.AdamW([theirs], **settings)
    for _ in range(3):
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            assert weight.grad is None
    assert torch.equal(ours, theirs)
    assert ours.requires_grad

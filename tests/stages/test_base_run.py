"""What a base hands on: its optimizer and its rate."""

import shutil

import pytest

from llmstages.config.groups import OptimConfig
from llmstages.errors import UserError
from llmstages.stages.shared.base_run import inherited, pretraining_lr
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.optimizer import derived_lr

INHERITED = OptimConfig(name="inherited", clip_norm=0.5)


def test_optimizer_and_rate_of_the_base(tmp_path, tiny_run):
    run = shutil.copytree(tiny_run, tmp_path / "run", symlinks=True)
    config = run / "config.yaml"
    before = config.read_text("utf-8")
    after = before.replace("name: muon\n  lr: null", "name: adamw\n  lr: 0.02")
    assert after != before
    config.write_text(after, "utf-8")
    base = load_checkpoint(run)
    assert inherited(INHERITED, base) == OptimConfig(name="adamw", clip_norm=0.5)
    assert inherited(OptimConfig(name="muon"), base) == OptimConfig(name="muon")
    width = base.model.config.hidden_size
    assert pretraining_lr(base, "adamw") == 0.02
    assert pretraining_lr(base, "muon") == derived_lr("muon", width)

    alone = load_checkpoint(shutil.copytree((run / "best").resolve(), tmp_path / "alone"))
    assert inherited(INHERITED, alone).name == "muon"
    assert pretraining_lr(alone, "adamw") == derived_lr("adamw", width)
    with pytest.raises(UserError, match="optim=inherited is for going on from base="):
        inherited(INHERITED, None)

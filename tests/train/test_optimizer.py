"""Learning-rate schedules at exact values; what is decayed; the rate derived from the width."""

import math

import pytest
import torch

from llmstages.config.groups import OptimConfig, ScheduleConfig
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.train.optimizer import REFERENCE_LR, derived_lr, lr_share, make_optimizers


def shares(steps, **settings):
    config = ScheduleConfig(**settings)
    return [lr_share(config, step, steps) for step in range(steps)]


def test_warmup_rises_linearly_and_never_starts_at_zero():
    assert shares(10, name="constant", warmup_share=0.4) == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1]
    )


def test_cosine():
    found = shares(7, name="cosine", warmup_share=0.0, final_lr_share=0.1)
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(7)]
    assert found == pytest.approx(expected)
    assert (found[0], found[3], found[6]) == pytest.approx((1.0, 0.55, 0.1))


def test_wsd_is_flat_and_then_falls_linearly_to_its_end_at_the_last_step():
    found = shares(10, name="wsd", warmup_share=0.2, decay_share=0.4, final_lr_share=0.0)
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize("name", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_shares_stay_between_the_end_and_the_peak(name, steps):
    assert all(0 < share <= 1 for share in shares(steps, name=name))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_derived_lr_falls_with_the_square_root_of_the_width(name):
    assert derived_lr(name, 128) == pytest.approx(REFERENCE_LR[name])
    assert derived_lr(name, 512) == pytest.approx(REFERENCE_LR[name] / 2)


def groups(config, lr=1e-3):
    """(optimizer, decay, peak rate) of each parameter, by name."""
    model = Transformer(TransformerConfig(12, 1, 8, 2, 1, 4, 8, 8))
    found = {
        id(parameter): (type(optimizer).__name__, group["weight_decay"], group["peak_lr"])
        for optimizer in make_optimizers(model, config, lr)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return {name: found[id(parameter)] for name, parameter in model.named_parameters()}


def test_what_adamw_decays():
    for name, found in groups(OptimConfig(name="adamw", weight_decay=0.3)).items():
        inner_matrix = name.startswith("blocks.") and "norm" not in name
        assert found == ("AdamW", 0.3 if inner_matrix else 0.0, 1e-3), name


def test_what_muon_moves():
    for name, found in groups(OptimConfig(name="muon", weight_decay=0.3)).items():
        inner_matrix = name.startswith("blocks.") and "norm" not in name
        expected = ("Muon", 0.3, 1e-3) if inner_matrix else ("AdamW", 0.0, pytest.approx(3e-3))
        assert found == expected, name
    config = OptimConfig(name="muon", embedding_lr=0.5)
    assert groups(config)["embedding.weight"] == ("AdamW", 0.0, 0.5)


def test_one_step_is_adamw_by_hand():
    model = Transformer(TransformerConfig(12, 1, 8, 2, 1, 4, 8, 8))
    (optimizer,) = make_optimizers(model, OptimConfig(name="adamw", weight_decay=0.5), 0.1)
    matrix = model.blocks[0].feed_forward.up.weight
    before = matrix.detach().clone()
    matrix.grad = torch.full_like(before, 3.0)
    optimizer.step()
    # The first step of Adam moves by the rate against the sign, after decay by rate * weight_decay.
    expected = before * (1 - 0.1 * 0.5) - 0.1
    torch.testing.assert_close(matrix.detach(), expected, atol=1e-6, rtol=0)

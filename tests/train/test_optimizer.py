"""Learning-rate schedules at exact values; what is decayed; the rate derived from the width."""

import math

import pytest
import torch

from llmstages.config.groups import OptimConfig, ScheduleConfig
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.train.optimizer import derived_lr, lr_share, make_optimizer


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


def test_derived_lr_falls_with_the_square_root_of_the_width():
    assert derived_lr(256) == pytest.approx(4e-3)
    assert derived_lr(1024) == pytest.approx(2e-3)


def test_only_matrices_decay():
    model = Transformer(TransformerConfig(12, 1, 8, 2, 1, 4, 8, 8))
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.3), 1e-3)
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        name: 0.3 if p.dim() == 2 else 0.0 for name, p in model.named_parameters()
    }


def test_one_step_is_adamw_by_hand():
    model = Transformer(TransformerConfig(12, 1, 8, 2, 1, 4, 8, 8))
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.5), 0.1)
    before = model.embedding.weight.detach().clone()
    model.embedding.weight.grad = torch.full_like(before, 3.0)
    optimizer.step()
    # The first step of Adam moves by the rate against the sign, after decay by rate * weight_decay.
    expected = before * (1 - 0.1 * 0.5) - 0.1
    torch.testing.assert_close(model.embedding.weight.detach(), expected, atol=1e-6, rtol=0)

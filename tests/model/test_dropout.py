"""Dropout: the share, the mean, the gradient, and that a seed decides."""

import pytest
import torch

from llmstages.model.dropout import LEVELS, dropout


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_is_zero_and_the_mean_stays(share, dtype):
    torch.manual_seed(0)
    found = dropout(torch.ones(999, 1001, dtype=dtype), share, training=True)
    assert found.dtype == dtype
    zeros = (found == 0).float()
    expected = round(LEVELS * share) / LEVELS
    assert zeros.mean().item() == pytest.approx(expected, abs=2e-3)
    assert found.float().mean().item() == pytest.approx(1.0, abs=0.02)
    # Neighbours, which come from one word, are independent.
    together = (zeros[:, :-1] * zeros[:, 1:]).mean().item()
    assert together == pytest.approx(expected**2, abs=2e-3)
    assert zeros.mean(0).std().item() == pytest.approx(
        (expected * (1 - expected) / 999) ** 0.5, rel=0.1
    )


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(0)
    x = torch.randn(8, 64, requires_grad=True)
    found = dropout(x, 0.25, training=True)
    found.sum().backward()
    torch.testing.assert_close(x.grad, found.detach() / x.detach())


def test_the_seed_decides():
    x = torch.ones(4, 100)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout(x, 0.5, training=True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_nothing_is_dropped_when_evaluating_or_at_zero():
    x = torch.ones(10)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    torch.manual_seed(0)
    smallest = dropout(torch.ones(100_000), 1e-6, training=True)
    assert 0 < (smallest == 0).float().mean() < 2 / LEVELS

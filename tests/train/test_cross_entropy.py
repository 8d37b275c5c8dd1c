"""The chunked loss and its gradients are those of the plain formula."""

import pytest
import torch

from llmstages.data.batch import IGNORED
from llmstages.train import cross_entropy
from llmstages.train.cross_entropy import (
    linear_cross_entropy,
    linear_log_probabilities,
    rows_of_chunk,
)

ROWS, WIDTH, VOCABULARY = 37, 16, 50


def inputs(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, generator=generator, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    weights = torch.rand(ROWS, dtype=dtype, generator=generator)
    targets[::5] = IGNORED  # some with a weight all the same
    weights[::10] = 0.0
    return hidden, weight, targets, weights


def by_hand(hidden, weight, targets, weights, z_loss, softcap):
    """The formula, row by row."""
    total = hidden.new_zeros(())
    for row, target, share in zip(hidden, targets.tolist(), weights, strict=True):
        if target == IGNORED:
            continue
        logits = weight @ row
        if softcap is not None:
            logits = softcap * (logits / softcap).tanh()
        lse = logits.exp().sum().log()
        total = total + share * (lse - logits[target] + z_loss * lse**2)
    return total


@pytest.mark.parametrize("chunk_elements", [VOCABULARY, 7 * VOCABULARY, 1000 * VOCABULARY])
@pytest.mark.parametrize(("z_loss", "softcap"), [(0.0, None), (0.1, None), (0.0, 3.0), (0.1, 3.0)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_loss_and_gradients(chunk_elements, z_loss, softcap, dtype, tolerance):
    hidden, weight, targets, weights = inputs(dtype)
    expected = by_hand(hidden, weight, targets, weights, z_loss, softcap) / ROWS
    wanted = torch.autograd.grad(3.0 * expected, (hidden, weight))
    found = (
        linear_cross_entropy(
            hidden,
            weight,
            targets,
            weights,
            z_loss=z_loss,
            softcap=softcap,
            chunk_elements=chunk_elements,
        )
        / ROWS
    )
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    for one, two in zip(torch.autograd.grad(3.0 * found, (hidden, weight)), wanted, strict=True):
        torch.testing.assert_close(one, two, atol=tolerance, rtol=10 * tolerance)
        assert float(two.abs().max()) > 0.01


def test_without_gradients_nothing_is_kept_and_the_loss_is_the_same():
    hidden, weight, targets, weights = inputs(torch.float64)
    settings = {"z_loss": 0.1, "softcap": 3.0, "chunk_elements": 7 * VOCABULARY}
    with_gradients = linear_cross_entropy(hidden, weight, targets, weights, **settings)
    with torch.no_grad():
        without = linear_cross_entropy(hidden, weight, targets, weights, **settings)
    assert not without.requires_grad
    torch.testing.assert_close(without, with_gradients.detach(), atol=1e-12, rtol=1e-12)


def test_autocast_multiplies_in_its_type_and_sums_in_float32():
    hidden, weight, targets, weights = inputs(torch.float32)
    exact = linear_cross_entropy(hidden, weight, targets, weights)
    wanted = torch.autograd.grad(exact, (hidden, weight))
    results = []
    for chunk_elements in (5 * VOCABULARY, 1000 * VOCABULARY):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = linear_cross_entropy(
                hidden, weight, targets, weights, chunk_elements=chunk_elements
            )
        gradients = torch.autograd.grad(loss, (hidden, weight))
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
        for one, two in zip(gradients, wanted, strict=True):
            assert one.dtype == torch.float32
            assert float((one - two).norm() / two.norm()) < 0.01
        results.append(loss.item())
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    assert results[0] != exact.item()


def test_one_chunk_of_logits_at_a_time(monkeypatch):
    hidden, weight, targets, weights = inputs(torch.float32)
    seen = []
    whole = cross_entropy.loss_and_gradient

    def watch(logits, *rest):
        seen.append(logits.shape[0])
        return whole(logits, *rest)

    monkeypatch.setattr(cross_entropy, "loss_and_gradient", watch)
    linear_cross_entropy(hidden, weight, targets, weights, chunk_elements=10 * VOCABULARY)
    assert seen == [10, 10, 10, 7]


@pytest.mark.parametrize(
    ("rows", "vocabulary", "elements", "expected"),
    [
        (4096, 8192, 2**24, 2048),
        (4096, 65, 2**24, 4096),
        (16_384, 50_304, 2**26, 1280),  # 13 chunks of 1,261 rows, rounded up; 1,334 would do
        (5, 100, 10, 1),
        (0, 100, 10, 0),
    ],
)
def test_rows_of_a_chunk(rows, vocabulary, elements, expected):
    assert rows_of_chunk(rows, vocabulary, elements) == expected


@pytest.mark.parametrize("chunk_elements", [VOCABULARY, 7 * VOCABULARY, 1000 * VOCABULARY])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_log_probabilities_of_rows(chunk_elements, softcap):
    """A sum weighted afterwards is the loss, and has its gradients."""
    hidden, weight, targets, weights = inputs(torch.float64)
    targets = targets.clamp(min=0)
    found = linear_log_probabilities(
        hidden, weight, targets, softcap=softcap, chunk_elements=chunk_elements
    )
    assert found.shape == (ROWS,)
    loss = linear_cross_entropy(hidden, weight, targets, weights, softcap=softcap)
    mine = -(found * weights).sum()
    torch.testing.assert_close(mine, loss, rtol=1e-12, atol=0)
    for one, other in zip(
        torch.autograd.grad(mine, (hidden, weight)),
        torch.autograd.grad(loss, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)

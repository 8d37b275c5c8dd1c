"""Muon: orthogonal updates of a known size, neurons in balance, decay that is cautious."""

import pytest
import torch

from llmstages.train.muon import ADAMW_RMS, Muon, orthogonalise


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 6, 6), (2, 4, 10), (2, 10, 4), (1, 64, 256)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.16), (torch.bfloat16, 0.2)])
def test_updates_are_orthogonal(shape, dtype, tolerance):
    matrices = draw(*shape)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    matrices = u @ torch.diag_embed(s + s.max() * 0.05) @ v  # none is nearly singular
    found = orthogonalise(matrices.to(dtype), 5).float()
    assert found.shape == matrices.shape
    values = torch.linalg.svdvals(found)
    assert values.min() > 1 - tolerance
    assert values.max() < 1 + tolerance
    assert torch.linalg.matrix_norm(found - u @ v, ord=2).max() < tolerance


def step(weight, gradient, **settings):
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = gradient.clone()
    settings = {"lr": 0.1, "momentum": 0.9, "dtype": torch.float32} | settings
    optimizer = Muon([parameter], **settings)
    optimizer.step()
    return parameter.detach() - weight, optimizer


@pytest.mark.parametrize("neuron_beta", [None, 0.95])
@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_an_update_has_the_size_of_adamw(shape, neuron_beta):
    change, _ = step(torch.zeros(shape), draw(*shape), neuron_beta=neuron_beta)
    size = change.square().mean().sqrt().item()
    assert size == pytest.approx(0.1 * ADAMW_RMS, rel=0.12)


def test_the_direction_is_that_of_the_orthogonal_gradient():
    gradient = draw(6, 6) + 6 * torch.eye(6)
    change, _ = step(torch.zeros(6, 6), gradient, neuron_beta=None)
    u, _, v = torch.linalg.svd(gradient)
    torch.testing.assert_close(change, -0.1 * ADAMW_RMS * 6**0.5 * (u @ v), atol=8e-3, rtol=0)


@pytest.mark.parametrize(("shape", "along"), [((24, 8), 1), ((8, 24), 0)])
def test_neurons_are_brought_into_balance(shape, along):
    rows, columns = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    gradient = draw(*shape) * (0.1 + (rows if along == 1 else columns))
    plain, _ = step(torch.zeros(shape), gradient, neuron_beta=None)
    even, _ = step(torch.zeros(shape), gradient, neuron_beta=0.5)
    spread = [x.square().mean(dim=along).sqrt() for x in (plain, even)]
    assert spread[0].max() / spread[0].min() > 1.5
    assert spread[1].max() / spread[1].min() == pytest.approx(1.0, abs=0.01)
    assert plain.norm().item() == pytest.approx(even.norm().item(), rel=1e-4)


def test_momentum_is_nesterov_and_kept():
    first, second = draw(4, 4), draw(4, 4).flip(0)
    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([parameter], lr=0.1, momentum=0.9, dtype=torch.float32)
    for gradient in (first, second):
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = 0.9 * (0.1 * first) + 0.1 * second
    torch.testing.assert_close(optimizer.state[parameter]["momentum"], expected)


def test_decay_is_on_all_weights_or_on_those_the_update_makes_smaller():
    weight, gradient = draw(5, 5), draw(5, 5).flip(1)
    without, _ = step(weight, gradient)
    plain, _ = step(weight, gradient, weight_decay=0.5, cautious=False)
    cautious, _ = step(weight, gradient, weight_decay=0.5, cautious=True)
    torch.testing.assert_close(plain, without - 0.1 * 0.5 * weight)
    shrinks = (without * weight) < 0
    assert 0 < shrinks.sum() < 25
    torch.testing.assert_close(cautious, without - 0.1 * 0.5 * weight * shrinks)


def test_matrices_of_a_batch_are_treated_alone():
    gradients = [draw(6, 4), draw(6, 4).flip(0) * 100, draw(4, 6)]
    alone = [step(torch.ones(g.shape), g, weight_decay=0.1)[0] for g in gradients]
    parameters = [torch.nn.Parameter(torch.ones(g.shape)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    Muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.1, dtype=torch.float32).step()
    for parameter, change in zip(parameters, alone, strict=True):
        torch.testing.assert_close(parameter.detach() - 1, change, atol=1e-5, rtol=0)


def test_parameters_without_a_gradient_stay():
    parameters = [torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2)]
    parameters[0].grad = draw(4, 4)
    Muon(parameters, lr=0.1, weight_decay=0.1).step()
    assert torch.equal(parameters[1], torch.ones(4, 4))
    assert not torch.equal(parameters[0], torch.ones(4, 4))


@pytest.mark.parametrize("cautious", [True, False])
def test_a_step_told_to_do_nothing_does_nothing(cautious):
    weight = torch.nn.Parameter(draw(6, 10))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.5, cautious=cautious)
    weight.grad = draw(6, 10)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    before = [weight.detach().clone(), *(v.clone() for v in optimizer.state[weight].values())]
    weight.grad = torch.full((6, 10), float("nan"))
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    after = [weight.detach(), *optimizer.state[weight].values()]
    assert len(after) == 3
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))

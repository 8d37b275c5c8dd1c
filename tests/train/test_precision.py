"""8-bit matrix products against the same arithmetic spelt out, and against exact ones."""

import pytest
import torch
from torch import nn

from llmstages.errors import UserError
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.train.precision import (
    BACKWARD,
    FORWARD,
    Fp8Linear,
    Fp8Product,
    quantised,
    require_fp8,
    use_fp8,
)

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(x, dtype):
    """x as it is after having been squeezed into an 8-bit type."""
    values, scale = quantised(x, dtype)
    return values.float() * scale


def off(found, exact):
    """Distance from the exact result as a share of its norm."""
    return float((found.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("dtype", "bits"), [(E4M3, 3), (E5M2, 2)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_rounding_is_within_half_a_step_of_the_mantissa(dtype, bits, size):
    x = size * normal(64, 64, seed=0)
    values, scale = quantised(x, dtype)
    assert values.dtype == dtype
    assert float(values.float().abs().max()) == torch.finfo(dtype).max
    error = (rounded(x, dtype) - x).abs()
    smallest = float(scale) * torch.finfo(dtype).tiny  # below it numbers are evenly spaced
    assert bool((error <= torch.clamp(x.abs(), min=smallest) * 2.0 ** -(bits + 1) * 1.001).all())


def test_zeros_and_huge_numbers_stay_finite():
    for x in (torch.zeros(16, 16), torch.full((16, 16), 1e30)):
        assert torch.equal(rounded(x, FORWARD).isfinite(), torch.ones(16, 16, dtype=torch.bool))
    assert float(rounded(torch.zeros(16, 16), FORWARD).abs().max()) == 0.0


def test_products_are_those_of_the_rounded_operands():
    x, weight = normal(32, 48, seed=1), normal(64, 48, seed=2)
    grad = 1e-3 * normal(32, 64, seed=3)
    x.requires_grad_()
    weight.requires_grad_()
    y = Fp8Product.apply(x, weight)
    assert y.dtype == torch.bfloat16
    dx, dw = torch.autograd.grad(y, (x, weight), grad.to(torch.bfloat16))
    x8, w8 = (rounded(operand.detach(), FORWARD) for operand in (x, weight))
    y = y.detach()
    g8 = rounded(grad.to(torch.bfloat16), BACKWARD)
    assert dx.dtype == dw.dtype == torch.float32
    assert off(y, x8 @ w8.t()) < 0.005  # bf16 result
    assert off(dx, g8 @ w8) < 0.005
    assert off(dw, g8.t() @ x8) < 1e-5  # float32 result


def test_products_are_near_the_exact_ones():
    x = normal(256, 512, seed=1).requires_grad_()
    weight = (0.02 * normal(384, 512, seed=2)).requires_grad_()
    grad = normal(256, 384, seed=3).to(torch.bfloat16)
    found, exact = Fp8Product.apply(x, weight), x @ weight.t()
    with torch.no_grad():
        bf16 = x.to(torch.bfloat16) @ weight.to(torch.bfloat16).t()
        assert off(bf16, exact) < 0.005 < off(found, exact) < 0.05
    pairs = zip(
        torch.autograd.grad(found, (x, weight), grad),
        torch.autograd.grad(exact, (x, weight), grad.float()),
        strict=True,
    )
    for one, two in pairs:
        assert 0.01 < off(one, two) < 0.08


@pytest.fixture
def model():
    made = Transformer(
        TransformerConfig(
            vocab_size=50,
            num_layers=2,
            hidden_size=32,
            num_heads=2,
            num_kv_heads=2,
            head_dim=16,
            intermediate_size=40,  # no multiple of 16
            context_length=16,
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2, generator=generator)
    return made


def test_matrices_of_the_blocks_with_fitting_sides(model):
    names = [name for name, _ in model.named_parameters()]
    parameters = list(model.parameters())
    tokens = torch.arange(32).view(2, 16)
    before = model.eval()(tokens).detach()
    assert use_fp8(model) == 8  # query, key, value, output of both blocks
    assert use_fp8(model) == 0
    linear = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    assert {name.split(".")[-1] for name in linear} == {"gate", "up", "down"}
    assert [name for name, _ in model.named_parameters()] == names
    assert all(one is two for one, two in zip(model.parameters(), parameters, strict=True))
    assert torch.equal(model(tokens).detach(), before)  # evaluation is not in 8 bits
    after = model.train()(tokens)
    assert 0 < off(after.detach(), before) < 0.2  # over two blocks
    after.square().sum().backward()
    assert all(parameter.grad is not None for parameter in parameters)


def test_rows_that_are_no_multiple_of_16_go_the_usual_way():
    layer = Fp8Linear(32, 16, bias=False).train()
    odd, even = normal(3, 5, 32, seed=0), normal(4, 8, 32, seed=0)
    assert torch.equal(layer(odd), odd @ layer.weight.t())
    assert off(layer(even).detach(), (even @ layer.weight.t()).detach()) > 0.005
    assert layer(even).shape == (4, 8, 16)


def test_refused_where_there_is_none():
    with pytest.raises(UserError, match=r"fp8=true: cpu has no 8-bit"):
        require_fp8(torch.device("cpu"), torch.bfloat16)

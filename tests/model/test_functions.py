"""Written-out backward passes against autograd of the plain formulas."""

import pytest
import torch

from llmstages.model.functions import Normalise, ReluSquared, Rotate, relu_squared, rms_norm, rotate


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def compare(ours, plain, *inputs):
    """Values and gradients of two functions of the same inputs."""
    tensors = [x.requires_grad_() for x in inputs]
    found, expected = ours(*tensors), plain(*tensors)
    torch.testing.assert_close(found, expected)
    weights = draw(*found.shape)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), tensors),
        torch.autograd.grad((expected * weights).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_norm():
    def plain(x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    compare(lambda x: rms_norm(x, None, 1e-5), plain, draw(3, 5, 8))
    weight = draw(8)
    compare(lambda x, w: rms_norm(x, w, 1e-5), lambda x, w: plain(x) * w, draw(3, 5, 8), weight)


def test_rotation():
    angles = draw(5, 1, 4)
    sines = torch.cat((-angles.sin(), angles.sin()), dim=-1)

    def plain(x):
        pairs = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones(()), angles)
        return torch.cat((pairs.real, pairs.imag), dim=-1)

    compare(lambda x: rotate(x, angles.cos().repeat(1, 1, 2), sines), plain, draw(2, 5, 3, 8))


def test_squared_relu():
    compare(relu_squared, lambda x: x.clamp(min=0) ** 2, draw(4, 7))


@pytest.mark.parametrize("weighted", [False, True])
def test_norms_feed_matrix_products_in_their_type(weighted):
    x, weight = draw(4, 8), torch.ones(8) if weighted else None
    assert rms_norm(x, weight, 1e-6).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert rms_norm(x, weight, 1e-6).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["normalise", "rotate", "relu"])
def test_gradients_keep_the_type_of_the_input(kind):
    x = draw(2, 5, 3, 8).to(torch.bfloat16).requires_grad_()
    y = {
        "normalise": lambda: Normalise.apply(x, None, 1e-6, torch.float32),
        "rotate": lambda: Rotate.apply(x, torch.ones(5, 1, 8), torch.zeros(5, 1, 8)),
        "relu": lambda: ReluSquared.apply(x),
    }[kind]()
    y.float().sum().backward()
    assert x.grad.dtype == torch.bfloat16

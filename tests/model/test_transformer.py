"""The transformer: what a position may see, and how it starts."""

import math

import pytest
import torch

from llmstages.model.transformer import document_mask


def test_initialisation_starts_every_block_as_the_identity(random_model):
    model = random_model(tie_embeddings=False)
    model.initialize(torch.Generator().manual_seed(0))
    x = torch.randint(0, 96, (2, 5))
    expected = model.norm(model.embedding(x))
    assert torch.equal(model(x), expected)
    assert math.isclose(model.embedding.weight.std().item(), 0.02, rel_tol=0.1)
    assert math.isclose(model.head.weight.std().item(), 0.02, rel_tol=0.1)
    assert all(bool((p == 1).all()) for p in model.parameters() if p.dim() == 1)


def test_same_seed_same_weights(random_model):
    one, two, three = random_model(), random_model(), random_model()
    one.initialize(torch.Generator().manual_seed(5))
    two.initialize(torch.Generator().manual_seed(5))
    three.initialize(torch.Generator().manual_seed(6))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, three.embedding.weight)


def test_no_position_sees_a_later_one(random_model):
    model = random_model()
    tokens = torch.randint(0, 96, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 96
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:], atol=1e-3)


def test_document_mask():
    mask = document_mask(torch.tensor([[0, 0, 1, 1, -1]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_documents_in_one_row_do_not_see_each_other(random_model):
    model = random_model()
    first, second = torch.randint(0, 96, (1, 5)), torch.randint(0, 96, (1, 7))
    packed = model(
        torch.cat((first, second), dim=1),
        torch.cat((torch.arange(5), torch.arange(7)))[None],
        torch.tensor([[0] * 5 + [1] * 7]),
    )
    torch.testing.assert_close(packed[:, :5], model(first), atol=1e-5, rtol=0)
    torch.testing.assert_close(packed[:, 5:], model(second), atol=1e-5, rtol=0)


def test_dropout_is_for_training_only(random_model):
    model = random_model()
    tokens = torch.randint(0, 96, (2, 9))
    before = model(tokens)
    model.set_dropout(0.5)
    assert torch.equal(model(tokens), before)
    model.train()
    assert not torch.equal(model(tokens), before)
    model.set_dropout(0.0)
    assert torch.equal(model(tokens), before)


@pytest.mark.parametrize("documents", [False, True])
def test_wanted_positions_alone(random_model, documents):
    """Their hidden states and gradients are those of the whole forward pass."""
    model = random_model()
    tokens = torch.randint(0, 96, (3, 9))
    ends = torch.tensor([[8, 3], [2, 2], [0, 5]])
    more = (
        (torch.arange(9).repeat(3, 1) % 4, torch.arange(9).repeat(3, 1) // 4)
        if documents
        else (None, None)
    )
    rows = torch.arange(3)[:, None]
    for trains in (False, True):
        with torch.set_grad_enabled(trains):
            whole = model(tokens, *more)[rows, ends]
            found = model(tokens, *more, ends)
        assert found.shape == (*ends.shape, 32)
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(whole.square().sum(), parameters)
    gradients = torch.autograd.grad(found.square().sum(), parameters)
    for gradient, of_whole in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, of_whole, atol=1e-4, rtol=1e-4)

"""The gradient of a step is that of its targets' mean, however it is cut into micro-batches."""

from dataclasses import replace

import pytest
import torch

from llmstages.data.batch import IGNORED
from llmstages.data.examples import Example, make_batch, pack, packed_batches
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.train.losses import (
    balanced_class_weights,
    dense_loss,
    label_loss,
    sparse_loss,
)

SHAPE = TransformerConfig(
    vocab_size=50,
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    context_length=24,
)


@pytest.fixture(scope="module")
def model():
    made = Transformer(SHAPE)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3, generator=generator)
    return made


@pytest.fixture(scope="module")
def examples():
    """Twelve of 3 to 14 tokens; in each about half of the positions have a target."""
    generator = torch.Generator().manual_seed(1)

    def numbers(count, high):
        return torch.randint(0, high, (count,), generator=generator).tolist()

    made = []
    for index in range(12):
        tokens = numbers(3 + index, 50)
        wanted = numbers(len(tokens), 2)
        targets = [
            t if w else IGNORED for t, w in zip(numbers(len(tokens), 50), wanted, strict=True)
        ]
        targets[-1] = 7
        made.append(Example(tokens, targets, f"line {index}"))
    return made


def step(model, loss, batches):
    """Loss and gradients of an optimizer step, as the loop computes them."""
    model.zero_grad()
    total = count = torch.tensor(0.0)
    for batch in batches:
        part, number = loss(model, batch)
        part.backward()
        total, count = total + part.detach(), count + number
    gradients = {name: p.grad / count for name, p in model.named_parameters()}
    return float(total / count), gradients


@pytest.mark.parametrize("loss", [dense_loss, sparse_loss])
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_micro_batches_do_not_change_the_gradient(model, examples, loss, cut):
    whole, expected = step(model, loss, [make_batch([[e] for e in examples])])
    batches = [
        make_batch([[e] for e in examples[begin : begin + cut]])
        for begin in range(0, len(examples), cut)
    ]
    found, gradients = step(model, loss, batches)
    assert found == pytest.approx(whole, abs=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)
        assert float(gradient.abs().max()) > 1e-4, name


def test_dense_and_sparse_agree_and_equal_the_mean_by_hand(model, examples):
    batch = make_batch([[e] for e in examples])
    dense, num_dense = dense_loss(model, batch)
    sparse, num_sparse = sparse_loss(model, batch)
    expected, number = 0.0, 0
    for example in examples:
        tokens = torch.tensor([example.tokens])
        scores = model.logits(model(tokens)).log_softmax(dim=-1)[0].tolist()
        for position, target in enumerate(example.targets):
            if target != IGNORED:
                expected -= scores[position][target]
                number += 1
    assert float(num_dense) == float(num_sparse) == number
    assert dense.item() == pytest.approx(expected, rel=1e-5)
    assert sparse.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [dense_loss, sparse_loss])
def test_packed_loss_equals_unpacked(model, examples, loss):
    rows = pack(examples, SHAPE.context_length)
    assert max(map(len, rows)) > 1
    packed, num_packed = loss(model, make_batch(rows, SHAPE.context_length))
    alone = [loss(model, make_batch([[example]])) for example in examples]
    assert float(num_packed) == sum(float(number) for _, number in alone)
    expected = sum(part.item() for part, _ in alone)
    assert packed.item() / float(num_packed) == pytest.approx(
        expected / float(num_packed), abs=1e-5
    )


def test_a_batch_without_a_target_adds_nothing(model):
    empty = make_batch([[Example([1, 2, 3], [IGNORED] * 3, "")]])
    for loss in (dense_loss, sparse_loss):
        part, number = loss(model, empty)
        assert (part.item(), float(number)) == (0.0, 0.0)


@pytest.mark.parametrize(
    "settings",
    [{}, {"focal_gamma": 2.0}, {"label_smoothing": 0.2}, {"class_weights": True}],
    ids=lambda settings: next(iter(settings), "plain"),
)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_losses_of_labels(pooling, settings, text_state):
    """By their formulas, in whatever batches."""
    classifier = Transformer(replace(SHAPE, num_labels=3, pooling=pooling))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3, generator=generator)
    labels = [0, 1, 1, 2, 1, 1]
    texts = [[*range(1, 2 + i)] for i in range(6)]
    rows = [
        Example(text, [IGNORED] * (len(text) - 1) + [label], "")
        for text, label in zip(texts, labels, strict=True)
    ]
    expected_weights = torch.ones(6)
    if "class_weights" in settings:
        settings = {"class_weights": balanced_class_weights(labels, 3)}
        expected_weights = torch.tensor([2.0, 0.5, 0.5, 2.0, 0.5, 0.5])
    expected = torch.tensor(0.0)
    for text, label, weight in zip(texts, labels, expected_weights, strict=True):
        shares = classifier.logits(text_state(classifier, text)).softmax(dim=0)
        smooth = settings.get("label_smoothing", 0.0)
        truth = torch.full((3,), smooth / 3)
        truth[label] += 1 - smooth
        loss = -(truth * shares.log()).sum()
        expected = expected + weight * loss * (1 - shares[label]) ** settings.get("focal_gamma", 0)
    loss = label_loss(**settings)
    whole = step(classifier, loss, [make_batch([[row] for row in rows])])
    parts = step(classifier, loss, [make_batch([[row]]) for row in rows])
    packed = step(classifier, loss, packed_batches(rows, 99, 2))
    assert whole[0] == pytest.approx(float(expected.detach() / expected_weights.sum()), rel=1e-5)
    for others in (parts, packed):
        assert others[0] == pytest.approx(whole[0], rel=1e-5)
        torch.testing.assert_close(whole[1], others[1], atol=1e-5, rtol=1e-4)

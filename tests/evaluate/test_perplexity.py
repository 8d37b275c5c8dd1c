"""Likelihood as a sum over targets: no batch weighs more than its targets do."""

import math

import pytest
import torch

from llmstages.data.batch import IGNORED
from llmstages.data.examples import Example, make_batch
from llmstages.evaluate.perplexity import Likelihood, likelihood
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.train.losses import dense_loss, sparse_loss

CPU = torch.device("cpu")


def test_a_uniform_model_has_the_vocabulary_as_perplexity():
    model = Transformer(TransformerConfig(40, 1, 8, 2, 1, 4, 8, 8)).train()
    with torch.no_grad():
        model.embedding.weight.zero_()
    batches = [
        make_batch([[Example([1, 2, 3], [2, 3, 4], "a")]]),
        make_batch([[Example([1, 2], [IGNORED, 3], "b")]]),
    ]
    for loss in (dense_loss, sparse_loss):
        found = likelihood(model, loss, batches, CPU, torch.float32)
        assert found.targets == 4
        assert math.exp(found.loss) == pytest.approx(40, rel=1e-6)
        assert found.bits_per_byte(2) == pytest.approx(2 * math.log2(40), rel=1e-6)
    assert model.training


def test_the_mean_is_over_targets_not_over_batches():
    model = Transformer(TransformerConfig(40, 1, 8, 2, 1, 4, 8, 8))
    model.initialize(torch.Generator().manual_seed(0))
    examples = [Example([i] * n, [i + 1] * n, "") for i, n in enumerate([1, 8, 3], start=4)]
    together = likelihood(
        model, dense_loss, [make_batch([[e] for e in examples])], CPU, torch.float32
    )
    apart = likelihood(model, dense_loss, [make_batch([[e]]) for e in examples], CPU, torch.float32)
    assert apart.loss == pytest.approx(together.loss, abs=1e-6)
    assert apart.targets == together.targets == 12


def test_nothing_is_no_error():
    assert Likelihood().loss == 0.0
    assert Likelihood().bits_per_byte(0) == 0.0

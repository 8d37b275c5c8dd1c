"""Parameters against real models, FLOPs against a count by hand."""

import pytest

from llmstages.model.counts import flops_per_token, num_parameters, training_flops
from llmstages.model.layouts import make_config
from llmstages.model.transformer import Transformer, TransformerConfig

SHAPE = {
    "vocab_size": 11,
    "num_layers": 3,
    "hidden_size": 8,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 6,
    "intermediate_size": 10,
    "context_length": 16,
}
# One block: q 8*24, k and v 8*12 each, o 24*8, three 8*10, norms 2*8 and 2*6.
BLOCK = 192 + 96 + 96 + 192 + 240 + 16 + 12


@pytest.mark.parametrize(
    ("more", "parameters", "in_products"),
    [
        ({"tie_embeddings": True}, 3 * BLOCK + 8 + 88, 3 * BLOCK + 8 + 88),
        ({"tie_embeddings": False}, 3 * BLOCK + 8 + 176, 3 * BLOCK + 8 + 88),
        ({"num_labels": 5}, 3 * BLOCK + 8 + 88 + 40, 3 * BLOCK + 8 + 40),
    ],
)
def test_counts(more, parameters, in_products):
    config = TransformerConfig(**SHAPE, **more)
    assert num_parameters(config) == parameters
    assert num_parameters(config) == sum(p.numel() for p in Transformer(config).parameters())
    squared = make_config("nanochat", **SHAPE, **more)
    assert num_parameters(squared) == sum(p.numel() for p in Transformer(squared).parameters())
    # attention over 16 positions: 12 * layers * heads * head_dim * length
    assert flops_per_token(config, 16) == 6 * in_products + 12 * 3 * 4 * 6 * 16


def test_windows_are_counted_by_what_they_see():
    # one layer that sees 16 positions, two that see 4, with 4 heads of 6
    assert training_flops(1000, 4 * 6, 16 + 4 + 4) == 6 * 1000 + 12 * 4 * 6 * 24

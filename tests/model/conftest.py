"""Small transformers with every weight random."""

from collections.abc import Callable

import pytest
import torch

from llmstages.model.layouts import make_config
from llmstages.model.transformer import Transformer


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Transformer]:
    """random_model(layout, **shape): all weights random, also norms and those that start at 0."""

    def make(layout: str = "qwen3", **shape: object) -> Transformer:
        defaults = {
            "vocab_size": 96,
            "num_layers": 2,
            "hidden_size": 32,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 8,
            "intermediate_size": 48,
            "context_length": 32,
        }
        model = Transformer(make_config(layout, **{**defaults, **shape}))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                mean = 1.0 if parameter.dim() == 1 else 0.0
                parameter.normal_(mean, 0.3, generator=generator)
        return model.eval()

    return make

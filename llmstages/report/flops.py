"""What a finished run computed, as its summary records its shape and its tokens."""

from llmstages.data.json_files import as_dataclass
from llmstages.data.json_values import object_at, whole_at
from llmstages.model.counts import flops_per_token, num_parameters
from llmstages.model.transformer import TransformerConfig


def recorded_flops(summary: object) -> float | None:
    """Training FLOPs of a run by its summary, as if all weights were trained.

    Tokens times `flops_per_token` at the context length. None where a summary does not say, or has
    a shape with other parameters than it says: it is damaged, or of another version.
    """
    shape, tokens = dict(object_at(summary, "model_shape")), whole_at(summary, "tokens")
    parameters = shape.pop("parameters", None)
    try:
        config = as_dataclass(TransformerConfig, shape)
        if tokens is None or num_parameters(config) != parameters:
            return None
        return tokens * flops_per_token(config, config.context_length)
    except (KeyError, ValueError):
        return None


def flops_text(flops: float) -> str:
    """`1.2e+12 FLOPs (...)`, with what is counted."""
    return f"{flops:.3g} FLOPs (training all weights, attention included)"

"""Parameters and floating-point operations of a transformer, from its shape alone."""

from llmstages.model.transformer import TransformerConfig


def num_parameters(config: TransformerConfig) -> int:
    """Parameters, embeddings included; tied ones are counted once."""
    h = config.hidden_size
    attention = h * config.head_dim * 2 * (config.num_heads + config.num_kv_heads)
    matrices = 3 if config.activation == "swiglu" else 2
    norms = 2 * h + 2 * config.head_dim if config.norm_weights else 0
    block = attention + matrices * h * config.intermediate_size + norms
    embedding = config.vocab_size * h
    if config.num_labels is not None:
        head = config.num_labels * h
    else:
        head = 0 if config.tie_embeddings else embedding
    last_norm = h if config.norm_weights else 0
    return embedding + config.num_layers * block + last_norm + head


def flops_per_token(config: TransformerConfig, length: int) -> float:
    """Training FLOPs of one token in sequences of `length` tokens, forward and backward.

    6 N + 12 L H Q T (Chowdhery et al. 2022, "PaLM", appendix B), where N leaves out an embedding
    that is only looked up; a tied one is also the output matrix and counts.
    """
    n = num_parameters(config)
    if config.num_labels is not None or not config.tie_embeddings:
        n -= config.vocab_size * config.hidden_size
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * length
    return 6.0 * n + attention

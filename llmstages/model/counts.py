"""Parameters and floating-point operations of a transformer, from its shape and what is trained."""

from llmstages.model.four_bits import num_numbers
from llmstages.model.transformer import Transformer, TransformerConfig


def num_parameters(config: TransformerConfig) -> int:
    """Parameters, embeddings included; tied ones are counted once."""
    h, f = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = 2 * h * (q + kv)
    attention += config.query_key_value_bias * (q + 2 * kv) + config.output_bias * h
    inner = 2 if config.is_gated else 1
    feed_forward = (inner + 1) * h * f + config.feed_forward_bias * (inner * f + h)
    # Of a norm, for each number that it takes: a weight, and with LayerNorm a bias.
    each = (1 + config.layer_norm) * config.norm_weights
    widths = {"head": 2 * config.head_dim, "whole": q + kv, None: 0}
    norms = 2 * h * (config.norms_before + config.norms_after) + widths[config.query_key_norm]
    block = attention + feed_forward + each * norms
    head = 0 if config.num_labels is None else config.num_labels * h
    outside = embedding_parameters(config) + position_parameters(config)
    return outside + config.num_layers * block + each * h + head


def position_parameters(config: TransformerConfig) -> int:
    """Those of learned positions."""
    return config.learned_positions * config.context_length * config.hidden_size


def embedding_parameters(config: TransformerConfig) -> int:
    """Those of the token embedding, and of a language model's output matrix where it is another."""
    is_one = config.tie_embeddings or config.num_labels is not None
    return (1 if is_one else 2) * config.vocab_size * config.hidden_size


def flops_per_token(config: TransformerConfig, length: int) -> float:
    """Training FLOPs of one token in sequences of `length` tokens, forward and backward.

    6 N + 12 L H Q T (Chowdhery et al. 2022, "PaLM", appendix B), where N leaves out an embedding
    that is only looked up; a tied one is also the output matrix and counts. T is the window in
    layers that have a shorter one.
    """
    n = num_parameters(config) - position_parameters(config)
    if config.num_labels is not None or not config.tie_embeddings:
        n -= config.vocab_size * config.hidden_size
    near = min(length, config.window or length)
    attended = sum(
        near if config.is_windowed(layer) else length for layer in range(config.num_layers)
    )
    return training_flops(n, config.num_heads * config.head_dim, attended)


def training_flops(num_parameters: int, attention_width: int, attended: int) -> float:
    """The same for any transformer: 6 N + 12 H Q times the positions that attention looks at.

    num_parameters: without embeddings that are only looked up. attention_width: heads times their
    width. attended: positions summed over the layers, layers times length without windows; those
    that a causal mask hides are counted, as usual.
    """
    return 6.0 * num_parameters + 12.0 * attention_width * attended


def trained_flops_share(model: Transformer) -> float:
    """FLOPs of training a token of this model, as a share of those of training all of it.

    Of three equal parts the forward pass is one, gradients of activations, which go back to the
    first block with anything to train, another, and gradients of weights the third.
    """
    if all(parameter.requires_grad for parameter in model.parameters()):
        return 1.0
    counts = [
        (sum(p.numel() for p in block.parameters() if p.requires_grad), block)
        for block in model.blocks
    ]
    first = next((i for i, (count, _) in enumerate(counts) if count), len(counts))
    if any(parameter.requires_grad for parameter in model.embedding.parameters()):
        first = 0
    back = 1 - first / len(counts)
    trained = sum(count for count, _ in counts)
    total = sum(num_numbers(p) for block in model.blocks for p in block.parameters())
    return (1 + back + trained / max(1, total)) / 3

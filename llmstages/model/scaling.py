"""Scaling rules: how large, how long, in what steps a model is trained, from published laws.

Pure arithmetic on parameters (N, embeddings included), tokens (D) and training FLOPs (C). Each
constant has its source here and stands in section 8 of docs/architecture.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmstages.model.counts import flops_per_token, num_parameters
from llmstages.model.transformer import TransformerConfig

LOSS_FLOOR = 1.8172
LOSS_PARAMETERS_FACTOR = 482.01
LOSS_TOKENS_FACTOR = 2085.43
LOSS_PARAMETERS_EXPONENT = 0.3478
LOSS_TOKENS_EXPONENT = 0.3658
"""E, A, B, alpha and beta of L = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, "Training
Compute-Optimal Large Language Models"), as fitted again by Besiroglu et al. 2024, "Chinchilla
Scaling: A replication attempt"."""
REPEATED_TOKENS_DECAY = 15.387756
EXCESS_PARAMETERS_DECAY = 5.309743
"""R*_D and R*_N of Muennighoff et al. 2023, "Scaling Data-Constrained Language Models"."""
TOKENS_PER_PARAMETER = 20
"""Compute-optimal ratio of tokens to parameters (Hoffmann et al. 2022)."""
MAX_DEFAULT_EPOCHS = 4
"""Repeating data up to four times is nearly as good as new data (Muennighoff et al. 2023)."""
MAX_USEFUL_EPOCHS = 1 + REPEATED_TOKENS_DECAY
"""Passes after which one more token read again is worth 1/e of a new one (by that law)."""
BATCH_FACTOR = 0.58
BATCH_EXPONENT = 0.571
"""Tokens a step are factor x D^exponent (Li et al. 2025, "Predictable Scale: Part I, Step Law")."""
MIN_BATCH_TOKENS = 512
WEIGHT_DECAY_EPOCHS = 1.0
"""Epochs over which weight decay forgets (Wang and Aitchison 2024); not measured here."""


# ---- loss


def predicted_loss(parameters: float, tokens: float) -> float:
    """Loss in nats a token of `parameters` trained on `tokens` new tokens (Hoffmann et al. 2022).

    On the authors' text and tokenizer: it orders choices, and predicts no run here.
    """
    of_parameters: float = LOSS_PARAMETERS_FACTOR / parameters**LOSS_PARAMETERS_EXPONENT
    of_tokens: float = LOSS_TOKENS_FACTOR / tokens**LOSS_TOKENS_EXPONENT
    return LOSS_FLOOR + of_parameters + of_tokens


def optimal_parameters(tokens: float) -> float:
    """Parameters for which `tokens` new tokens are compute-optimal.

    Where the loss is least at a given C = 6 N D, alpha A / N^alpha = beta B / D^beta.
    """
    ratio = (LOSS_PARAMETERS_EXPONENT * LOSS_PARAMETERS_FACTOR) / (
        LOSS_TOKENS_EXPONENT * LOSS_TOKENS_FACTOR
    )
    return float((ratio * tokens**LOSS_TOKENS_EXPONENT) ** (1 / LOSS_PARAMETERS_EXPONENT))


def optimal_for_flops(flops: float) -> tuple[float, float]:
    """Parameters and new tokens of the least predicted loss for C = 6 N D training FLOPs.

    N = G (C / 6)^(beta / (alpha + beta)), G = (alpha A / beta B)^(1 / (alpha + beta)) (Hoffmann et
    al. 2022, approach 3).
    """
    alpha, beta = LOSS_PARAMETERS_EXPONENT, LOSS_TOKENS_EXPONENT
    ratio = alpha * LOSS_PARAMETERS_FACTOR / (beta * LOSS_TOKENS_FACTOR)
    parameters = float(ratio ** (1 / (alpha + beta)) * (flops / 6) ** (beta / (alpha + beta)))
    return parameters, flops / 6 / parameters


def effective_tokens(tokens: float, unique_tokens: float) -> float:
    """New tokens that `tokens` read from a corpus of `unique_tokens` are worth.

    D' = U + U R* (1 - exp(-R / R*)), R = D / U - 1 repetitions (Muennighoff et al. 2023).
    """
    if tokens <= unique_tokens:
        return tokens
    return saturated(unique_tokens, tokens, REPEATED_TOKENS_DECAY)


def effective_parameters(parameters: float, unique_tokens: float) -> float:
    """Parameters that `parameters` are worth on a corpus of `unique_tokens`.

    The same form, counted in multiples of what is compute-optimal for one pass over the corpus
    (Muennighoff et al. 2023).
    """
    useful = optimal_parameters(unique_tokens)
    if parameters <= useful:
        return parameters
    return saturated(useful, parameters, EXCESS_PARAMETERS_DECAY)


def saturated(unit: float, amount: float, decay: float) -> float:
    """`amount` beyond one `unit` is worth less and less: at most `decay` units more."""
    return unit + unit * decay * -math.expm1(-(amount / unit - 1) / decay)


def data_constrained_loss(parameters: float, tokens: float, unique_tokens: float) -> float:
    """Loss in nats a token where the tokens come from a corpus of `unique_tokens`."""
    read = min(tokens, unique_tokens)
    return predicted_loss(
        effective_parameters(parameters, read), effective_tokens(tokens, unique_tokens)
    )


# ---- size


@dataclass(frozen=True)
class Size:
    """A shape that was picked, and for what."""

    shape: TransformerConfig
    tokens: float
    """Training tokens that the budget allows this shape."""

    @property
    def parameters(self) -> int:
        """Embeddings included."""
        return num_parameters(self.shape)


def ladder(
    vocab_size: int, max_parameters: float, corpus_tokens: float, context_length: int | None = None
) -> list[TransformerConfig]:
    """Shapes to choose from, smallest first: width 64 w, w + 2 blocks, w heads of 64, w = 1, 2, ...

    So depth is about width / 64, as in GPT-2 and larger models, and tiny ones are not too shallow
    (Kaplan et al. 2020: the loss hardly depends on the shape between 20 and 200 units of width a
    block). The SwiGLU layer is 8/3 as wide, rounded to 64. At least the smallest is given.
    """
    shapes: list[TransformerConfig] = []
    while True:
        heads = len(shapes) + 1
        width = 64 * heads
        shape = TransformerConfig(
            vocab_size=vocab_size,
            num_layers=heads + 2,
            hidden_size=width,
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=64,
            intermediate_size=64 * round(width * 8 / 3 / 64),
            context_length=context_length or derived_context_length(width, corpus_tokens),
        )
        if shapes and num_parameters(shape) > max_parameters:
            return shapes
        shapes.append(shape)


def derived_context_length(hidden_size: int, corpus_tokens: float) -> int:
    """Tokens of context: longer in wider models, shorter where a corpus has too few rows of it."""
    steps = ((384, 256), (768, 512), (1536, 1024))
    length = next((length for below, length in steps if hidden_size < below), 2048)
    while length > 64 and corpus_tokens < 128 * length:
        length //= 2
    return length


def size_for_flops(
    shapes: Sequence[TransformerConfig],
    flops: Callable[[TransformerConfig], float],
    unique_tokens: float,
) -> Size:
    """The shape of the least predicted loss; flops: how many the budget allows that shape.

    A function, because in a given time a large model does more of them than a tiny one.
    """
    sizes = [Size(shape, flops(shape) / shape_flops_per_token(shape)) for shape in shapes]
    return min(
        sizes, key=lambda size: data_constrained_loss(size.parameters, size.tokens, unique_tokens)
    )


def size_for_tokens(
    shapes: Sequence[TransformerConfig], tokens: float, unique_tokens: float
) -> Size:
    """The largest shape for which `tokens` are enough: 20 a parameter, repeated ones worth less."""
    worth = effective_tokens(tokens, unique_tokens)
    fitting = [s for s in shapes if TOKENS_PER_PARAMETER * num_parameters(s) <= worth]
    return Size(fitting[-1] if fitting else shapes[0], tokens)


def shape_flops_per_token(shape: TransformerConfig) -> float:
    """FLOPs to train on one token in rows of the whole context."""
    return flops_per_token(shape, shape.context_length)


def speed_between(parameters: float, known: Sequence[tuple[float, float]]) -> float:
    """FLOP/s of a size, from (parameters, FLOP/s) of those that were timed, smallest first.

    Straight lines between the logarithms; beyond the ends the nearest one counts.
    """
    below = [point for point in known if point[0] <= parameters]
    above = [point for point in known if point[0] >= parameters]
    if not below or not above:
        return (below[-1] if below else above[0])[1]
    (n0, s0), (n1, s1) = below[-1], above[0]
    if n0 == n1:
        return s0
    share = math.log(parameters / n0) / math.log(n1 / n0)
    return float(s0 * (s1 / s0) ** share)


# ---- steps


def default_tokens(parameters: int, corpus_tokens: int) -> int:
    """Training tokens when no length is given: 20 a parameter, four passes at most."""
    return min(TOKENS_PER_PARAMETER * parameters, MAX_DEFAULT_EPOCHS * corpus_tokens)


def derived_batch_tokens(total_tokens: float) -> int:
    """Tokens an optimizer step, a power of two: it grows with the tokens of the run.

    That data and not size decides is what Zhang et al. 2024 found too ("How Does Critical Batch
    Size Scale in Pre-training?").
    """
    best = max(float(MIN_BATCH_TOKENS), BATCH_FACTOR * total_tokens**BATCH_EXPONENT)
    return int(2 ** round(math.log2(best)))


def tokens_of_steps(steps: float) -> float:
    """Tokens of a run whose steps are given and whose batch is derived: D = steps x batch(D)."""
    by_law = math.pow(steps * BATCH_FACTOR, 1 / (1 - BATCH_EXPONENT))
    return max(steps * MIN_BATCH_TOKENS, by_law)


def derived_weight_decay(lr: float, steps: float, steps_per_epoch: float) -> float:
    """Decoupled weight decay whose memory lasts one epoch, or the run where that is shorter.

    Weights are a moving average of updates over 1 / (lr x decay) steps; the best length of it in
    epochs hardly depends on model and data (Wang and Aitchison 2024, "How to set AdamW's weight
    decay as you scale model and dataset size"): at least one epoch, at most the run.
    """
    return 1 / (lr * WEIGHT_DECAY_EPOCHS * max(1.0, min(steps, steps_per_epoch)))

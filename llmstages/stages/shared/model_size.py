"""`model=auto`: the size that makes the most of a budget and a corpus, picked before step 1."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from llmstages.config.groups import AUTO_MODEL
from llmstages.config.stages import PretrainConfig
from llmstages.data.streams import PretrainingData
from llmstages.errors import UserError
from llmstages.model.counts import num_parameters
from llmstages.model.scaling import (
    MAX_DEFAULT_EPOCHS,
    Size,
    default_tokens,
    ladder,
    shape_flops_per_token,
    size_for_flops,
    size_for_tokens,
    speed_between,
    tokens_of_steps,
)
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.report.terminal import say
from llmstages.stages.shared.pace import PROBE_SHARE, seconds_per_token
from llmstages.stages.shared.setup import Clock, Machine
from llmstages.train import parallel

BYTES_PER_PARAMETER = 16
"""Of weights, gradients and two moments of the optimizer, all float32."""
MEMORY_SHARE = 0.5
"""Of the device's memory for these; activations take the rest."""
MAX_PROBED_SIZES = 3


@dataclass(frozen=True)
class PickedSize:
    """What `model=auto` chose."""

    shape: TransformerConfig
    tokens: float
    """Training tokens to expect."""
    seconds_per_token: float | None
    """Of training, where it was timed."""


def pick_size(
    config: PretrainConfig,
    vocab_size: int,
    corpus_tokens: int,
    data_of: Callable[[int], PretrainingData],
    machine: Machine,
    clock: Clock,
) -> PickedSize:
    """Pick the shape, and say in one line which and why.

    Time and FLOPs: the least predicted loss (Hoffmann et al. 2022; Muennighoff et al. 2023).
    Tokens, steps, epochs or nothing: the largest size whose 20 tokens a parameter are there.
    data_of(context_length): one micro-batch a step.
    """
    most = MEMORY_SHARE * memory_bytes(machine.device) / BYTES_PER_PARAMETER
    shapes = auto_shapes(config, vocab_size, most, corpus_tokens)
    if config.model.layout != shapes[0].layout:
        raise UserError(
            f"model.layout={config.model.layout} with model=auto: the law is for "
            f"{shapes[0].layout}: name a size, such as model=nano"
        )
    budget = config.budget
    seconds = budget.wall_seconds
    speed: float | None = None
    if seconds is not None:
        size, speed = size_for_seconds(shapes, seconds, corpus_tokens, data_of, machine, clock)
        why = f"{seconds:,.0f} s at {speed / 1e9:,.3g} GFLOP/s, measured"
    elif budget.flops is not None:
        flops = budget.flops
        size, why = size_for_flops(shapes, lambda _: flops, corpus_tokens), f"{flops:.3g} FLOPs"
    else:
        tokens = asked_tokens(config, corpus_tokens)
        size = size_for_tokens(shapes, tokens or MAX_DEFAULT_EPOCHS * corpus_tokens, corpus_tokens)
        if tokens is None:
            size = Size(size.shape, default_tokens(size.parameters, corpus_tokens))
        why = "20 tokens a parameter"
    shape = size.shape
    say(
        f"model=auto: {shape.num_layers} blocks of width {shape.hidden_size}, context "
        f"{shape.context_length}, {size.parameters:,} parameters, for {why}, and a corpus of "
        f"{corpus_tokens:,} tokens: about {size.tokens:,.0f} tokens, "
        f"{size.tokens / size.parameters:.3g} a parameter, {size.tokens / corpus_tokens:.3g} epochs"
    )
    return PickedSize(
        shape, size.tokens, None if speed is None else shape_flops_per_token(shape) / speed
    )


def auto_shapes(
    config: PretrainConfig, vocab_size: int, max_parameters: float, corpus_tokens: float
) -> list[TransformerConfig]:
    """Shapes that `model=auto` chooses from; what it does not pick is as the `model` group says."""
    model = config.model
    length = model.context_length if model.name == AUTO_MODEL else 0  # a size has its own
    return [
        replace(
            shape,
            tie_embeddings=model.tie_embeddings,
            rope_theta=model.rope_theta,
            norm_eps=model.norm_eps,
        )
        for shape in ladder(vocab_size, max_parameters, corpus_tokens, length or None)
    ]


def asked_tokens(config: PretrainConfig, corpus_tokens: int) -> float | None:
    """Training tokens that follow from the settings alone; None where they do not."""
    if config.budget.tokens is not None:
        return config.budget.tokens
    if config.epochs is not None:
        return config.epochs * corpus_tokens
    if config.steps is None:
        return None
    if config.batch_tokens is None:
        return tokens_of_steps(config.steps)
    return config.steps * config.batch_tokens


def usual_tokens(config: PretrainConfig, parameters: int, corpus_tokens: int) -> int:
    """Training tokens where no length is given: as published of the model, or `default_tokens`."""
    if config.base is None and config.model.published.tokens is not None:
        return round(config.model.published.tokens)
    return default_tokens(parameters, corpus_tokens)


def size_for_seconds(
    shapes: list[TransformerConfig],
    seconds: float,
    corpus_tokens: int,
    data_of: Callable[[int], PretrainingData],
    machine: Machine,
    clock: Clock,
) -> tuple[Size, float]:
    """The size for a time budget, and its FLOP/s.

    The second shape is timed, a size picked as if all were as fast, that one timed, and so on
    until the size picked is one that was timed: larger matrices are faster, and by how much
    depends on the machine.
    """
    timed: dict[int, tuple[float, float]] = {}

    def time_shape(shape: TransformerConfig) -> None:
        model = Transformer(shape)
        model.initialize(torch.Generator().manual_seed(0))
        model.to(machine.device)
        left = seconds - clock.spent()
        took = seconds_per_token(model, data_of(shape.context_length), machine, left)
        timed[shapes.index(shape)] = (num_parameters(shape), shape_flops_per_token(shape) / took)

    def speed_of(shape: TransformerConfig) -> float:
        return speed_between(num_parameters(shape), [timed[index] for index in sorted(timed)])

    time_shape(shapes[min(1, len(shapes) - 1)])
    while True:
        left = max(1.0, seconds - clock.spent())
        flops = {shape: left * speed_of(shape) for shape in shapes}
        size = size_for_flops(shapes, flops.__getitem__, corpus_tokens)
        speed = speed_of(size.shape)
        batch_seconds = machine.micro_batch_tokens * shape_flops_per_token(size.shape) / speed
        enough = (
            shapes.index(size.shape) in timed
            or len(timed) == MAX_PROBED_SIZES
            or batch_seconds > 2 * PROBE_SHARE * left
        )
        size, speed, enough = parallel.from_first((size, speed, enough))
        if enough:
            return size, speed
        time_shape(size.shape)


def memory_bytes(device: torch.device) -> int:
    """Memory of the device."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

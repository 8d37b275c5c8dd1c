"""The likeliest answers of a language model to many prompts, and nothing drawn."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from llmstages.model.generation import Generated, Sampling, generate
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import progress
from llmstages.train import parallel

GENERATION_BATCH = 16


def greedy_answers(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    dtype: torch.dtype,
    description: str | None = None,
) -> list[Generated]:
    """What a model likeliest writes after each prompt, those of like length at once.

    Args:
        prompts: ids of each.
        max_new_tokens: the most of each answer, and never more than half of the context.
        stop_ids: an answer ends before one of these.
        dtype: of matrix products on a GPU; elsewhere they are float32.
        description: of a bar that shows how far it is; None: no bar.
    """
    on_gpu = next(model.parameters()).device.type == "cuda"
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, Generated] = {}
    bar = progress(description, total=len(order), unit="answers") if description else nullcontext()
    with bar as advance:
        for begin in range(0, len(order), GENERATION_BATCH):
            group = order[begin : begin + GENERATION_BATCH]
            found = generate(
                model,
                [prompts[index] for index in group],
                max_new_tokens=min(max_new_tokens, model.config.context_length // 2),
                stop_ids=stop_ids,
                sampling=Sampling(temperature=0.0),
                dtype=parallel.product_dtype(model, dtype if on_gpu else torch.float32),
            )
            answers |= dict(zip(group, found, strict=True))
            if advance is not None:
                advance(len(group))
    return [answers[index] for index in range(len(prompts))]

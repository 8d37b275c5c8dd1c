"""Sampling from a language model: temperature, top-k, top-p, stop tokens, batches of prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmstages.model.cache import KVCache
from llmstages.model.transformer import Transformer


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    """Only this many likeliest tokens."""
    top_p: float | None = None
    """Only the likeliest tokens that together hold this share (Holtzman et al. 2020)."""


@dataclass(frozen=True)
class Generated:
    """One continuation."""

    tokens: list[int]
    """New tokens, without the stop token."""
    stopped: bool
    """Whether it ended with a stop token, not at a limit."""


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    """Draw one token a row from logits [B, vocab_size] -> [B]."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        beyond = before >= sampling.top_p
        beyond[:, 0] = False  # the likeliest stays, whatever the share
        ordered = ordered.masked_fill(beyond, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def make_cache(model: Transformer, padding: Tensor, capacity: int, dtype: torch.dtype) -> KVCache:
    """An empty cache that fits the model."""
    config = model.config
    return KVCache(
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        capacity=capacity,
        padding=padding,
        dtype=dtype,
    )


def fit_prompt(prompt: Sequence[int], max_new_tokens: int, context_length: int) -> list[int]:
    """The end of a prompt that leaves room for an answer: all of it where it can.

    The room is `max_new_tokens`, but never more than a quarter of the context.
    """
    room = max(1, min(max_new_tokens, context_length // 4))
    return list(prompt)[-(context_length - room) :]


@torch.no_grad()
def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    on_token: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Continue each prompt (token ids, at least one) until a stop token or a limit.

    An answer ends at the latest where the context is full. A prompt too long to leave any room
    loses its beginning, see `fit_prompt`. `dtype` is the autocast type of
    matrix products. `on_token(row, token)` is called for each new token, for streaming.
    """
    device = model.embedding.weight.device
    context = model.config.context_length
    cut = [fit_prompt(prompt, max_new_tokens, context) for prompt in prompts]
    if any(not prompt for prompt in cut):
        raise ValueError("a prompt has no token")
    longest = max(map(len, cut))
    padding = torch.tensor([longest - len(prompt) for prompt in cut], device=device)
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in cut], device=device)
    limits = [min(max_new_tokens, context - len(prompt)) for prompt in cut]
    stop = set(stop_ids)
    results: list[list[int]] = [[] for _ in cut]
    stopped = [False] * len(cut)
    rows = list(range(len(cut)))  # rows still open, in the order of the batch
    was_training = model.training
    model.eval()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        cache = make_cache(model, padding, longest + max(limits), dtype)
        for _ in range(max(limits)):
            hidden = model(tokens, cache=cache)
            drawn = draw(model.logits(hidden[:, -1]), sampling, generator)
            still_open = []
            for index, token in enumerate(drawn.tolist()):
                if token in stop:
                    stopped[rows[index]] = True
                    continue
                results[rows[index]].append(token)
                if on_token is not None:
                    on_token(rows[index], token)
                if len(results[rows[index]]) < limits[rows[index]]:
                    still_open.append(index)
            if not still_open:
                break
            tokens = drawn[:, None]
            if len(still_open) < len(rows):
                kept = torch.tensor(still_open, device=device)
                rows = [rows[index] for index in still_open]
                tokens = tokens[kept]
                cache.keep_rows(kept)
    model.train(was_training)
    return [Generated(ids, end) for ids, end in zip(results, stopped, strict=True)]

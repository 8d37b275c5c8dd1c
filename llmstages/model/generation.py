"""Sampling from a language model: temperature, top-k, top-p, stop tokens, batches of prompts."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from llmstages.model.cache import KVCache
from llmstages.model.decoding import Decoder
from llmstages.model.transformer import Transformer

GUESSES = 3
"""Tokens guessed ahead of a single text: a step over four tokens takes little longer than over one,
because either has to read all the weights."""


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


@dataclass
class Pace:
    """How quickly prompts were read and tokens generated."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    """Until the first token of each answer is there."""
    new_tokens: int = 0
    new_seconds: float = 0.0

    def add(self, read: int, new: int, began: float, first: float) -> None:
        """Count what was read and generated since `began`; `first`: when the first tokens came."""
        self.prompt_tokens += read
        self.prompt_seconds += first - began
        self.new_tokens += new
        self.new_seconds += time.monotonic() - first

    def __str__(self) -> str:
        read = self.prompt_tokens / max(self.prompt_seconds, 1e-9)
        new = self.new_tokens / max(self.new_seconds + self.prompt_seconds, 1e-9)
        return (
            f"{self.new_tokens:,} tokens, {new:,.0f} tokens/s; "
            f"{self.prompt_tokens:,} of prompts read, {read:,.0f} tokens/s"
        )


def draw(logits: Tensor, sampling: Sampling, chances: Tensor | None) -> Tensor:
    """One token a row from logits [B, vocab_size] -> [B].

    chances: [B], uniform in [0, 1): where in the distribution of the row its token lies. They are
    not used, and may be None, where the likeliest token is taken.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    assert chances is not None
    logits = logits.float() / sampling.temperature
    order = None
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        logits, order = logits.topk(sampling.top_k, dim=-1)
    elif sampling.top_p is not None and sampling.top_p < 1:
        logits, order = logits.sort(dim=-1, descending=True)
    probabilities = logits.softmax(dim=-1)
    sums = probabilities.double().cumsum(dim=-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        # Those stay before which less than the share lies, and the likeliest whatever the share.
        within = ((sums - probabilities) < sampling.top_p).sum(dim=-1, keepdim=True).clamp(min=1)
        total = sums.gather(1, within - 1)
    else:
        total = sums[:, -1:]
    drawn = torch.searchsorted(sums, chances.double()[:, None] * total, right=True)
    drawn = drawn.clamp(max=logits.shape[-1] - 1)
    return (drawn if order is None else order.gather(1, drawn)).squeeze(1)


def seeded(*words: object) -> torch.Generator:
    """A source of chances that depends on these words alone."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def fit_prompt(prompt: Sequence[int], max_new_tokens: int, context_length: int) -> list[int]:
    """The end of a prompt that leaves room for an answer: all of it where it can.

    The room is `max_new_tokens`, but never more than a quarter of the context.
    """
    room = max(1, min(max_new_tokens, context_length // 4))
    return list(prompt)[-(context_length - room) :]


def generate(
    model: Transformer | Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampling: Sampling,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    dtype: torch.dtype = torch.float32,
    on_token: Callable[[int, int], None] | None = None,
    pace: Pace | None = None,
) -> list[Generated]:
    """Continue each prompt (token ids, at least one) until a stop token or a limit.

    An answer ends at the latest where the context is full. A prompt too long to leave any room
    loses its beginning, see `fit_prompt`. Equal prompts are read once. With a generator for each
    prompt an answer does not depend on what else is in the batch. `dtype` is the type of matrix
    products; a `Decoder`, for several calls, has its own. `on_token(row, token)` is called for each
    new token, for streaming; `pace` is told what was done.
    """
    began = time.monotonic()
    decoder = model if isinstance(model, Decoder) else Decoder(model, dtype)
    context = decoder.config.context_length
    cut = [tuple(fit_prompt(prompt, max_new_tokens, context)) for prompt in prompts]
    if any(not prompt for prompt in cut):
        raise ValueError("a prompt has no token")
    limits = [min(max_new_tokens, context - len(prompt)) for prompt in cut]
    chances = None if sampling.temperature == 0 else draws(generator, len(cut), max(limits))
    different = list(dict.fromkeys(cut))
    cache = decoder.empty_cache(
        [len(prompt) for prompt in different], max(map(len, different)) + max(limits)
    )
    answers = Answers(limits, stop_ids, on_token)
    first = began
    if len(cut) == 1:
        row = None if chances is None else chances[0]
        for token in extend(decoder, cache, cut[0], 0, limits[0], sampling, row):
            if not answers.tokens[0]:
                first = time.monotonic()
            if not answers.add([token]):
                break
    else:
        logits = decoder.read(cache, different)
        if len(different) < len(cut):
            number = {prompt: index for index, prompt in enumerate(different)}
            copies = torch.tensor([number[prompt] for prompt in cut], device=decoder.device)
            logits = logits[copies]
            cache.take_rows(copies)
        for index in range(max(limits)):
            column = None
            if chances is not None:
                column = chances[answers.rows, index].to(logits.device)
            drawn = draw(logits, sampling, column)
            open_before = len(answers.rows)
            still_open = answers.add(drawn.tolist())
            if index == 0:
                first = time.monotonic()
            if not still_open:
                break
            if len(still_open) < open_before:
                kept = torch.tensor(still_open, device=decoder.device)
                drawn = drawn[kept]
                cache.take_rows(kept)
            logits = decoder.step(cache, drawn)
    if pace is not None:
        pace.add(sum(map(len, different)), sum(map(len, answers.tokens)), began, first)
    return [Generated(ids, end) for ids, end in zip(answers.tokens, answers.stopped, strict=True)]


def stream(
    decoder: Decoder,
    cache: KVCache,
    text: Sequence[int],
    known: int,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampling: Sampling,
    generator: torch.Generator,
) -> Iterator[int]:
    """Continue one text token by token, of which the first `known` ids are in the cache.

    While it runs `cache.length` says how many of the text and the tokens given out are in the
    cache; an exception out of it may leave the last of them half written.
    """
    limit = min(max_new_tokens, decoder.config.context_length - len(text))
    chances = None if sampling.temperature == 0 else draws(generator, 1, limit)[0]
    for token in extend(decoder, cache, text, known, limit, sampling, chances):
        if token in stop_ids:
            return
        yield token


def extend(
    decoder: Decoder,
    cache: KVCache,
    text: Sequence[int],
    known: int,
    limit: int,
    sampling: Sampling,
    chances: Tensor | None,
) -> Iterator[int]:
    """The tokens after one text, at most `limit`; `known` and `cache.length` as `stream` has them.

    Where the last tokens stood in the text before, those that followed are guessed to follow again
    and are read with them; as many are taken as would have been drawn one by one, so guesses change
    the speed alone, but for rounding ("prompt lookup decoding", Saxena 2023).
    """
    cache.reserve(len(text) + limit)
    cache.length = len(text)
    logits = decoder.read(cache, [text], known)
    so_far, guesses = Repetitions(text), list[int]()
    count = 0
    while True:
        rows = None if chances is None else chances[count : count + len(logits)].to(logits.device)
        for token, guess in zip_longest(draw(logits, sampling, rows).tolist(), guesses):
            cache.length = len(text) + count
            yield token
            so_far.add(token)
            count += 1
            if count == limit:
                return
            if token != guess:
                break
        guesses = so_far.guess(min(GUESSES, limit - count - 1))
        if guesses:
            cache.length = len(text) + count + len(guesses)
            known = len(text) + count - 1
            logits = decoder.read(cache, [so_far.tokens + guesses], known, len(guesses) + 1)
        else:
            logits = decoder.step(cache, torch.tensor([token], device=decoder.device))


class Repetitions:
    """A text as it grows, and what followed each pair of tokens the last time."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """One more token."""
        self._after[tuple(self.tokens[-2:])] = len(self.tokens)
        self.tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """What could follow, at most so many tokens; none where the last two are new."""
        place = self._after.get(tuple(self.tokens[-2:]), len(self.tokens))
        return self.tokens[place : place + most]


class Answers:
    """The answers of a batch as they grow."""

    def __init__(
        self,
        limits: Sequence[int],
        stop_ids: Sequence[int],
        on_token: Callable[[int, int], None] | None,
    ) -> None:
        self.limits = limits
        self.stop_ids = set(stop_ids)
        self.on_token = on_token
        self.tokens: list[list[int]] = [[] for _ in limits]
        self.stopped = [False] * len(limits)
        self.rows = list(range(len(limits)))
        """Answers still open, in the order of the batch."""

    def add(self, drawn: Sequence[int]) -> list[int]:
        """Take a token for each open answer; which places of the batch are still open."""
        still_open = []
        for place, (row, token) in enumerate(zip(self.rows, drawn, strict=True)):
            if token in self.stop_ids:
                self.stopped[row] = True
                continue
            self.tokens[row].append(token)
            if self.on_token is not None:
                self.on_token(row, token)
            if len(self.tokens[row]) < self.limits[row]:
                still_open.append(place)
        self.rows = [self.rows[place] for place in still_open]
        return still_open


def draws(
    generator: torch.Generator | Sequence[torch.Generator] | None, rows: int, count: int
) -> Tensor:
    """Chances of `count` tokens of each row, [rows, count], of its own generator if it has one."""
    if isinstance(generator, Sequence):
        return torch.stack([torch.rand(count, generator=one) for one in generator])
    device = "cpu" if generator is None else generator.device
    return torch.rand(rows, count, generator=generator, device=device).cpu()

"""Continuous batching: texts that are continued together, each of which joins and leaves when it
will (Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models").

Promise: what a text is continued with does not depend on the others, but for rounding, and is what
`generate` gives it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmstages.model.cache import KVCache
from llmstages.model.decoding import Decoder
from llmstages.model.generation import Sampling, draw

ROOM = 128
"""Slots kept free in the cache for what follows; where they are used up it is copied."""


@dataclass(eq=False)
class Row:
    """A text and what it is continued with."""

    prompt: tuple[int, ...]
    """Token ids, at least one."""
    limit: int
    """Most new tokens; with the prompt they must fit into the context."""
    sampling: Sampling
    chances: Sequence[float] = ()
    """Where in its distribution each new token lies, in [0, 1); unused at temperature 0."""
    tokens: list[int] = field(default_factory=list)
    """The new tokens so far."""


class Batch:
    """Texts, and the keys and values of all of them but their last tokens."""

    def __init__(self, decoder: Decoder) -> None:
        self.rows: list[Row] = []
        self._decoder = decoder
        self._cache: KVCache | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @torch.inference_mode()
    def advance(self, leaving: set[Row], joining: Sequence[Row]) -> None:
        """Let rows leave and join, and give each that is there now one more token.

        Equal prompts that join together are read once.
        """
        kept = [place for place, row in enumerate(self.rows) if row not in leaving]
        decoder, cache = self._decoder, self._cache
        logits = []
        if kept:
            assert cache is not None
            if len(kept) < len(self.rows) or cache.length == cache.capacity:
                cache = gather(decoder, [(cache, kept)])
            self.rows = [self.rows[place] for place in kept]
            last = torch.tensor([row.tokens[-1] for row in self.rows], device=decoder.device)
            logits.append(decoder.step(cache, last))
        else:
            self.rows, cache = [], None
        if joining:
            prompts = list(dict.fromkeys(row.prompt for row in joining))
            places = [prompts.index(row.prompt) for row in joining]
            read = decoder.empty_cache(list(map(len, prompts)), max(map(len, prompts)))
            logits.append(decoder.read(read, prompts)[places])
            there = [] if cache is None else [(cache, list(range(len(self.rows))))]
            cache = gather(decoder, [*there, (read, places)])
            self.rows = [*self.rows, *joining]
        self._cache = cache
        if self.rows:
            for row, token in zip(self.rows, drawn(torch.cat(logits), self.rows), strict=True):
                row.tokens.append(token)


def gather(decoder: Decoder, parts: Sequence[tuple[KVCache, list[int]]]) -> KVCache:
    """A cache with these rows (indices) of others, in this order, and with room for more tokens.

    Slots before the beginning of the longest text are left behind.
    """
    chosen = [cache.lengths[rows] for cache, rows in parts]
    lengths = torch.cat(chosen).tolist()
    whole = decoder.empty_cache(lengths, max(lengths) + ROOM)
    begin = 0
    for (cache, rows), found in zip(parts, chosen, strict=True):
        end, longest = begin + len(rows), int(found.max())
        old, new = slice(cache.length - longest, cache.length), slice(-longest - ROOM, -ROOM)
        for (keys, values), (old_keys, old_values) in zip(whole.layers, cache.layers, strict=True):
            keys[begin:end, :, new] = old_keys[rows, :, old]
            values[begin:end, :, new] = old_values[rows, :, old]
        begin = end
    return whole


def drawn(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """The next token of each row, from logits [B, vocab_size]."""
    alike: dict[Sampling, list[int]] = {}
    for place, row in enumerate(rows):
        alike.setdefault(row.sampling, []).append(place)
    tokens = [0] * len(rows)
    for sampling, places in alike.items():
        chances = None
        if sampling.temperature > 0:
            listed = [rows[place].chances[len(rows[place].tokens)] for place in places]
            chances = torch.tensor(listed, device=logits.device)
        some = logits if len(alike) == 1 else logits[places]
        for place, token in zip(places, draw(some, sampling, chances).tolist(), strict=True):
            tokens[place] = token
    return tokens

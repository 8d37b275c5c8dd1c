"""The transformer's arithmetic for generation: one new position a text, keys and values kept.

Promise: what `Transformer` computes without dropout, to rounding. Here nothing is trained, so the
weights are laid out once for quick steps: the matrices that read the same input are one, adapters
are merged, sharded weights are whole, and matrices are in the type of the products instead of being
converted at each step. Matrices in 4 bits stay as they are, with their adapters beside them.
Positions of several texts are rows of one product: a batch of prompts of any lengths is read
without padding.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmstages.model.attention import attention
from llmstages.model.cache import KVCache
from llmstages.model.functions import turn
from llmstages.model.lora import merged
from llmstages.model.transformer import Block, Transformer

FEW_ROWS = 64
"""Up to this many rows a product takes about as long as reading its weight."""

Product = Callable[[Tensor], Tensor]
"""Input [N, in] to what a matrix, or several that read the same, make of it."""


@dataclass(frozen=True)
class Layer:
    """Weights and products of a block."""

    attention_norm: Tensor | None
    query_key_value: Product
    query_key_norm: Tensor | None
    """[heads + kv_heads, head_dim]."""
    output: Product
    feed_forward_norm: Tensor | None
    inner: Product
    """Gate and up, or up alone."""
    down: Product


class Decoder:
    """A model ready to generate. Later changes of the model's weights may not reach it."""

    def __init__(self, model: Transformer, dtype: torch.dtype = torch.float32) -> None:
        """`dtype` is the type of matrix products and of the cache."""
        self.config = model.config
        self.dtype = dtype
        self.device = model.embedding.weight.device
        with torch.no_grad():
            self.layers = [self._layer(block, model) for block in model.blocks]
            outside = {
                name: whole(p)
                for name, p in model.named_parameters()
                if not name.startswith("blocks.")
            }
            outside = merged(outside, model.lora)
            self.embedding = outside["embedding.weight"]
            self.norm = outside.get("norm.weight")
            self.head = outside.get("head.weight", self.embedding).to(dtype)
        self.cos, self.sin = model.rotary.cos, model.rotary.sin
        self.eps = torch.tensor(self.config.norm_eps, device=self.device)

    def _layer(self, block: nn.Module, model: Transformer) -> Layer:
        assert isinstance(block, Block)
        weights = {name: whole(p) for name, p in block.named_parameters()}
        quantised = model.lora is not None and model.lora.quantised
        if not quantised:
            weights = merged(weights, model.lora)

        def joined(part: str, *names: str) -> Product:
            if quantised:
                return partial(side_by_side, [block.get_submodule(f"{part}.{n}") for n in names])
            matrices = [weights[f"{part}.{name}.weight"] for name in names]
            matrix = matrices[0] if len(matrices) == 1 else torch.cat(matrices)
            return partial(product, weight=matrix.to(self.dtype))

        query_key_norm = None
        if self.config.norm_weights:
            counts = {"query": self.config.num_heads, "key": self.config.num_kv_heads}
            query_key_norm = torch.cat(
                [
                    weights[f"attention.{name}_norm.weight"].expand(n, -1)
                    for name, n in counts.items()
                ]
            )
        inner = ("gate", "up") if self.config.activation == "swiglu" else ("up",)
        return Layer(
            attention_norm=weights.get("attention_norm.weight"),
            query_key_value=joined("attention", "query", "key", "value"),
            query_key_norm=query_key_norm,
            output=joined("attention", "output"),
            feed_forward_norm=weights.get("feed_forward_norm.weight"),
            inner=joined("feed_forward", *inner),
            down=joined("feed_forward", "down"),
        )

    def empty_cache(self, lengths: list[int], capacity: int) -> KVCache:
        """A cache for texts of these lengths, whose keys and values `read` will store."""
        return KVCache(self.config, lengths, capacity, dtype=self.dtype, device=self.device)

    @torch.inference_mode()
    def read(
        self, cache: KVCache, texts: Sequence[Sequence[int]], known: int = 0, last: int = 1
    ) -> Tensor:
        """Read texts, which fill the cache to its length.

        known: of a single text as many tokens are in the cache already, and are not read again.
        Returns the logits after the last token of each text, [B, vocab_size]; of a single text
        after each of its `last` tokens, [last, vocab_size].
        """
        if (known or last > 1) and len(texts) != 1:
            raise ValueError("`known` and `last` are for a single text")
        new = [len(text) - known for text in texts]
        tokens = torch.tensor([t for text in texts for t in text[known:]], device=self.device)
        positions = torch.cat([torch.arange(known, len(text)) for text in texts])
        x, rotary = self._enter(tokens, positions.to(self.device))
        ends = torch.tensor(new).cumsum(0) - 1
        for index, layer in enumerate(self.layers):
            query, key, value = self._project(x, layer, rotary)
            keys, values = cache.layers[index]
            mixed = []
            pieces = zip(*(torch.split(part, new) for part in (query, key, value)), strict=True)
            for row, (q, k, v) in enumerate(pieces):
                begin, end = cache.length - len(texts[row]), cache.length
                keys[row, :, end - len(k) : end] = k.transpose(0, 1)
                values[row, :, end - len(v) : end] = v.transpose(0, 1)
                mask = None
                if known:
                    seen = torch.ones(len(q), end - begin, dtype=torch.bool, device=self.device)
                    mask = seen.tril(known)[None, None]
                mixed.append(
                    attention(
                        q.transpose(0, 1)[None],
                        keys[row : row + 1, :, begin:end],
                        values[row : row + 1, :, begin:end],
                        mask,
                    )[0].transpose(0, 1)
                )
            x = self._leave(x, torch.cat(mixed), layer)
        return self._logits(x[-last:] if len(texts) == 1 else x[ends.to(self.device)])

    @torch.inference_mode()
    def step(self, cache: KVCache, tokens: Tensor) -> Tensor:
        """One more token of each text: [B] -> logits of what follows, [B, vocab_size]."""
        positions = cache.length - cache.begins
        cache.length += 1
        mask = None if cache.mask is None else cache.mask[..., : cache.length]
        batch, kv_heads, head_dim = len(tokens), self.config.num_kv_heads, self.config.head_dim
        x, rotary = self._enter(tokens, positions)
        for index, layer in enumerate(self.layers):
            query, key, value = self._project(x, layer, rotary)
            keys, values = cache.append(index, key.unsqueeze(2), value.unsqueeze(2))
            # The heads that share a key are queries to it.
            grouped = query.view(batch, kv_heads, -1, head_dim)
            mixed = look_back(grouped, keys, values, mask)
            x = self._leave(x, mixed, layer)
        return self._logits(x)

    def _enter(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What enters the first block, [N, hidden_size], and the rotations of these positions."""
        x = F.embedding(tokens, self.embedding).float()
        if self.config.embedding_norm:
            x = self._normed(x, None)
        return x, (self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1))

    def _project(
        self, x: Tensor, layer: Layer, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [N, heads, head_dim], keys and values [N, kv_heads, head_dim]."""
        heads, kv_heads = self.config.num_heads, self.config.num_kv_heads
        normed = self._normed(x, layer.attention_norm).to(self.dtype)
        projected = layer.query_key_value(normed).contiguous()
        projected = projected.view(len(x), heads + 2 * kv_heads, self.config.head_dim)
        query_key, value = torch.split(projected, [heads + kv_heads, kv_heads], dim=1)
        query_key = self._normed(query_key.float(), layer.query_key_norm).to(self.dtype)
        query, key = torch.split(turn(query_key, *rotary), [heads, kv_heads], dim=1)
        return query, key, value

    def _leave(self, x: Tensor, mixed: Tensor, layer: Layer) -> Tensor:
        """x after the rest of a block; mixed: values that attention gave, by heads."""
        x = x + layer.output(mixed.reshape(len(x), -1))
        inner = layer.inner(self._normed(x, layer.feed_forward_norm).to(self.dtype))
        if self.config.activation == "swiglu":
            gate, up = inner.chunk(2, dim=-1)
            inner = F.silu(gate) * up
        else:
            inner = inner.relu().square()
        return x + layer.down(inner)

    def _normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """x [..., size] over its root mean square: few operations, since each has its price."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.addcmul(self.eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        normed = x * scale
        return normed if weight is None else normed * weight

    def _logits(self, x: Tensor) -> Tensor:
        logits = product(self._normed(x, self.norm).to(self.dtype), self.head)
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits.float() / cap)


def look_back(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one new position a text to what the cache holds.

    query: [B, kv_heads, heads sharing a key, head_dim]; mask: added to the scores. On a CPU the
    library's kernel for several texts and so few queries is slower than plain products.
    """
    if query.device.type != "cpu" or len(query) == 1:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    scores = torch.matmul(query * query.shape[-1] ** -0.5, keys.transpose(2, 3))
    if mask is not None:
        scores += mask
    return torch.matmul(scores.softmax(dim=-1), values)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, inputs] times the transpose of weight [outputs, inputs]: [N, outputs].

    On a CPU a product with few rows takes as long as reading the weight, and the library (MKL) does
    one row with one thread and several by copying the weight into another order. So one row is
    given parts of the weight, each for a thread; with several rows the weight stands on the left,
    and the result is the transpose of one that is contiguous.
    """
    if x.device.type != "cpu" or len(x) > FEW_ROWS:
        return F.linear(x, weight)
    if len(x) > 1:
        return (weight @ x.t()).t()
    parts = math.gcd(torch.get_num_threads(), len(weight))
    return (x @ weight.view(parts, -1, x.shape[1]).transpose(1, 2)).view(1, -1)


def side_by_side(matrices: Sequence[nn.Module], x: Tensor) -> Tensor:
    """What matrices in 4 bits make of one input, in its type."""
    with torch.autocast(x.device.type, dtype=x.dtype, enabled=x.dtype != torch.float32):
        return torch.cat([matrix(x) for matrix in matrices], dim=-1)


def whole(weight: Tensor) -> Tensor:
    """A weight as a plain tensor; of a sharded one the parts of all processes."""
    full: Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight.detach()
    return full

"""The transformer's arithmetic for generation: one new position a text, keys and values kept.

Promise: what `Transformer` computes without dropout, to rounding. Here nothing is trained, so the
weights are laid out once for quick steps: the matrices that read the same input are one, adapters
are merged, sharded weights are whole, and matrices are in the type of the products instead of being
converted at each step. Matrices in 4 bits stay as they are, with their adapters beside them.
Positions of several texts are rows of one product: a batch of prompts of any lengths is read
without padding.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmstages.model.attention import attention
from llmstages.model.cache import KVCache
from llmstages.model.functions import turn
from llmstages.model.lora import merged
from llmstages.model.transformer import Block, Transformer, query_factor

FEW_ROWS = 64
"""Up to this many rows a product takes about as long as reading its weight."""

Product = Callable[[Tensor], Tensor]
"""Input [N, in] to what a matrix, or several that read the same, make of it."""
Norm = Callable[[Tensor], Tensor]
"""Vectors [..., size] to normalised ones."""
Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of positions."""


@dataclass(frozen=True)
class Layer:
    """Weights and products of a block."""

    attention_norm: Norm
    query_key_value: Product
    query_key_norm: Callable[[Tensor], Tensor]
    """Of queries and keys together, [N, heads + kv_heads, head_dim]."""
    output: Product
    attention_out_norm: Norm
    feed_forward_norm: Norm
    inner: Product
    """Gate and up, or up alone."""
    down: Product
    feed_forward_out_norm: Norm
    window: int | None
    """Positions that one sees; None: all."""
    rotary: int | None
    """Which of the tables; None: it has no RoPE."""


class Decoder:
    """A model ready to generate. Later changes of the model's weights may not reach it."""

    def __init__(self, model: Transformer, dtype: torch.dtype = torch.float32) -> None:
        """`dtype` is the type of matrix products and of the cache."""
        self.config = model.config
        self.dtype = dtype
        self.device = model.embedding.weight.device
        self.eps = torch.tensor(self.config.norm_eps, device=self.device)
        with torch.no_grad():
            self.layers = [
                self._layer(number, block, model) for number, block in enumerate(model.blocks)
            ]
            outside = {
                name: whole(p)
                for name, p in model.named_parameters()
                if not name.startswith("blocks.")
            }
            outside = merged(outside, model.lora)
            self.embedding = outside["embedding.weight"]
            self.positions = outside.get("positions.weight")
            self.norm = self._norm("norm", outside)
            self.head = outside.get("head.weight", self.embedding).to(dtype)
        tables = (model.rotary, model.local_rotary)
        self.tables = [(table.cos, table.sin) for table in tables if table is not None]
        self.query_factor = query_factor(self.config)

    def _norm(self, name: str, weights: Mapping[str, Tensor]) -> Norm:
        """One that may be without weights, or with a bias."""
        weight = weights.get(f"{name}.weight")
        if not self.config.layer_norm:
            return partial(self._normed, weight=self._with_offset(weight))
        assert weight is not None
        return partial(
            F.layer_norm,
            normalized_shape=weight.shape,
            weight=weight,
            bias=weights[f"{name}.bias"],
            eps=self.config.norm_eps,
        )

    def _with_offset(self, weight: Tensor | None) -> Tensor | None:
        """The weight of a norm as it is used."""
        offset = self.config.norm_offset
        return weight + offset if weight is not None and offset else weight

    def _layer(self, number: int, block: nn.Module, model: Transformer) -> Layer:
        assert isinstance(block, Block)
        config = self.config
        weights = {name: whole(p) for name, p in block.named_parameters()}
        quantised = model.lora is not None and model.lora.quantised
        if not quantised:
            weights = merged(weights, model.lora)

        def joined(part: str, *names: str) -> Product:
            if quantised:
                return partial(side_by_side, [block.get_submodule(f"{part}.{n}") for n in names])
            matrices = [weights[f"{part}.{name}.weight"] for name in names]
            matrix = matrices[0] if len(matrices) == 1 else torch.cat(matrices)
            multiply = partial(product, weight=matrix.to(self.dtype))
            if f"{part}.{names[0]}.bias" not in weights:
                return multiply
            bias = torch.cat([weights[f"{part}.{name}.bias"] for name in names]).to(self.dtype)
            return lambda x: multiply(x) + bias

        def norm(name: str, exists: bool) -> Norm:
            return self._norm(name, weights) if exists else as_it_is

        inner = ("gate", "up") if config.is_gated else ("up",)
        windowed = config.is_windowed(number)
        rotary = int(windowed and model.local_rotary is not None)
        return Layer(
            attention_norm=norm("attention_norm", config.norms_before),
            query_key_value=joined("attention", "query", "key", "value"),
            query_key_norm=self._query_key_norm(weights),
            output=joined("attention", "output"),
            attention_out_norm=norm("attention_out_norm", config.norms_after),
            feed_forward_norm=norm("feed_forward_norm", config.norms_before),
            inner=joined("feed_forward", *inner),
            down=joined("feed_forward", "down"),
            feed_forward_out_norm=norm("feed_forward_out_norm", config.norms_after),
            window=config.window if windowed else None,
            rotary=rotary if config.is_rotated(number) else None,
        )

    def _query_key_norm(self, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """As `Layer.query_key_norm`; weights: those of the block."""
        config = self.config
        counts = {"query": config.num_heads, "key": config.num_kv_heads}
        if config.query_key_norm is None:
            return as_it_is
        if config.query_key_norm == "whole":
            norms = [self._norm(f"attention.{name}_norm", weights) for name in counts]

            def of_each(x: Tensor) -> Tensor:
                parts = torch.split(x, list(counts.values()), dim=1)
                return torch.cat(
                    [
                        norm(part.flatten(1)).view(part.shape)
                        for norm, part in zip(norms, parts, strict=True)
                    ],
                    dim=1,
                )

            return of_each
        weight = None
        if config.norm_weights:
            weight = torch.cat(
                [
                    weights[f"attention.{name}_norm.weight"].expand(n, -1)
                    for name, n in counts.items()
                ]
            )
        return partial(self._normed, weight=self._with_offset(weight))

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
        x, tables = self._enter(tokens, positions.to(self.device))
        ends = torch.tensor(new).cumsum(0) - 1
        for index, layer in enumerate(self.layers):
            query, key, value = self._project(x, layer, tables)
            keys, values = cache.layers[index]
            mixed = []
            pieces = zip(*(torch.split(part, new) for part in (query, key, value)), strict=True)
            for row, (q, k, v) in enumerate(pieces):
                begin, end = cache.length - len(texts[row]), cache.length
                keys[row, :, end - len(k) : end] = k.transpose(0, 1)
                values[row, :, end - len(v) : end] = v.transpose(0, 1)
                mask = None
                window = layer.window or end - begin
                if known or window < end - begin:
                    seen = torch.ones(len(q), end - begin, dtype=torch.bool, device=self.device)
                    mask = seen.tril(known).triu(known + 1 - window)[None, None]
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
        x, tables = self._enter(tokens, positions)
        for index, layer in enumerate(self.layers):
            query, key, value = self._project(x, layer, tables)
            keys, values = cache.append(index, key.unsqueeze(2), value.unsqueeze(2))
            # The heads that share a key are queries to it.
            grouped = query.reshape(batch, kv_heads, -1, head_dim)
            near = slice(0 if layer.window is None else -layer.window, None)
            mixed = look_back(
                grouped,
                keys[:, :, near],
                values[:, :, near],
                None if mask is None else mask[..., near],
            )
            x = self._leave(x, mixed, layer)
        return self._logits(x)

    def _enter(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, list[Rotary]]:
        """What enters the first block, [N, hidden_size], and the rotations of these positions."""
        x = F.embedding(tokens, self.embedding).float()
        if self.config.scaled_embedding:
            x = x * math.sqrt(self.config.hidden_size)
        if self.positions is not None:
            x = x + F.embedding(positions, self.positions).float()
        if self.config.embedding_norm:
            x = self._normed(x, None)
        return x, [
            (cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)) for cos, sin in self.tables
        ]

    def _project(
        self, x: Tensor, layer: Layer, tables: Sequence[Rotary]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [N, heads, head_dim], keys and values [N, kv_heads, head_dim]."""
        heads, kv_heads = self.config.num_heads, self.config.num_kv_heads
        entering = layer.attention_norm(x).to(self.dtype)
        projected = layer.query_key_value(entering).contiguous()
        projected = projected.view(len(x), heads + 2 * kv_heads, self.config.head_dim)
        query_key, value = torch.split(projected, [heads + kv_heads, kv_heads], dim=1)
        query_key = layer.query_key_norm(query_key.float()).to(self.dtype)
        if layer.rotary is not None:
            query_key = turn(query_key, *tables[layer.rotary])
        query, key = torch.split(query_key, [heads, kv_heads], dim=1)
        return query if self.query_factor == 1 else query * self.query_factor, key, value

    def _leave(self, x: Tensor, mixed: Tensor, layer: Layer) -> Tensor:
        """x after the rest of a block; mixed: values that attention gave, by heads."""
        x = x + layer.attention_out_norm(layer.output(mixed.reshape(len(x), -1)))
        inner = layer.inner(layer.feed_forward_norm(x).to(self.dtype))
        if self.config.is_gated:
            gate, up = inner.chunk(2, dim=-1)
            is_silu = self.config.activation == "swiglu"
            inner = (F.silu(gate) if is_silu else F.gelu(gate, approximate="tanh")) * up
        elif self.config.activation == "relu2":
            inner = inner.relu().square()
        else:
            inner = F.gelu(inner, approximate="tanh")
        return x + layer.feed_forward_out_norm(layer.down(inner))

    def _normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """x [..., size] over its root mean square: few operations, since each has its price."""
        x = x.float()
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.addcmul(self.eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        normed = x * scale
        return normed if weight is None else normed * weight

    def _logits(self, x: Tensor) -> Tensor:
        logits = product(self.norm(x).to(self.dtype), self.head)
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits.float() / cap)


def as_it_is(x: Tensor) -> Tensor:
    """In place of a norm where there is none."""
    return x


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

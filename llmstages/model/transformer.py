"""The one transformer of all stages: a decoder with rotary positions and one of two heads.

Block, pre-norm and residual:

    x = x + Attention(RMSNorm(x))      grouped-query, per-head RMSNorm of queries and keys, RoPE
    x = x + FeedForward(RMSNorm(x))    down(silu(gate(x)) * up(x)), or down(relu(up(x))^2)

A family of models is a set of switches of `TransformerConfig` (llmstages/model/layouts.py): Qwen3
(Yang et al. 2025, "Qwen3 Technical Report") and NanoChat (squared ReLU, norms without weights, a
norm after the embedding, a soft cap on the logits).

Head: `vocab_size` logits (language model, weights tied to the embedding or not) or `num_labels`
logits (classification). Both heads read the same hidden state, so a classifier is this transformer
with another last matrix.

Initialisation:

    embedding, query, key, value, gate, up   normal, standard deviation 0.02
    attention output, down                   zero: every block starts as the identity
                                             (Goyal et al. 2017; Zhang et al. 2019, "Fixup")
    untied output, classification head       normal 0.02
    norms                                    one

This module knows nothing of files or configs on disk.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from llmstages.model.attention import attention
from llmstages.model.dropout import dropout
from llmstages.model.functions import relu_squared, rms_norm, rotate

if TYPE_CHECKING:
    from llmstages.model.lora import Lora


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that fixes the shape and arithmetic of a `Transformer`."""

    vocab_size: int
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    context_length: int
    tie_embeddings: bool = True
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    activation: str = "swiglu"
    """Of the feed-forward layer: `swiglu` (Shazeer 2020) or `relu2` (So et al. 2021)."""
    norm_weights: bool = True
    """RMSNorm has a learned weight."""
    embedding_norm: bool = False
    """The embedding is normalised before the first block."""
    logit_softcap: float | None = None
    """Language-model logits are cap * tanh(logits / cap) (Gemma 2; Riviere et al. 2024)."""
    rotary_sign: int = 1
    """Direction of the rotation: -1 in NanoChat's files."""
    layout: str = "qwen3"
    """Family whose switches and names on disk these are (llmstages/model/layouts.py)."""
    num_labels: int | None = None
    """None: language-model head; otherwise a classification head with this many logits."""
    pooling: str = "last"
    """What a classification head reads of a text: `last`, the hidden state of its end token, or
    `mean`, the mean of those of all its tokens."""
    multi_label: bool = False
    """Of a classifier: a text may have any number of labels, each with a probability of its own."""


class RMSNorm(nn.Module):
    """Root mean square normalisation, with a weight or without."""

    def __init__(self, size: int, config: TransformerConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if config.norm_weights else None
        self.eps = config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class RotaryTable(nn.Module):
    """Cosines and sines of rotary positions (Su et al. 2021), paired as Hugging Face does."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        half = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        frequencies = 1.0 / (config.rope_theta**half)
        angles = torch.outer(torch.arange(config.context_length).float(), frequencies)
        sin = config.rotary_sign * angles.sin()
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", torch.cat((-sin, sin), dim=-1), persistent=False)

    def forward(self, position_ids: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """Tables of `rotate` for positions [B, T]: [B, T, 1, head_dim]; None means 0..length-1."""
        if position_ids is None:
            return self.cos[None, :length, None], self.sin[None, :length, None]
        return self.cos[position_ids].unsqueeze(2), self.sin[position_ids].unsqueeze(2)


class Attention(nn.Module):
    """Causal grouped-query attention with normalised queries and keys."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        query_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.query = nn.Linear(config.hidden_size, query_size, bias=False)
        self.key = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.value = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.output = nn.Linear(query_size, config.hidden_size, bias=False)
        self.query_norm = RMSNorm(config.head_dim, config)
        self.key_norm = RMSNorm(config.head_dim, config)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        ends: Tensor | None = None,
    ) -> Tensor:
        """[B, T, hidden_size], or with `ends` (`at_ends`) of these positions, [B, K, ...]."""
        batch, length, _ = x.shape
        key = self.key(x).view(batch, length, self.num_kv_heads, self.head_dim)
        value = self.value(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        key = rotate(self.key_norm(key), *rotary).transpose(1, 2)
        if ends is not None:
            x = at_ends(x, ends)
            cos, sin = (at_ends(each.expand(batch, -1, -1, -1), ends) for each in rotary)
            rotary = (cos, sin)
            if mask is None:
                mask = (torch.arange(length, device=x.device) <= ends[:, :, None])[:, None]
            else:
                mask = at_ends(mask.transpose(1, 2), ends).transpose(1, 2)
        query = self.query(x).view(batch, -1, self.num_heads, self.head_dim)
        query = rotate(self.query_norm(query), *rotary).transpose(1, 2)
        mixed = attention(query, key, value, mask)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """The two or three matrices between which each position is alone."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate: nn.Linear | None = None
        if config.activation == "swiglu":
            self.gate = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        if self.gate is None:
            inner = relu_squared(up)
        elif torch.is_grad_enabled():
            inner = F.silu(self.gate(x)) * up
        else:  # nothing is wanted again, and writing less is quicker
            inner = F.silu(self.gate(x), inplace=True).mul_(up)
        result: Tensor = self.down(inner)
        return result


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.hidden_size, config)
        self.feed_forward = FeedForward(config)
        self.dropout = 0.0
        """Share of what the two layers give that is left out while training (`set_dropout`)."""
        self.compiled: Callable[..., Tensor] | None = None
        """`inside`, made quicker for training (`compile_blocks`)."""

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        """x after the block; more: the rest of what `inside` takes."""
        if self.training and self.compiled is not None:
            return self.compiled(self, x, *more)
        return self.inside(x, *more)

    def inside(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        ends: Tensor | None = None,
    ) -> Tensor:
        """What the block computes, of all positions or of `ends` alone (`at_ends`).

        What gathers its weights, when they are sharded, is outside.
        """
        attended = self.attention(self.attention_norm(x), rotary, mask, ends)
        if ends is not None:
            x = at_ends(x, ends)
        x = x + dropout(attended, self.dropout, self.training)
        inner = self.feed_forward(self.feed_forward_norm(x))
        return x + dropout(inner, self.dropout, self.training)


class Transformer(nn.Module):
    """Decoder with a language-model or a classification head.

    `forward` returns hidden states; `logits` applies the head to the positions one wants, so that
    nothing is computed for positions without a target.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_blocks = False
        """In training, keep only what enters each block and compute its inside again on the way
        back (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost")."""
        self.dropout = 0.0
        self.lora: Lora | None = None
        """The adapters that were put in (`llmstages.model.lora.add_lora`)."""
        self.adapted_weights: Mapping[str, Tensor] = {}
        """Matrices in float32, on the host, that the model has rounded or in 4 bits."""
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = RotaryTable(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config)
        self.head: nn.Linear | None = None
        if config.num_labels is not None:
            self.head = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        elif not config.tie_embeddings:
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw all weights anew, by the table at the top of this module."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.ones_(parameter)
            elif name.endswith(("attention.output.weight", "feed_forward.down.weight")):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.02, generator=generator)

    def set_dropout(self, share: float) -> None:
        """Dropout of the residual branches while training (Srivastava et al. 2014)."""
        self.dropout = share
        for block in self.blocks:
            assert isinstance(block, Block)
            block.dropout = share

    def compile_blocks(self) -> None:
        """Compile the block for training: once for all layers, so that depth costs no start-up."""
        compiled = torch.compile(Block.inside, dynamic=False)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.compiled = compiled

    def forward(
        self,
        tokens: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        ends: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the last norm, [B, T, hidden_size], or with `ends` [B, K, ...].

        tokens: [B, T] ids. position_ids: [B, T]; None counts from 0. document_ids: [B, T]; a
        position attends to earlier positions of its own document only; None: to all earlier ones.
        ends: [B, K], where texts end in each row: what the classification head reads of each. With
        `pooling=last` the rest of the last block is left out. With `mean` the last norm is that of
        the mean, so that a word has a larger part in it than another by the size of its state:
        normed before, all words weigh alike.
        Generation has its own way through the weights (llmstages/model/decoding.py).
        """
        length = tokens.shape[1]
        mask = None
        if document_ids is not None:
            mask = document_mask(document_ids)
        rotary = self.rotary(position_ids, length)
        x = self.embedding(tokens)
        if self.config.embedding_norm:
            x = rms_norm(x, None, self.config.norm_eps).to(x.dtype)
        recompute = self.checkpoint_blocks and self.training and torch.is_grad_enabled()
        at_last = ends if self.config.pooling == "last" else None
        for number, block in enumerate(self.blocks, 1):
            inputs = (x, rotary, mask, at_last if number == self.config.num_layers else None)
            if recompute:
                x = checkpoint(
                    block, *inputs, use_reentrant=False, preserve_rng_state=self.dropout > 0
                )
            else:
                x = block(*inputs)
        if ends is not None and self.config.pooling == "mean":
            x = mean_to_ends(x, ends, document_ids)
        hidden: Tensor = self.norm(x)
        return hidden

    @property
    def output_weight(self) -> Tensor:
        """Matrix of the head, [vocab_size or num_labels, hidden_size], with its adapter."""
        return with_adapter(self.embedding if self.head is None else self.head)

    def logits(self, hidden: Tensor) -> Tensor:
        """Head applied to hidden states [..., hidden_size] -> [..., vocab_size or num_labels]."""
        logits = F.linear(hidden, self.output_weight)
        cap = self.config.logit_softcap
        if cap is None or self.config.num_labels is not None:
            return logits
        return cap * torch.tanh(logits.float() / cap)


def at_ends(x: Tensor, ends: Tensor) -> Tensor:
    """x [B, T, ...] at K positions of each row, ends [B, K]: [B, K, ...]."""
    return x[torch.arange(len(ends), device=x.device)[:, None], ends]


def mean_to_ends(hidden: Tensor, ends: Tensor, document_ids: Tensor | None = None) -> Tensor:
    """hidden [B, T, hidden_size], its means up to and with K positions of each row, ends [B, K]:
    [B, K, hidden_size] in float32. With document_ids [B, T] each is of its own document alone."""
    is_text = torch.arange(hidden.shape[1], device=hidden.device) <= ends[:, :, None]
    if document_ids is not None:
        is_text &= document_ids[:, None] == at_ends(document_ids, ends)[:, :, None]
    with torch.autocast(hidden.device.type, enabled=False):  # it would round the states
        return is_text.float() @ hidden.float() / is_text.sum(dim=2, keepdim=True)


def with_adapter(layer: nn.Embedding | nn.Linear) -> Tensor:
    """The matrix of an embedding or a head, with its adapter (llmstages/model/lora.py) if any."""
    made: Callable[[], Tensor] | None = getattr(layer, "weight_with_adapter", None)
    return layer.weight if made is None else made()


def document_mask(document_ids: Tensor) -> Tensor:
    """[B, 1, T, T], true where a query may see a key: same document, not later."""
    length = document_ids.shape[1]
    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids.device).tril()
    return same & causal

"""The one transformer of all stages: a decoder with one of two heads.

Block, residual, here with the norms in front:

    x = x + Attention(Norm(x))      grouped-query, with RoPE, over all that came before or a window
    x = x + FeedForward(Norm(x))    down(act(gate(x)) * up(x)), or down(act(up(x)))

A family of models is a set of switches of `TransformerConfig`, which docs/models.md has in a table;
those of Qwen3 (Yang et al. 2025, "Qwen3 Technical Report") are the defaults.

Head: `vocab_size` logits (language model, weights tied to the embedding or not) or `num_labels`
logits (classification). Both heads read the same hidden state, so a classifier is this transformer
with another last matrix.

Initialisation:

    embedding, query, key, value, gate, up   normal, standard deviation 0.02
    attention output, down                   zero: every block starts as the identity
                                             (Goyal et al. 2017; Zhang et al. 2019, "Fixup")
    untied output, classification head       normal 0.02
    norms                                    one; biases zero

This module knows nothing of files or configs on disk.
"""

import math
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
    """Of the feed-forward layer: `swiglu` or `geglu` (Shazeer 2020), `relu2` (So et al. 2021) or
    `gelu` (Hendrycks and Gimpel 2016); GELU is the one with tanh."""
    norm_weights: bool = True
    """RMSNorm has a learned weight."""
    norm_offset: float = 0.0
    """What is added to that weight (1 in Gemma: Gemma Team 2024)."""
    layer_norm: bool = False
    """Norms are LayerNorm with weight and bias (Ba et al. 2016) instead of RMSNorm."""
    norms_before: bool = True
    """What enters attention and feed-forward layer is normalised."""
    norms_after: bool = False
    """What they give is."""
    query_key_norm: str | None = "head"
    """Norm of queries and keys: of each `head`, of the `whole` projection, or none."""
    query_key_value_bias: bool = False
    output_bias: bool = False
    feed_forward_bias: bool = False
    learned_positions: bool = False
    """A learned vector for each position, added to the embedding, instead of RoPE."""
    rope_scaling: "RopeScaling | None" = None
    """Of the layers without a window."""
    rotary_share: float = 1.0
    """Share of each head that is rotated; the rest is left as it is."""
    unrotated_layers: tuple[int, ...] | None = None
    """Layers without RoPE (Yang et al. 2025, "Rope to Nope and Back Again")."""
    window: int | None = None
    """Positions that one sees, itself included (Beltagy et al. 2020); None: all before it."""
    windowed_layers: tuple[int, ...] | None = None
    """Layers that have the window; None: all."""
    local_rope_theta: float | None = None
    """`rope_theta` of the layers with a window, where it is another."""
    query_scalar: float | None = None
    """Scores are divided by its root; None: by that of `head_dim`."""
    scaled_embedding: bool = False
    """The embedding is multiplied by the root of its width where it is looked up."""
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

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward layer has a third matrix."""
        return self.activation in ("swiglu", "geglu")

    def is_windowed(self, layer: int) -> bool:
        """Whether attention of a layer has the window."""
        if self.window is None:
            return False
        return self.windowed_layers is None or layer in self.windowed_layers

    def is_rotated(self, layer: int) -> bool:
        """Whether a layer has RoPE."""
        return not self.learned_positions and layer not in (self.unrotated_layers or ())


@dataclass(frozen=True)
class RopeScaling:
    """How frequencies of RoPE were changed so that a model reads longer texts."""

    kind: str
    """`linear`: all are divided (Chen et al. 2023, "Position Interpolation"). `llama3`: slow ones
    are, quick ones are not, and those between in part (Grattafiori et al. 2024)."""
    factor: float
    low_freq_factor: float = 1.0
    """`llama3`: a frequency is slow with fewer turns in `original_context`,"""
    high_freq_factor: float = 4.0
    """and quick with more than these."""
    original_context: int = 8192
    """Tokens."""

    def __call__(self, frequencies: Tensor) -> Tensor:
        """The frequencies [n], in radians a token, changed."""
        if self.kind == "linear":
            return frequencies / self.factor
        turns = self.original_context * frequencies / (2 * math.pi)
        between = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = between.clamp(0, 1)
        return (1 - kept) * frequencies / self.factor + kept * frequencies


def norm_of(size: int, config: TransformerConfig) -> nn.Module:
    """A norm of vectors of this size."""
    if config.layer_norm:
        return LayerNorm(size, eps=config.norm_eps)
    return RMSNorm(size, config)


class LayerNorm(nn.LayerNorm):
    """torch's, in float32 whatever the type its weights are gathered in."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)


class RMSNorm(nn.Module):
    """Root mean square normalisation, with a weight or without."""

    def __init__(self, size: int, config: TransformerConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if config.norm_weights else None
        self.offset = config.norm_offset
        self.eps = config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor | None = self.weight
        if weight is not None and self.offset:
            weight = weight.float() + self.offset  # in bfloat16 a small weight would be lost
        return rms_norm(x, weight, self.eps)


class RotaryTable(nn.Module):
    """Cosines and sines of rotary positions (Su et al. 2021), paired as Hugging Face does."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: TransformerConfig, *, local: bool = False) -> None:
        """Of the layers without a window, or with one."""
        super().__init__()
        theta = config.local_rope_theta if local else config.rope_theta
        assert theta is not None
        rotated = int(config.head_dim * config.rotary_share)
        half = torch.arange(0, rotated, 2, dtype=torch.int64).float() / rotated
        frequencies = 1.0 / (theta**half)
        if config.rope_scaling is not None and not local:
            frequencies = config.rope_scaling(frequencies)
        angles = torch.outer(torch.arange(config.context_length).float(), frequencies)
        sin = config.rotary_sign * angles.sin()
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", torch.cat((-sin, sin), dim=-1), persistent=False)

    def forward(self, position_ids: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """Tables of `rotate` for positions [B, T]: [B, T, 1, rotated]; None means 0..length-1."""
        if position_ids is None:
            return self.cos[None, :length, None], self.sin[None, :length, None]
        return self.cos[position_ids].unsqueeze(2), self.sin[position_ids].unsqueeze(2)


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        query_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        bias = config.query_key_value_bias
        self.query = nn.Linear(config.hidden_size, query_size, bias=bias)
        self.key = nn.Linear(config.hidden_size, kv_size, bias=bias)
        self.value = nn.Linear(config.hidden_size, kv_size, bias=bias)
        self.output = nn.Linear(query_size, config.hidden_size, bias=config.output_bias)
        self.query_norm: nn.Module | None = None
        self.key_norm: nn.Module | None = None
        self.norms_heads = config.query_key_norm == "head"
        if config.query_key_norm is not None:
            self.query_norm = norm_of(config.head_dim if self.norms_heads else query_size, config)
            self.key_norm = norm_of(config.head_dim if self.norms_heads else kv_size, config)
        self.query_factor = query_factor(config)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        ends: Tensor | None = None,
    ) -> Tensor:
        """[B, T, hidden_size], or with `ends` (`at_ends`) of these positions, [B, K, ...]."""
        batch, length, _ = x.shape
        value = self.value(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        key = self._placed(self.key(x), self.key_norm, rotary)
        if ends is not None:
            x = at_ends(x, ends)
            if rotary is not None:
                cos, sin = (at_ends(each.expand(batch, -1, -1, -1), ends) for each in rotary)
                rotary = (cos, sin)
            if mask is None:
                mask = (torch.arange(length, device=x.device) <= ends[:, :, None])[:, None]
            else:
                mask = at_ends(mask.transpose(1, 2), ends).transpose(1, 2)
        query = self._placed(self.query(x), self.query_norm, rotary)
        if self.query_factor != 1:
            query = query * self.query_factor
        mixed = attention(query, key, value, mask, chosen=ends is not None)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result

    def _placed(
        self, x: Tensor, norm: nn.Module | None, rotary: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Queries or keys, [B, T, heads * head_dim] -> [B, heads, T, head_dim]."""
        if norm is not None and not self.norms_heads:
            x = norm(x)
        x = x.view(*x.shape[:2], -1, self.head_dim)
        if norm is not None and self.norms_heads:
            x = norm(x)
        if rotary is not None:
            x = rotate(x, *rotary)
        return x.transpose(1, 2)


def query_factor(config: TransformerConfig) -> float:
    """What queries are multiplied by, since attention divides scores by the root of `head_dim`."""
    return math.sqrt(config.head_dim / (config.query_scalar or config.head_dim))


class FeedForward(nn.Module):
    """The two or three matrices between which each position is alone."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        h, f, bias = config.hidden_size, config.intermediate_size, config.feed_forward_bias
        self.activation = config.activation
        self.gate = nn.Linear(h, f, bias=bias) if config.is_gated else None
        self.up = nn.Linear(h, f, bias=bias)
        self.down = nn.Linear(f, h, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        if self.activation == "relu2":
            inner = relu_squared(up)
        elif self.gate is None:
            inner = F.gelu(up, approximate="tanh")
        elif self.activation == "geglu":
            inner = F.gelu(self.gate(x), approximate="tanh") * up
        elif torch.is_grad_enabled():
            inner = F.silu(self.gate(x)) * up
        else:  # nothing is wanted again, and writing less is quicker
            inner = F.silu(self.gate(x), inplace=True).mul_(up)
        result: Tensor = self.down(inner)
        return result


class Block(nn.Module):
    """One transformer block."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        h = config.hidden_size
        self.attention_norm = norm_of(h, config) if config.norms_before else None
        self.attention = Attention(config)
        self.attention_out_norm = norm_of(h, config) if config.norms_after else None
        self.feed_forward_norm = norm_of(h, config) if config.norms_before else None
        self.feed_forward = FeedForward(config)
        self.feed_forward_out_norm = norm_of(h, config) if config.norms_after else None
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
        rotary: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        ends: Tensor | None = None,
    ) -> Tensor:
        """What the block computes, of all positions or of `ends` alone (`at_ends`).

        What gathers its weights, when they are sharded, is outside.
        """
        attended = self.attention(normed(x, self.attention_norm), rotary, mask, ends)
        attended = normed(attended, self.attention_out_norm)
        if ends is not None:
            x = at_ends(x, ends)
        x = x + dropout(attended, self.dropout, self.training)
        inner = self.feed_forward(normed(x, self.feed_forward_norm))
        inner = normed(inner, self.feed_forward_out_norm)
        return x + dropout(inner, self.dropout, self.training)


def normed(x: Tensor, norm: nn.Module | None) -> Tensor:
    """x after a norm, if there is one."""
    return x if norm is None else norm(x)


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
        self.positions: nn.Embedding | None = None
        self.rotary: RotaryTable | None = None
        self.local_rotary: RotaryTable | None = None
        if config.learned_positions:
            self.positions = nn.Embedding(config.context_length, config.hidden_size)
        else:
            self.rotary = RotaryTable(config)
        if config.local_rope_theta is not None:
            self.local_rotary = RotaryTable(config, local=True)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = norm_of(config.hidden_size, config)
        self.head: nn.Linear | None = None
        if config.num_labels is not None:
            self.head = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        elif not config.tie_embeddings:
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw all weights anew, by the table at the top of this module."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() < 2:
                nn.init.constant_(parameter, 1 - self.config.norm_offset)
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
        config = self.config
        length = tokens.shape[1]
        mask = None if document_ids is None else document_mask(document_ids)
        near = mask
        if config.window is not None and length > config.window:
            near = window_mask(len(tokens), length, config.window, tokens.device)
            near = near if mask is None else mask & near
        tables = [
            None if table is None else table(position_ids, length)
            for table in (self.rotary, self.local_rotary or self.rotary)
        ]
        x = self.embedding(tokens)
        if config.scaled_embedding:
            x = x * math.sqrt(config.hidden_size)
        if self.positions is not None:
            x = x + self.positions(all_positions(position_ids, length, tokens.device))
        if config.embedding_norm:
            x = rms_norm(x, None, config.norm_eps).to(x.dtype)
        recompute = self.checkpoint_blocks and self.training and torch.is_grad_enabled()
        at_last = ends if config.pooling == "last" else None
        for number, block in enumerate(self.blocks):
            windowed = config.is_windowed(number)
            rotary = tables[windowed] if config.is_rotated(number) else None
            is_last = number == config.num_layers - 1
            inputs = (x, rotary, near if windowed else mask, at_last if is_last else None)
            if recompute:
                x = checkpoint(
                    block, *inputs, use_reentrant=False, preserve_rng_state=self.dropout > 0
                )
            else:
                x = block(*inputs)
        if ends is not None and config.pooling == "mean":
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


def all_positions(position_ids: Tensor | None, length: int, device: torch.device) -> Tensor:
    """Positions [B, T] as given, or those of a row from its beginning, [T]."""
    return torch.arange(length, device=device) if position_ids is None else position_ids


def window_mask(batch: int, length: int, window: int, device: torch.device) -> Tensor:
    """[B, 1, T, T], true where a query may see a key: among the `window` that end with it."""
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril().triu(1 - window).expand(batch, 1, -1, -1)


def document_mask(document_ids: Tensor) -> Tensor:
    """[B, 1, T, T], true where a query may see a key: same document, not later."""
    length = document_ids.shape[1]
    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids.device).tril()
    return same & causal

"""Low-rank adapters (Hu et al. 2021, "LoRA"): few trained numbers beside matrices left as they are.

An adapted matrix gives

    y = W x + scale B A x                            A [rank, in], B [out, rank], scale alpha / rank
    y = m / ||W + scale B A|| (W x + scale B A x)    decomposed: m [out], rows' norms (Liu et al.
                                                     2024, "DoRA")

with scale alpha / sqrt(rank) when rank-stabilised (Kalajdzievski 2023, "rsLoRA"). B starts at zero
and m at the norms of W, so an adapted model starts as the one it was made of. Names and arithmetic
are those of the PEFT library, which reads what `to_peft` makes. W may be in 4 bits
(llmstages/model/four_bits.py).

An embedding [vocab_size, hidden_size] is adapted in the same way, W + scale B A; where it is the
output matrix too, both have the one adapter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmstages.model.four_bits import (
    TakenOut,
    in_four_bits,
    is_in_four_bits,
    product,
    require_bitsandbytes,
    taken_out,
)
from llmstages.model.layouts import disk_name
from llmstages.model.transformer import Transformer, TransformerConfig

ATTENTION = ("query", "key", "value", "output")
"""The matrices of a block's attention; the others are those of its feed-forward layer."""
EMBEDDING = "embedding"
"""The token embedding and the language model's output matrix, be they one or two."""
EMBEDDING_SHARE = 1 / 3
"""From this share of a model's parameters on, embedding and output matrix are adapted too unless
something else is asked for. A third is above the share in models of half a billion parameters and
more with the usual vocabularies (Qwen3-0.6B: 26 %), of which one expects adapters in the blocks
alone; what it costs small models to go without is in docs/instruct.md."""
TINY = 1e-12
"""A row of zeros has no direction: its norm is taken for this."""
PEFT_PREFIX = "base_model.model."
PEFT_ENDINGS = {
    ".lora_a": ".lora_A.weight",
    ".lora_b": ".lora_B.weight",
    ".magnitude": ".lora_magnitude_vector",
}
EMBEDDING_TO_PEFT = {
    "embedding.lora_a": "model.embed_tokens.lora_embedding_B",
    "embedding.lora_b": "model.embed_tokens.lora_embedding_A",
}


@dataclass(frozen=True)
class Lora:
    """What adapters a model has."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Names of the adapted matrices."""
    rank_stabilised: bool = False
    decomposed: bool = False
    quantised: bool = False
    """All matrices of the blocks are in 4 bits (Dettmers et al. 2023, "QLoRA")."""

    @property
    def scale(self) -> float:
        """Factor of B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


class FrozenLinear(nn.Linear):
    """A linear layer without bias, its weight left as it is: float32, rounded, or in 4 bits."""

    def __init__(self, layer: nn.Linear) -> None:
        """Takes over the weight of `layer`."""
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features, bias=False)
        self.weight = layer.weight
        self.weight.requires_grad_(False)
        self.quantised = is_in_four_bits(self.weight)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        weight: Tensor = self.weight
        if self.quantised:
            return product(input, weight)
        if weight.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            weight = weight.to(input.dtype)
        return F.linear(input, weight)

    def whole_weight(self) -> Tensor:
        """[out, in]."""
        return taken_out(self.weight) if self.quantised else self.weight.detach()


class LoraEmbedding(nn.Embedding):
    """A frozen embedding with an adapter: that of the output matrix too where they are one."""

    def __init__(self, layer: nn.Embedding, lora: Lora, generator: torch.Generator) -> None:
        """Takes over the weight of `layer`; A is drawn as that of a linear layer is."""
        with torch.device("meta"):
            super().__init__(layer.num_embeddings, layer.embedding_dim)
        self.weight = layer.weight
        self.weight.requires_grad_(False)
        self.scale = lora.scale
        self.lora_a, self.lora_b = drawn(
            layer.embedding_dim, layer.num_embeddings, lora.rank, generator
        )
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        low = F.embedding(input, self.lora_b) @ self.lora_a
        return super().forward(input) + self.scale * low

    def weight_with_adapter(self) -> Tensor:
        """[vocab_size, hidden_size]."""
        return self.weight + self.scale * (self.lora_b @ self.lora_a)


class LoraLinear(FrozenLinear):
    """A frozen linear layer with an adapter."""

    def __init__(self, layer: nn.Linear, lora: Lora, generator: torch.Generator) -> None:
        """Takes over the weight of `layer`; A is drawn as PEFT does."""
        super().__init__(layer)
        self.scale = lora.scale
        self.lora_a, self.lora_b = drawn(
            layer.in_features, layer.out_features, lora.rank, generator
        )
        self.magnitude: nn.Parameter | None = None
        if lora.decomposed:
            self.magnitude = nn.Parameter(torch.linalg.vector_norm(self.whole_weight(), dim=1))

    def forward(self, input: Tensor) -> Tensor:
        low = F.linear(F.linear(input, self.lora_a), self.lora_b)
        y = super().forward(input) + self.scale * low
        if self.magnitude is None:
            return y
        with torch.no_grad():  # the norm is taken for a constant, as the paper does
            norms = row_norms(self.whole_weight(), self.lora_a, self.lora_b, self.scale)
        scaled: Tensor = y * (self.magnitude / norms).to(y.dtype)
        return scaled

    def weight_with_adapter(self) -> Tensor:
        """[out, in]; without the norms of a decomposed one."""
        return self.whole_weight() + self.scale * (self.lora_b @ self.lora_a)


def drawn(
    inputs: int, outputs: int, rank: int, generator: torch.Generator
) -> tuple[nn.Parameter, nn.Parameter]:
    """A [rank, inputs], drawn as PEFT does, and B [outputs, rank], zero."""
    bound = 1 / math.sqrt(inputs)
    a = nn.init.uniform_(torch.empty(rank, inputs), -bound, bound, generator=generator)
    return nn.Parameter(a), nn.Parameter(torch.zeros(outputs, rank))


def row_norms(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Norms of the rows of W + scale B A, in float32."""
    with torch.autocast(weight.device.type, enabled=False):
        whole = weight.float() + scale * (b.float() @ a.float())
        norms: Tensor = torch.linalg.vector_norm(whole, dim=1).clamp_min(TINY)
        return norms


def add_lora(
    model: Transformer,
    lora: Lora,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> None:
    """Adapt the matrices of a model, and train nothing else but a classification head.

    dtype: of the matrix products. In a lower one the adapted matrices are kept in it: they are
    rounded once instead of in each product, to the same numbers, and take half the memory. What
    they were stays on the host, in `model.adapted_weights`, for merging. device: where a matrix is
    quantised, and stays; None: where it lies. Of quantised ones that is merged which they became.
    Raises `UserError` when they are to be quantised without bitsandbytes.
    """
    if lora.quantised:
        require_bitsandbytes()
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    if model.config.num_labels is not None:
        assert model.head is not None
        model.head.requires_grad_(True)
    before: dict[str, Tensor] = {}
    for place, layer in list(model.blocks.named_modules(prefix="blocks")):
        if not isinstance(layer, nn.Linear):
            continue
        if lora.quantised:
            layer.weight = in_four_bits(layer.weight, device or layer.weight.device, dtype)
            before[f"{place}.weight"] = layer.weight
        if place.rpartition(".")[2] in lora.targets:
            adapted = LoraLinear(layer, lora, generator)
            if dtype != torch.float32 and not lora.quantised:
                before[f"{place}.weight"] = layer.weight.detach().cpu()
                adapted.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
            model.set_submodule(place, adapted)
        elif lora.quantised:
            model.set_submodule(place, FrozenLinear(layer))
    if EMBEDDING in lora.targets:
        model.embedding = LoraEmbedding(model.embedding, lora, generator)
        if model.head is not None and model.config.num_labels is None:
            model.head = LoraLinear(model.head, lora, generator)
    model.adapted_weights = TakenOut(before) if lora.quantised else before
    model.lora = lora


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is that of an adapter's part."""
    return name.endswith(tuple(PEFT_ENDINGS))


def merged(
    weights: Mapping[str, Tensor],
    lora: Lora | None,
    adapted_weights: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The weights of an adapted model as those of a plain one, by name.

    adapted_weights: those of `Transformer.adapted_weights`, which stand for rounded ones.
    """
    exact = adapted_weights or {}
    plain = {
        name: exact.get(name, tensor) for name, tensor in weights.items() if not is_adapter(name)
    }
    if lora is None:
        return plain
    for name in list(plain):
        place = name.removesuffix(".weight")
        if f"{place}.lora_a" not in weights:
            continue
        a, b = weights[f"{place}.lora_a"], weights[f"{place}.lora_b"]
        whole = plain[name].to(a.device) + lora.scale * (b @ a)
        if lora.decomposed:
            norms = torch.linalg.vector_norm(whole, dim=1).clamp_min(TINY)
            whole *= (weights[f"{place}.magnitude"] / norms)[:, None]
        plain[name] = whole
    return plain


def trained_names(names: list[str], config: TransformerConfig) -> list[str]:
    """Of the parameters of an adapted model those that are trained."""
    head = ["head.weight"] if config.num_labels is not None else []
    return [name for name in names if is_adapter(name) or name in head]


def to_peft(weights: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """Contents of PEFT's `adapter_model.safetensors`, from the parameters of an adapted model.

    PEFT has an embedding's A and B the other way round, transposed; and where the embedding is the
    output matrix too, an adapter of each, which are the same.
    """
    stored = {}
    for name in trained_names(list(weights), config):
        tensor = weights[name]
        stored[peft_name(name, config)] = (
            # Of rank 1 the transposed is contiguous as it is; files have no shared memory.
            tensor.t().clone(memory_format=torch.contiguous_format)
            if name in EMBEDDING_TO_PEFT
            else tensor
        )
        if name in EMBEDDING_TO_PEFT and is_tied(config):
            stored[peft_name(name.replace("embedding", "head"), config)] = tensor
    return stored


def from_peft(
    stored: Mapping[str, Tensor], names: list[str], config: TransformerConfig
) -> dict[str, Tensor]:
    """The trained ones of the parameters `names`. Raises `KeyError` where one is missing."""
    found = {name: stored[peft_name(name, config)] for name in trained_names(names, config)}
    return {name: t.t() if name in EMBEDDING_TO_PEFT else t for name, t in found.items()}


def is_tied(config: TransformerConfig) -> bool:
    """Whether the embedding is the output matrix too."""
    return config.tie_embeddings and config.num_labels is None


def peft_name(name: str, config: TransformerConfig) -> str:
    """Name of a trained parameter in PEFT's `adapter_model.safetensors`."""
    if name in EMBEDDING_TO_PEFT:
        return PEFT_PREFIX + EMBEDDING_TO_PEFT[name]
    classifier = config.num_labels is not None
    for ending, there in PEFT_ENDINGS.items():
        if name.endswith(ending):
            matrix = name.removesuffix(ending) + ".weight"
            stored = disk_name(matrix, layout=config.layout, classifier=classifier)
            return PEFT_PREFIX + stored.removesuffix(".weight") + there
    return PEFT_PREFIX + disk_name(name, layout=config.layout, classifier=classifier)


def peft_config(lora: Lora, config: TransformerConfig, base: str) -> dict[str, Any]:
    """Contents of PEFT's `adapter_config.json`; base: where the adapted model lies."""
    classifier = config.num_labels is not None
    layers = {
        name: "attention" if name in ATTENTION else "feed_forward"
        for name in lora.targets
        if name != EMBEDDING
    }
    if config.activation != "swiglu":
        layers.pop("gate", None)
    targets = {
        peft_name(f"blocks.0.{layer}.{name}.lora_a", config).split(".")[-3]
        for name, layer in layers.items()
    }
    if EMBEDDING in lora.targets:
        targets |= {"embed_tokens"} if classifier else {"embed_tokens", "lm_head"}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if classifier else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(targets),
        "use_rslora": lora.rank_stabilised,
        "use_dora": lora.decomposed,
        "modules_to_save": ["score"] if classifier else None,
        "fan_in_fan_out": False,
        "ensure_weight_tying": EMBEDDING in lora.targets and is_tied(config),
        "inference_mode": True,
    }

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
from llmstages.model.layouts import LAYOUTS, adapter_target, disk_name, rows_together
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
    "embedding.lora_a": ".lora_embedding_B",
    "embedding.lora_b": ".lora_embedding_A",
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
    """A linear layer, its weight left as it is: float32, rounded, or in 4 bits."""

    def __init__(self, layer: nn.Linear) -> None:
        """Takes over weight and bias of `layer`."""
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias
        self.requires_grad_(False)
        self.quantised = is_in_four_bits(self.weight)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        return self.with_bias(self.without_bias(input))

    def without_bias(self, input: Tensor) -> Tensor:
        """input [..., in] times the matrix."""
        weight: Tensor = self.weight
        if self.quantised:
            return product(input, weight)
        if weight.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            weight = weight.to(input.dtype)
        return F.linear(input, weight)

    def with_bias(self, y: Tensor) -> Tensor:
        """y [..., out] and the bias, in its type, if there is one."""
        bias: Tensor | None = self.bias
        return y if bias is None else y + bias.to(y.dtype)

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
        y = self.without_bias(input) + self.scale * low
        if self.magnitude is None:
            return self.with_bias(y)
        with torch.no_grad():  # the norm is taken for a constant, as the paper does
            norms = row_norms(self.whole_weight(), self.lora_a, self.lora_b, self.scale)
        return self.with_bias(y * (self.magnitude / norms).to(y.dtype))

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
        module, _, part = name.rpartition(".")
        together = rows_together(module, config.layout)
        if len(together) > 1 and is_adapter(name):
            adapted = {m: weights[f"{m}.{part}"] for m in together if f"{m}.{part}" in weights}
            tensor = (
                joined(adapted, together, config)
                if part == "lora_b"
                else torch.cat([*adapted.values()])
            )
        stored[peft_name(name, config)] = (
            # Of rank 1 the transposed is contiguous as it is; files have no shared memory.
            tensor.t().clone(memory_format=torch.contiguous_format)
            if name in EMBEDDING_TO_PEFT
            else tensor
        )
        if name in EMBEDDING_TO_PEFT and is_tied(config):
            stored[peft_name(name.replace("embedding", "head"), config)] = tensor
    return stored


def joined(adapted: Mapping[str, Tensor], together: list[str], config: TransformerConfig) -> Tensor:
    """B of one matrix whose rows are several of ours, of which some are adapted: each to the ranks
    of its own A, which stand below each other."""
    rank = next(iter(adapted.values())).shape[1]
    whole = torch.zeros(sum(num_rows(m, config) for m in together), rank * len(adapted))
    for number, (module, b) in enumerate(adapted.items()):
        first = first_row(module, together, config)
        whole[first : first + len(b), rank * number : rank * (number + 1)] = b
    return whole


def num_rows(module: str, config: TransformerConfig) -> int:
    """Outputs of a matrix that shares one on disk."""
    heads = {"query": config.num_heads, "key": config.num_kv_heads, "value": config.num_kv_heads}
    count = heads.get(module.rpartition(".")[2])
    return config.intermediate_size if count is None else count * config.head_dim


def first_row(module: str, together: list[str], config: TransformerConfig) -> int:
    """Where the rows of a matrix begin in the one on disk."""
    return sum(num_rows(m, config) for m in together[: together.index(module)])


def from_peft(
    stored: Mapping[str, Tensor], names: list[str], config: TransformerConfig
) -> dict[str, Tensor]:
    """The trained ones of the parameters `names`. Raises `KeyError` where one is missing."""
    found = {}
    for name in trained_names(names, config):
        tensor = stored[peft_name(name, config)]
        module, _, part = name.rpartition(".")
        together = rows_together(module, config.layout)
        if name in EMBEDDING_TO_PEFT:
            tensor = tensor.t()
        elif len(together) > 1 and is_adapter(name):
            adapted = [m for m in together if f"{m}.{part}" in names]
            rank = tensor.shape[part == "lora_b"] // len(adapted)
            begin = rank * adapted.index(module)
            if part == "lora_a":
                tensor = tensor[begin : begin + rank]
            else:
                first = first_row(module, together, config)
                rows = tensor[first : first + num_rows(module, config)]
                tensor = rows[:, begin : begin + rank]
        found[name] = tensor
    return found


def is_tied(config: TransformerConfig) -> bool:
    """Whether the embedding is the output matrix too."""
    return config.tie_embeddings and config.num_labels is None


def peft_name(name: str, config: TransformerConfig) -> str:
    """Name of a trained parameter in PEFT's `adapter_model.safetensors`."""
    classifier = config.num_labels is not None
    if name in EMBEDDING_TO_PEFT:
        stored = disk_name("embedding.weight", layout=config.layout, classifier=classifier)
        return PEFT_PREFIX + stored.removesuffix(".weight") + EMBEDDING_TO_PEFT[name]
    for ending, there in PEFT_ENDINGS.items():
        if name.endswith(ending):
            matrix = name.removesuffix(ending) + ".weight"
            stored = disk_name(matrix, layout=config.layout, classifier=classifier)
            return PEFT_PREFIX + stored.removesuffix(".weight") + there
    return PEFT_PREFIX + disk_name(name, layout=config.layout, classifier=classifier)


def peft_config(
    lora: Lora, config: TransformerConfig, base: str, revision: str | None = None
) -> dict[str, Any]:
    """Contents of PEFT's `adapter_config.json`; base: where the adapted model lies, a directory or
    a repository on a model hub, there with its revision."""
    classifier = config.num_labels is not None
    layers = {
        name: "attention" if name in ATTENTION else "feed_forward"
        for name in lora.targets
        if name != EMBEDDING
    }
    if not config.is_gated:
        layers.pop("gate", None)
    modules = [f"blocks.0.{layer}.{name}" for name, layer in layers.items()]
    shares: dict[str, int] = {}
    for module in modules:
        target = adapter_target(module, config)
        shares[target] = shares.get(target, 0) + 1
    targets = set(shares)
    # Adapters of several matrices that are one on disk are one of so many times the rank.
    several = {target: count for target, count in shares.items() if count > 1}
    if EMBEDDING in lora.targets:
        embedding = adapter_target("embedding", config)
        targets |= {embedding} if classifier else {embedding, "lm_head"}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if classifier else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "rank_pattern": {target: count * lora.rank for target, count in several.items()},
        "alpha_pattern": {
            target: lora.alpha * (math.sqrt(count) if lora.rank_stabilised else count)
            for target, count in several.items()
        },
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(targets),
        "use_rslora": lora.rank_stabilised,
        "use_dora": lora.decomposed,
        "modules_to_save": ["score"] if classifier else None,
        "fan_in_fan_out": LAYOUTS[config.layout].transposed,
        "ensure_weight_tying": EMBEDDING in lora.targets and is_tied(config),
        "inference_mode": True,
    }

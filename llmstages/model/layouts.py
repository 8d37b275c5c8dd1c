"""Family layouts: the switches of a family, and its names and settings in a Hugging Face directory.

A layout is a table; docs/models.md shows them side by side. Reading and writing files is not done
here.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llmstages.errors import UserError
from llmstages.model.transformer import RopeScaling, TransformerConfig

LARGEST_DEPTH = 10_000
LARGEST_CONTEXT = 2**21
"""Tokens; the tables of rotary positions take memory for each."""
SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
LAYER = re.compile(r"^blocks\.(\d+)\.")
WINDOWED, UNWINDOWED = "sliding_attention", "full_attention"
"""What `layer_types` calls layers with and without a window."""
NAMES = {
    "embedding": "model.embed_tokens",
    "blocks.{layer}.attention.query": "model.layers.{layer}.self_attn.q_proj",
    "blocks.{layer}.attention.key": "model.layers.{layer}.self_attn.k_proj",
    "blocks.{layer}.attention.value": "model.layers.{layer}.self_attn.v_proj",
    "blocks.{layer}.attention.output": "model.layers.{layer}.self_attn.o_proj",
}
"""Our module -> module on disk; {layer} stands for the block number."""
LAST_NORM = {"norm": "model.norm"}
QUERY_KEY_NORMS = {
    "blocks.{layer}.attention.query_norm": "model.layers.{layer}.self_attn.q_norm",
    "blocks.{layer}.attention.key_norm": "model.layers.{layer}.self_attn.k_norm",
}
NORMS_BEFORE = {
    "blocks.{layer}.attention_norm": "model.layers.{layer}.input_layernorm",
    "blocks.{layer}.feed_forward_norm": "model.layers.{layer}.post_attention_layernorm",
}
NORMS_AFTER = {
    "blocks.{layer}.attention_out_norm": "model.layers.{layer}.post_attention_layernorm",
    "blocks.{layer}.feed_forward_out_norm": "model.layers.{layer}.post_feedforward_layernorm",
}
GATED = {
    "blocks.{layer}.feed_forward.gate": "model.layers.{layer}.mlp.gate_proj",
    "blocks.{layer}.feed_forward.up": "model.layers.{layer}.mlp.up_proj",
    "blocks.{layer}.feed_forward.down": "model.layers.{layer}.mlp.down_proj",
}
LLAMA_NAMES = {**NAMES, **LAST_NORM, **NORMS_BEFORE, **GATED}
LLAMA_SWITCHES = {"query_key_norm": None}


@dataclass(frozen=True)
class Layout:
    """One family."""

    switches: Mapping[str, Any]
    """Fields of `TransformerConfig` that all its models share."""
    names: Mapping[str, str]
    """Our module -> module on disk. Several of ours that have one there are its rows, in this
    order."""
    architectures: Mapping[str, str]
    """Class of transformers that reads it, for a `causal` and a `classifier` head, where there is
    one."""
    activations: tuple[str, ...] = ("silu",)
    """What `hidden_act` on disk may be; the first is written."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Entries of `config.json` that it knows beside those of all, as they are where missing."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Entries that must be so, if they are there, and are written."""
    keys: Mapping[str, str | None] = field(default_factory=dict)
    """Usual name of an entry -> the family's; None: it has no such entry."""
    transposed: bool = False
    """Matrices of the blocks are [in, out] on disk."""


def architectures(name: str, *, base: str = "") -> dict[str, str]:
    """Classes of a family; base: its name with a classification head, where it is another."""
    return {
        "causal": f"{name}ForCausalLM",
        "classifier": f"{base or name}ForSequenceClassification",
    }


LAYOUTS = {
    "qwen3": Layout(
        switches={"activation": "swiglu", "norm_weights": True, "logit_softcap": None},
        names={**LLAMA_NAMES, **QUERY_KEY_NORMS},
        architectures=architectures("Qwen3"),
        defaults={
            "attention_bias": False,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 28,
            "layer_types": None,
        },
    ),
    "nanochat": Layout(
        switches={
            "activation": "relu2",
            "norm_weights": False,
            "embedding_norm": True,
            "logit_softcap": 15.0,
            "rotary_sign": -1,
        },
        names={
            **NAMES,
            "blocks.{layer}.feed_forward.up": "model.layers.{layer}.mlp.fc1",
            "blocks.{layer}.feed_forward.down": "model.layers.{layer}.mlp.fc2",
        },
        architectures={"causal": "NanoChatForCausalLM"},
        activations=("relu2",),
        fixed={"attention_bias": False},
    ),
    "llama": Layout(
        switches=LLAMA_SWITCHES,
        names=LLAMA_NAMES,
        architectures=architectures("Llama"),
        defaults={"attention_bias": False, "mlp_bias": False},
    ),
    "mistral": Layout(
        switches=LLAMA_SWITCHES,
        names=LLAMA_NAMES,
        architectures=architectures("Mistral"),
        defaults={"sliding_window": 4096},
    ),
    "qwen2": Layout(
        switches={**LLAMA_SWITCHES, "query_key_value_bias": True},
        names=LLAMA_NAMES,
        architectures=architectures("Qwen2"),
        defaults={
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 28,
            "layer_types": None,
        },
    ),
    "smollm3": Layout(
        switches=LLAMA_SWITCHES,
        names=LLAMA_NAMES,
        architectures=architectures("SmolLM3"),
        defaults={
            "tie_word_embeddings": True,
            "rope_theta": 2_000_000.0,
            "attention_bias": False,
            "mlp_bias": False,
            "no_rope_layers": None,
            "no_rope_layer_interval": 4,
            "use_sliding_window": False,
            "sliding_window": None,
            "layer_types": None,
        },
    ),
    "olmo2": Layout(
        switches={"query_key_norm": "whole", "norms_before": False, "norms_after": True},
        names={**NAMES, **LAST_NORM, **QUERY_KEY_NORMS, **NORMS_AFTER, **GATED},
        architectures=architectures("Olmo2"),
        defaults={"rms_norm_eps": 1e-5, "attention_bias": False},
    ),
    "phi3": Layout(
        switches=LLAMA_SWITCHES,
        names={
            **LLAMA_NAMES,
            **{
                f"blocks.{{layer}}.attention.{name}": "model.layers.{layer}.self_attn.qkv_proj"
                for name in ("query", "key", "value")
            },
            **{
                f"blocks.{{layer}}.feed_forward.{name}": "model.layers.{layer}.mlp.gate_up_proj"
                for name in ("gate", "up")
            },
        },
        architectures=architectures("Phi3"),
        defaults={
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "partial_rotary_factor": 1.0,
        },
    ),
    "gemma3_text": Layout(
        switches={
            "activation": "geglu",
            "norms_after": True,
            "norm_offset": 1.0,
            "scaled_embedding": True,
        },
        names={
            **NAMES,
            **LAST_NORM,
            **QUERY_KEY_NORMS,
            **NORMS_AFTER,
            "blocks.{layer}.attention_norm": "model.layers.{layer}.input_layernorm",
            "blocks.{layer}.feed_forward_norm": "model.layers.{layer}.pre_feedforward_layernorm",
            **GATED,
        },
        architectures=architectures("Gemma3", base="Gemma3Text"),
        activations=("gelu_pytorch_tanh",),
        defaults={
            "tie_word_embeddings": True,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "attention_bias": False,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "layer_types": None,
        },
        fixed={"attn_logit_softcapping": None, "use_bidirectional_attention": False},
        keys={"hidden_act": "hidden_activation"},
    ),
    "gpt2": Layout(
        switches={
            "activation": "gelu",
            "layer_norm": True,
            "query_key_norm": None,
            "query_key_value_bias": True,
            "output_bias": True,
            "feed_forward_bias": True,
            "learned_positions": True,
        },
        names={
            "embedding": "transformer.wte",
            "positions": "transformer.wpe",
            "norm": "transformer.ln_f",
            "blocks.{layer}.attention_norm": "transformer.h.{layer}.ln_1",
            "blocks.{layer}.attention.query": "transformer.h.{layer}.attn.c_attn",
            "blocks.{layer}.attention.key": "transformer.h.{layer}.attn.c_attn",
            "blocks.{layer}.attention.value": "transformer.h.{layer}.attn.c_attn",
            "blocks.{layer}.attention.output": "transformer.h.{layer}.attn.c_proj",
            "blocks.{layer}.feed_forward_norm": "transformer.h.{layer}.ln_2",
            "blocks.{layer}.feed_forward.up": "transformer.h.{layer}.mlp.c_fc",
            "blocks.{layer}.feed_forward.down": "transformer.h.{layer}.mlp.c_proj",
        },
        architectures={
            "causal": "GPT2LMHeadModel",
            "classifier": "GPT2ForSequenceClassification",
        },
        activations=("gelu_new", "gelu_pytorch_tanh"),
        defaults={"tie_word_embeddings": True, "rms_norm_eps": 1e-5, "intermediate_size": None},
        fixed={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        keys={
            "hidden_size": "n_embd",
            "intermediate_size": "n_inner",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
            "rms_norm_eps": "layer_norm_epsilon",
            "hidden_act": "activation_function",
            "num_key_value_heads": None,
            "head_dim": None,
            "rope_theta": None,
            "attention_dropout": "attn_pdrop",
        },
        transposed=True,
    ),
}


def make_config(layout: str, **shape: Any) -> TransformerConfig:
    """A transformer of a family; shape: the fields that the family leaves open."""
    return TransformerConfig(layout=layout, **{**LAYOUTS[layout].switches, **shape})


def disk_name(name: str, *, layout: str, classifier: bool) -> str:
    """Name on disk of our parameter `name`."""
    if name == "head.weight":
        return "score.weight" if classifier else "lm_head.weight"
    module, _, kind = name.rpartition(".")
    names = LAYOUTS[layout].names
    found = LAYER.match(module)
    if found is None:
        return f"{names[module]}.{kind}"
    there = names[LAYER.sub("blocks.{layer}.", module)].format(layer=found.group(1))
    return f"{there}.{kind}"


def stored_together(names: Iterable[str], config: TransformerConfig) -> dict[str, list[str]]:
    """Our parameters by their name on disk: those of one tensor in the order of its rows."""
    order = {module: place for place, module in enumerate(LAYOUTS[config.layout].names)}
    classifier = config.num_labels is not None
    together: dict[str, list[str]] = {}
    for name in names:
        there = disk_name(name, layout=config.layout, classifier=classifier)
        together.setdefault(there, []).append(name)
    for group in together.values():
        group.sort(
            key=lambda name: order.get(LAYER.sub("blocks.{layer}.", name.rpartition(".")[0]), 0)
        )
    return together


def rows_together(module: str, layout: str) -> list[str]:
    """Our modules that are rows of one on disk with this one, itself among them, in their order."""
    names = LAYOUTS[layout].names
    general = LAYER.sub("blocks.{layer}.", module)
    found = LAYER.match(module)
    number = "" if found is None else found.group(1)
    there = names.get(general)
    together = [ours for ours, theirs in names.items() if theirs == there and there is not None]
    return [ours.format(layer=number) for ours in together] or [module]


def adapter_target(module: str, config: TransformerConfig) -> str:
    """The end of a module's name on disk that no other module has."""
    classifier = config.num_labels is not None
    name = disk_name(f"{module}.weight", layout=config.layout, classifier=classifier)
    parts = name.removesuffix(".weight").split(".")
    all_names = set(LAYOUTS[config.layout].names.values())
    same_end = [theirs for theirs in all_names if theirs.split(".")[-1] == parts[-1]]
    return ".".join(parts[-2:] if len(same_end) > 1 else parts[-1:])


def to_disk(weights: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """Our parameters as the tensors of `model.safetensors`, by name; contiguous."""
    found = {}
    for there, names in stored_together(weights, config).items():
        parts = [weights[name] for name in names]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        transposed = is_transposed(names[0], tensor, config)
        found[there] = tensor.t().contiguous() if transposed else tensor
    return found


def from_disk(
    stored: Tensor, parts: Mapping[str, Tensor], config: TransformerConfig
) -> dict[str, Tensor]:
    """A tensor on disk as those of our parameters that it has; parts: these, by name.

    Raises `ValueError` with the shape that it should have.
    """
    first, tensor = next(iter(parts.items()))
    rows = [len(part) for part in parts.values()]
    expected = [sum(rows), *tensor.shape[1:]]
    if is_transposed(first, tensor, config):
        expected.reverse()
    if list(stored.shape) != expected:
        raise ValueError(expected)
    if is_transposed(first, tensor, config):
        stored = stored.t()
    return dict(zip(parts, torch.split(stored, rows), strict=True))


def is_transposed(name: str, tensor: Tensor, config: TransformerConfig) -> bool:
    """Whether a parameter is the other way round on disk."""
    transposed = LAYOUTS[config.layout].transposed
    return transposed and tensor.dim() == 2 and LAYER.match(name) is not None


def config_to_disk(
    config: TransformerConfig,
    *,
    end_id: int | list[int],
    pad_id: int,
    labels: list[str] | None,
    begin_id: int | None = None,
) -> dict[str, Any]:
    """The contents of `config.json`; end_id: where a text ends, which may be at several tokens."""
    layout = LAYOUTS[config.layout]
    usual: dict[str, Any] = {
        "model_type": config.layout,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": 0.0,
        "hidden_act": layout.activations[0],
        "initializer_range": 0.02,
        "bos_token_id": begin_id,
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
        "torch_dtype": "float32",
    }
    keys = {key: layout.keys.get(key, key) for key in usual}
    disk = {own: usual[key] for key, own in keys.items() if own is not None}
    disk |= {**_family_entries(config, layout), **layout.fixed}
    if config.rope_scaling is not None:
        disk["rope_scaling"] = _scaling_to_disk(config.rope_scaling)
    if config.logit_softcap is not None:
        disk["final_logit_softcapping"] = config.logit_softcap
    architecture = layout.architectures.get("causal" if labels is None else "classifier")
    # transformers pools `last`, and would give other scores.
    if architecture is not None and (labels is None or config.pooling == "last"):
        disk["architectures"] = [architecture]
    if labels is not None:
        disk["id2label"] = {str(index): label for index, label in enumerate(labels)}
        disk["label2id"] = {label: index for index, label in enumerate(labels)}
        disk["problem_type"] = MULTI_LABEL if config.multi_label else SINGLE_LABEL
    return disk


def _family_entries(config: TransformerConfig, layout: Layout) -> dict[str, Any]:
    """Those of `config.json` that not all families have."""
    layers = range(config.num_layers)
    has_window = config.window is not None
    scalar = config.query_scalar or config.head_dim
    entries = {
        "attention_bias": config.output_bias,
        "mlp_bias": config.feed_forward_bias,
        "partial_rotary_factor": config.rotary_share,
        "no_rope_layers": [int(config.is_rotated(layer)) for layer in layers],
        "rope_local_base_freq": config.local_rope_theta,
        "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
        "use_sliding_window": has_window,
        "sliding_window": config.window,
        "layer_types": [WINDOWED if config.is_windowed(i) else UNWINDOWED for i in layers],
    }
    if not has_window:  # nor a word of it, but where windows are the rule
        unneeded = {"rope_local_base_freq"}
        if "sliding_window_pattern" not in layout.defaults:
            unneeded |= {"layer_types"}
        if layout.defaults.get("use_sliding_window") is False:
            unneeded |= {"sliding_window"}
        entries = {key: value for key, value in entries.items() if key not in unneeded}
    return {key: value for key, value in entries.items() if key in layout.defaults}


def config_from_disk(disk: Mapping[str, Any], where: str) -> TransformerConfig:
    """Shape described by a `config.json`; `where` names it in errors.

    Raises `UserError` for a family or a switch that this transformer does not have.
    """
    family = disk.get("model_type")
    if not isinstance(family, str) or family not in LAYOUTS:
        raise UserError(
            f"{where}: model_type {family!r} is not supported: "
            f"{', '.join(sorted(LAYOUTS))} are, see docs/models.md"
        )
    layout = LAYOUTS[family]
    disk = with_usual_names(disk)
    wrong = [
        f"{key} {disk[key]}" for key, value in layout.fixed.items() if disk.get(key, value) != value
    ]
    if disk.get("hidden_act", layout.activations[0]) not in layout.activations:
        wrong.append(f"hidden_act {disk['hidden_act']}")
    if wrong:
        raise UserError(f"{where}: {', '.join(wrong)} is not supported")
    try:
        heads = int(disk["num_attention_heads"])
        hidden = int(disk["hidden_size"])
        head_dim = int(disk.get("head_dim") or hidden // heads)
        layers = int(disk["num_hidden_layers"])
        if layers > LARGEST_DEPTH:
            raise UserError(f"num_hidden_layers is {layers:,}: at most {LARGEST_DEPTH:,}")
        # What fine-tuning writes; other programs number labels that nothing predicts.
        classifier = disk.get("problem_type") is not None or any(
            "Classification" in name for name in disk.get("architectures") or []
        )
        more = _rope_from_disk(disk, layout) | _layers_from_disk(disk, layout, layers)
        if more.get("window") is None:
            more["local_rope_theta"] = None
        if "final_logit_softcapping" in disk:
            cap = disk["final_logit_softcapping"]
            more["logit_softcap"] = None if cap is None else float(cap)
        if "attention_bias" in layout.defaults:
            more["query_key_value_bias"] = more["output_bias"] = bool(disk["attention_bias"])
        if "mlp_bias" in layout.defaults:
            more["feed_forward_bias"] = bool(disk["mlp_bias"])
        if "query_pre_attn_scalar" in layout.defaults:
            scalar = float(disk["query_pre_attn_scalar"])
            more["query_scalar"] = None if scalar == head_dim else scalar
        config = make_config(
            family,
            vocab_size=int(disk["vocab_size"]),
            num_layers=layers,
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=int(disk.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            intermediate_size=int(disk["intermediate_size"] or 4 * hidden),
            context_length=int(disk["max_position_embeddings"]),
            tie_embeddings=bool(disk.get("tie_word_embeddings", False)),
            norm_eps=float(disk.get("rms_norm_eps", 1e-6)),
            num_labels=len(disk["id2label"]) if classifier else None,
            multi_label=disk.get("problem_type") == MULTI_LABEL,
            **more,
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: not a complete {family} config ({error!r})") from error
    if (problem := shape_problem(config)) is not None:
        raise UserError(f"{where}: {problem}")
    return config


def _rope_from_disk(disk: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Fields of RoPE, from `rope_parameters`, which newer files have, or from several entries.

    Raises `UserError` for a way of scaling that is not known here.
    """
    given, old = disk.get("rope_parameters") or {}, disk.get("rope_scaling") or {}
    if not (isinstance(given, Mapping) and isinstance(old, Mapping)):
        raise UserError("rope_parameters is no object")
    by_kind = given if {WINDOWED, UNWINDOWED} & given.keys() else {UNWINDOWED: given}
    rope, local = {**old, **(by_kind.get(UNWINDOWED) or {})}, by_kind.get(WINDOWED) or {}
    share = rope.get("partial_rotary_factor", disk.get("partial_rotary_factor"))
    if share not in (None, 1) and "partial_rotary_factor" not in layout.defaults:
        raise UserError(f"partial_rotary_factor {share} is not supported")
    if _scaling_from_disk(local) is not None:
        raise UserError(f"rope_type {local['rope_type']} in layers with a window is not supported")
    theta = local.get("rope_theta") or disk.get("rope_local_base_freq")
    return {
        "rope_theta": float(rope.get("rope_theta") or disk.get("rope_theta") or 10_000.0),
        "rope_scaling": _scaling_from_disk(rope),
        "rotary_share": 1.0 if share is None else float(share),
        "local_rope_theta": None if theta is None else float(theta),
    }


def _scaling_from_disk(rope: Mapping[str, Any]) -> RopeScaling | None:
    """How frequencies are changed; `UserError` for a way that is not known here."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind, float(rope["factor"]))
    if kind != "llama3":
        raise UserError(f"rope_type {kind} is not supported: default, linear and llama3 are")
    return RopeScaling(
        kind,
        float(rope["factor"]),
        float(rope["low_freq_factor"]),
        float(rope["high_freq_factor"]),
        int(rope["original_max_position_embeddings"]),
    )


def _scaling_to_disk(scaling: RopeScaling) -> dict[str, Any]:
    """The entry `rope_scaling`."""
    entry: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        entry |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return entry


def _layers_from_disk(disk: Mapping[str, Any], layout: Layout, layers: int) -> dict[str, Any]:
    """Fields that say which layers have a window, and which no RoPE."""
    known = {key: disk[key] for key in layout.defaults}
    unrotated: tuple[int, ...] = ()
    if "no_rope_layers" in known:
        rotated = known["no_rope_layers"]
        if rotated is None:
            rotated = [(i + 1) % int(known["no_rope_layer_interval"]) for i in range(layers)]
        unrotated = tuple(i for i in range(layers) if not rotated[i])
    types = known.get("layer_types")
    windowed: tuple[int, ...] | None = None
    if types is not None:
        if len(types) != layers or not {*types} <= {WINDOWED, UNWINDOWED}:
            raise UserError(f"layer_types does not say {WINDOWED} or {UNWINDOWED} of each layer")
        windowed = tuple(i for i, kind in enumerate(types) if kind == WINDOWED)
    elif "no_rope_layers" in known:
        windowed = unrotated
    elif "sliding_window_pattern" in known:
        period = int(known["sliding_window_pattern"])
        windowed = tuple(i for i in range(layers) if (i + 1) % period)
    elif "max_window_layers" in known:
        windowed = tuple(range(int(known["max_window_layers"]), layers))
    window = known.get("sliding_window") if known.get("use_sliding_window", True) else None
    if windowed == ():
        window = None
    elif types is not None and window is None and windowed:
        raise UserError(f"layer_types has {WINDOWED}, but there is no sliding_window")
    return {
        "unrotated_layers": unrotated or None,
        "window": None if window is None else int(window),
        "windowed_layers": None if window is None else windowed,
    }


def with_usual_names(disk: Mapping[str, Any]) -> dict[str, Any]:
    """A `config.json` with the names of entries that most families use, and with what is missing.

    One of a family that is not known stays as it is.
    """
    layout = LAYOUTS.get(str(disk.get("model_type")))
    if layout is None:
        return dict(disk)
    renamed = {key: disk[name] for key, name in layout.keys.items() if name and name in disk}
    known = {key: value for key, value in disk.items() if layout.keys.get(key, key) is not None}
    return {**layout.defaults, **known, **renamed}


def shape_problem(config: TransformerConfig) -> str | None:
    """Why no transformer has this shape; None when one has."""
    for key, size in (
        ("vocab_size", config.vocab_size),
        ("num_hidden_layers", config.num_layers),
        ("hidden_size", config.hidden_size),
        ("num_attention_heads", config.num_heads),
        ("num_key_value_heads", config.num_kv_heads),
        ("head_dim", config.head_dim),
        ("intermediate_size", config.intermediate_size),
        ("max_position_embeddings", config.context_length),
        ("id2label", 2 if config.num_labels is None else config.num_labels),
    ):
        if size < 1:
            return f"{key} is {size}"
    if config.context_length > LARGEST_CONTEXT:
        return f"max_position_embeddings is {config.context_length:,}: at most {LARGEST_CONTEXT:,}"
    if config.num_heads % config.num_kv_heads:
        return "num_attention_heads is no multiple of num_key_value_heads"
    if config.head_dim % 2 and not config.learned_positions:
        return f"head_dim is {config.head_dim}: rotary pairs need an even one"
    if not (0 < config.rotary_share <= 1 and int(config.head_dim * config.rotary_share) % 2 == 0):
        return f"partial_rotary_factor {config.rotary_share:g} leaves no rotary pairs"
    thetas = [config.rope_theta, config.local_rope_theta or 1.0]
    if not (all(1 <= theta < math.inf for theta in thetas) and 0 <= config.norm_eps < 1):
        return f"rope_theta {max(thetas):g} or rms_norm_eps {config.norm_eps:g} is no such"
    scaling = config.rope_scaling
    if scaling is not None and not (
        0 < scaling.factor < math.inf
        and 0 < scaling.low_freq_factor < scaling.high_freq_factor < math.inf
        and scaling.original_context > 0
    ):
        return f"rope_scaling {scaling.kind} has numbers that scale nothing"
    if config.window is not None and config.window < 1:
        return f"sliding_window is {config.window}"
    if config.query_scalar is not None and not 0 < config.query_scalar < math.inf:
        return f"query_pre_attn_scalar is {config.query_scalar:g}"
    if config.logit_softcap is not None and not 0 < config.logit_softcap < math.inf:
        return f"final_logit_softcapping is {config.logit_softcap:g}"
    return None

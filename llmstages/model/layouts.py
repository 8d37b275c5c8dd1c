"""Family layouts: the switches of a family, and its names and settings in a Hugging Face directory.

A layout is a table. Reading and writing files is not done here.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmstages.errors import UserError
from llmstages.model.transformer import TransformerConfig

LARGEST_CONTEXT = 2**21
"""Tokens; the tables of rotary positions take memory for each."""
SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
LAYER = re.compile(r"^blocks\.(\d+)\.")
NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "blocks.{layer}.attention.query.weight": "model.layers.{layer}.self_attn.q_proj.weight",
    "blocks.{layer}.attention.key.weight": "model.layers.{layer}.self_attn.k_proj.weight",
    "blocks.{layer}.attention.value.weight": "model.layers.{layer}.self_attn.v_proj.weight",
    "blocks.{layer}.attention.output.weight": "model.layers.{layer}.self_attn.o_proj.weight",
}
"""Our name -> name on disk, in all layouts; {layer} stands for the block number."""


@dataclass(frozen=True)
class Layout:
    """One family."""

    switches: Mapping[str, Any]
    """Fields of `TransformerConfig` that all its models share."""
    names: Mapping[str, str]
    """Our name -> name on disk."""
    architectures: Mapping[str, str]
    """Class of transformers that reads it, for a `causal` and a `classifier` head, where there is
    one."""
    activation: str
    """`hidden_act` on disk."""
    fixed: Mapping[str, Any]
    """Further entries of `config.json`, the same for all its models."""


LAYOUTS = {
    "qwen3": Layout(
        switches={"activation": "swiglu", "norm_weights": True, "logit_softcap": None},
        names={
            **NAMES,
            "norm.weight": "model.norm.weight",
            "blocks.{layer}.attention_norm.weight": "model.layers.{layer}.input_layernorm.weight",
            "blocks.{layer}.attention.query_norm.weight": (
                "model.layers.{layer}.self_attn.q_norm.weight"
            ),
            "blocks.{layer}.attention.key_norm.weight": (
                "model.layers.{layer}.self_attn.k_norm.weight"
            ),
            "blocks.{layer}.feed_forward_norm.weight": (
                "model.layers.{layer}.post_attention_layernorm.weight"
            ),
            "blocks.{layer}.feed_forward.gate.weight": "model.layers.{layer}.mlp.gate_proj.weight",
            "blocks.{layer}.feed_forward.up.weight": "model.layers.{layer}.mlp.up_proj.weight",
            "blocks.{layer}.feed_forward.down.weight": "model.layers.{layer}.mlp.down_proj.weight",
        },
        architectures={
            "causal": "Qwen3ForCausalLM",
            "classifier": "Qwen3ForSequenceClassification",
        },
        activation="silu",
        fixed={"use_sliding_window": False},
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
            "blocks.{layer}.feed_forward.up.weight": "model.layers.{layer}.mlp.fc1.weight",
            "blocks.{layer}.feed_forward.down.weight": "model.layers.{layer}.mlp.fc2.weight",
        },
        architectures={"causal": "NanoChatForCausalLM"},
        activation="relu2",
        fixed={},
    ),
}


def make_config(layout: str, **shape: Any) -> TransformerConfig:
    """A transformer of a family; shape: the fields that the family leaves open."""
    return TransformerConfig(layout=layout, **{**LAYOUTS[layout].switches, **shape})


def disk_name(name: str, *, layout: str, classifier: bool) -> str:
    """Name on disk of our parameter `name`."""
    if name == "head.weight":
        return "score.weight" if classifier else "lm_head.weight"
    names = LAYOUTS[layout].names
    found = LAYER.match(name)
    if found is None:
        return names[name]
    return names[LAYER.sub("blocks.{layer}.", name)].format(layer=found.group(1))


def config_to_disk(
    config: TransformerConfig, *, end_id: int, pad_id: int, labels: list[str] | None
) -> dict[str, Any]:
    """The contents of `config.json`."""
    layout = LAYOUTS[config.layout]
    disk: dict[str, Any] = {
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
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": layout.activation,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
        "torch_dtype": "float32",
        **layout.fixed,
    }
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


def config_from_disk(disk: Mapping[str, Any], where: str) -> TransformerConfig:
    """Shape described by a `config.json`; `where` names it in errors.

    Raises `UserError` for a family or a switch that this transformer does not have.
    """
    family = disk.get("model_type")
    if not isinstance(family, str) or family not in LAYOUTS:
        raise UserError(
            f"{where}: model_type {family!r} is not supported: only {' and '.join(LAYOUTS)} are"
        )
    layout = LAYOUTS[family]
    rope = disk.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise UserError(f"{where}: rope_parameters is no object")
    switches = [
        key for key in ("attention_bias", "use_sliding_window", "rope_scaling") if disk.get(key)
    ]
    if rope.get("rope_type", "default") != "default":
        switches.append(f"rope_type {rope['rope_type']}")
    if disk.get("hidden_act", layout.activation) != layout.activation:
        switches.append(f"hidden_act {disk['hidden_act']}")
    if switches:
        raise UserError(f"{where}: {', '.join(switches)} is not supported")
    try:
        heads = int(disk["num_attention_heads"])
        hidden = int(disk["hidden_size"])
        # What fine-tuning writes; other programs number labels that nothing predicts.
        classifier = disk.get("problem_type") is not None or any(
            "Classification" in name for name in disk.get("architectures") or []
        )
        more = {}
        if "final_logit_softcapping" in disk:
            cap = disk["final_logit_softcapping"]
            more["logit_softcap"] = None if cap is None else float(cap)
        config = make_config(
            family,
            vocab_size=int(disk["vocab_size"]),
            num_layers=int(disk["num_hidden_layers"]),
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=int(disk.get("num_key_value_heads") or heads),
            head_dim=int(disk.get("head_dim") or hidden // heads),
            intermediate_size=int(disk["intermediate_size"]),
            context_length=int(disk["max_position_embeddings"]),
            tie_embeddings=bool(disk.get("tie_word_embeddings", False)),
            rope_theta=float(disk.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
            norm_eps=float(disk.get("rms_norm_eps", 1e-6)),
            num_labels=len(disk["id2label"]) if classifier else None,
            multi_label=disk.get("problem_type") == MULTI_LABEL,
            **more,
        )
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: not a complete {family} config ({error!r})") from error
    if (problem := shape_problem(config)) is not None:
        raise UserError(f"{where}: {problem}")
    return config


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
    if config.head_dim % 2:
        return f"head_dim is {config.head_dim}: rotary pairs need an even one"
    if not (1 <= config.rope_theta < math.inf and 0 <= config.norm_eps < 1):
        return f"rope_theta {config.rope_theta:g} or rms_norm_eps {config.norm_eps:g} is no such"
    if config.logit_softcap is not None and not 0 < config.logit_softcap < math.inf:
        return f"final_logit_softcapping is {config.logit_softcap:g}"
    return None

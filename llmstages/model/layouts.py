"""Family layouts: how a transformer's tensors and settings are named in a Hugging Face directory.

A layout is a table of names. Reading and writing files is not done here.
"""

import re
from collections.abc import Mapping
from typing import Any

from llmstages.errors import UserError
from llmstages.model.transformer import TransformerConfig

# our name -> name on disk; {layer} stands for the block number
QWEN3_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "blocks.{layer}.attention_norm.weight": "model.layers.{layer}.input_layernorm.weight",
    "blocks.{layer}.attention.query.weight": "model.layers.{layer}.self_attn.q_proj.weight",
    "blocks.{layer}.attention.key.weight": "model.layers.{layer}.self_attn.k_proj.weight",
    "blocks.{layer}.attention.value.weight": "model.layers.{layer}.self_attn.v_proj.weight",
    "blocks.{layer}.attention.output.weight": "model.layers.{layer}.self_attn.o_proj.weight",
    "blocks.{layer}.attention.query_norm.weight": "model.layers.{layer}.self_attn.q_norm.weight",
    "blocks.{layer}.attention.key_norm.weight": "model.layers.{layer}.self_attn.k_norm.weight",
    "blocks.{layer}.feed_forward_norm.weight": (
        "model.layers.{layer}.post_attention_layernorm.weight"
    ),
    "blocks.{layer}.feed_forward.gate.weight": "model.layers.{layer}.mlp.gate_proj.weight",
    "blocks.{layer}.feed_forward.up.weight": "model.layers.{layer}.mlp.up_proj.weight",
    "blocks.{layer}.feed_forward.down.weight": "model.layers.{layer}.mlp.down_proj.weight",
}
LAYER = re.compile(r"^blocks\.(\d+)\.")


def disk_name(name: str, *, classifier: bool) -> str:
    """Name on disk of our parameter `name`."""
    if name == "head.weight":
        return "score.weight" if classifier else "lm_head.weight"
    found = LAYER.match(name)
    if found is None:
        return QWEN3_NAMES[name]
    general = LAYER.sub("blocks.{layer}.", name)
    return QWEN3_NAMES[general].format(layer=found.group(1))


def config_to_disk(
    config: TransformerConfig, *, end_id: int, pad_id: int, labels: list[str] | None
) -> dict[str, Any]:
    """The contents of `config.json`."""
    disk: dict[str, Any] = {
        "architectures": [
            "Qwen3ForCausalLM" if labels is None else "Qwen3ForSequenceClassification"
        ],
        "model_type": "qwen3",
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
        "hidden_act": "silu",
        "use_sliding_window": False,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
        "torch_dtype": "float32",
    }
    if labels is not None:
        disk["id2label"] = {str(index): label for index, label in enumerate(labels)}
        disk["label2id"] = {label: index for index, label in enumerate(labels)}
        disk["problem_type"] = "single_label_classification"
    return disk


def config_from_disk(disk: Mapping[str, Any], where: str) -> TransformerConfig:
    """Shape described by a `config.json`; `where` names it in errors.

    Raises `UserError` for a family or a switch that this transformer does not have.
    """
    family = disk.get("model_type")
    if family != "qwen3":
        raise UserError(f"{where}: model_type {family!r} is not supported: only qwen3 is")
    rope = disk.get("rope_parameters") or {}
    switches = [
        key for key in ("attention_bias", "use_sliding_window", "rope_scaling") if disk.get(key)
    ]
    if rope.get("rope_type", "default") != "default":
        switches.append(f"rope_type {rope['rope_type']}")
    if disk.get("hidden_act", "silu") != "silu":
        switches.append(f"hidden_act {disk['hidden_act']}")
    if switches:
        raise UserError(f"{where}: {', '.join(switches)} is not supported")
    try:
        heads = int(disk["num_attention_heads"])
        hidden = int(disk["hidden_size"])
        classifier = any("Classification" in name for name in disk.get("architectures") or [])
        return TransformerConfig(
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
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: not a complete qwen3 config ({error!r})") from error

"""More heads on the backbone of a checkpoint: `heads/NAME.safetensors` beside its files.

Each is one matrix with its labels, what `llmstages.json` says of a classifier (pooling, decision
rule, template of texts), and the hash of the weights that it was trained on, without which it means
nothing. The checkpoint's own head stays what a checkpoint is loaded with.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from llmstages.config.stages import POOLINGS
from llmstages.data.json_files import as_type, parse_json
from llmstages.errors import UserError
from llmstages.evaluate.decision import Decision
from llmstages.train.checkpoint import Checkpoint, CheckpointInfo, Lineage, sync, write_tensors

HEADS_DIR = "heads"
WEIGHT = "score.weight"


def head_path(directory: Path, name: str) -> Path:
    """Where a head of a checkpoint lies."""
    return directory / HEADS_DIR / f"{name}.safetensors"


def made_by(path: Path) -> str | None:
    """Which run wrote a head, as `save_head` was told; None where that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("made_by")
    except (OSError, SafetensorError):
        return None


def save_head(
    backbone: Checkpoint,
    name: str,
    weight: Tensor,
    labels: list[str],
    *,
    classifier: Mapping[str, Any],
    made_by: str,
) -> Path:
    """Put a head beside a checkpoint: complete under its name, or not there at all.

    weight: [num_labels, hidden_size], on the CPU. classifier: as `CheckpointInfo` has it.
    made_by: names the run. Returns where it lies.
    """
    path = head_path(backbone.directory, name)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    metadata = {
        "format": "pt",
        "labels": json.dumps(labels, ensure_ascii=False),
        "classifier": json.dumps(classifier, ensure_ascii=False),
        "backbone": backbone.hash,
        "made_by": made_by,
    }
    write_tensors(temporary, {WEIGHT: weight.contiguous()}, metadata)
    sync(temporary)
    temporary.replace(path)
    return path


def with_head(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """The checkpoint with another of its heads, of which it now has the labels, and the pooling,
    the decision rule and the template of texts in `info.classifier`.

    Raises `UserError` where there is no such head, or one of other weights.
    """
    path = head_path(checkpoint.directory, name)
    if not path.is_file():
        there = sorted(found.stem for found in path.parent.glob("*.safetensors"))
        hint = f"it has {', '.join(there)}" if there else "finetune-classify ... head=NAME adds one"
        raise UserError(f"{checkpoint.directory}: no head {name}: {hint}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            weight = file.get_tensor(WEIGHT)
        labels = [str(label) for label in json.loads(metadata["labels"])]
        # Without one it was written by an older version.
        written = metadata.get("classifier") or json.dumps({"pooling": metadata["pooling"]})
        classifier = as_type(dict[str, Any], parse_json(written), "classifier")
        Decision.of(classifier, len(labels))
        pooling, backbone = classifier["pooling"], metadata["backbone"]
    except (KeyError, OSError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a head ({error})") from error
    config = checkpoint.model.config
    if list(weight.shape) != [len(labels), config.hidden_size] or pooling not in POOLINGS:
        raise UserError(f"{path}: not a head of this model")
    if backbone != checkpoint.hash:
        raise UserError(f"{path}: trained on other weights than {checkpoint.directory} has")
    model = checkpoint.model
    model.config = replace(config, num_labels=len(labels), pooling=pooling, multi_label=False)
    model.head = nn.Linear(config.hidden_size, len(labels), bias=False)
    model.head.weight = nn.Parameter(weight.float())
    info = checkpoint.info or CheckpointInfo("finetune-classify", 0, 0, {}, Lineage())
    return replace(checkpoint, labels=labels, info=replace(info, classifier=classifier))

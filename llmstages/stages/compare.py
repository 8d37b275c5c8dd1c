"""`llmstages compare A B [FILE]`: which of two checkpoints is better, by how much, at what cost.

Both answer the same held-out items, so the difference is measured item by item. Nothing compared
depends on a tokenizer: labels, answers as text, bits a byte.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmstages.config.uses import CompareConfig
from llmstages.data.corpus import MANIFEST_FILE, Corpus
from llmstages.data.file_kind import KEYS_OF_KINDS, detect_kinds, kind_of_keys
from llmstages.data.tasks import read_task
from llmstages.errors import UserError
from llmstages.evaluate.paired import differences, mcnemar
from llmstages.evaluate.text_metrics import require_text_metrics
from llmstages.model.counts import flops_per_token, num_parameters
from llmstages.report.plain import for_stream
from llmstages.report.terminal import warn
from llmstages.stages.asking.abilities import reading_of
from llmstages.stages.comparing.items import (
    Items,
    Measured,
    instruct_items,
    labelled_items,
    task_items,
    text_items,
)
from llmstages.stages.comparing.tables import show_comparison
from llmstages.stages.lineage.chain import chain_of
from llmstages.stages.shared.base_run import pretraining_of
from llmstages.stages.shared.rows import warn_if_learnt
from llmstages.stages.shared.setup import Machine, default_micro_batch_tokens
from llmstages.train.checkpoint import Checkpoint, load_checkpoint
from llmstages.train.device import choose_device, choose_dtype, keep_freed_memory

OF_PROMPTS = ("shots", "template", "label_words")
HEADLINES = ("accuracy", "subset_accuracy", "acc", "chrf", "bits_per_byte")
"""Figures of which the first that there is stands for the comparison."""


def run(config: CompareConfig) -> float:
    """Print the comparison; returns by how much B's headline figure is higher than A's."""
    if config.checkpoint_a is None or config.checkpoint_b is None:
        raise UserError("compare needs two checkpoints: llmstages compare A B [FILE]")
    checkpoints = [load_checkpoint(name) for name in (config.checkpoint_a, config.checkpoint_b)]
    if checkpoints[0].hash == checkpoints[1].hash:
        warn(f"{config.checkpoint_a} and {config.checkpoint_b} have the same weights")
    items, data = items_of(config, checkpoints)
    device = choose_device(config.device)
    keep_freed_memory(device)
    machine = Machine(
        device,
        choose_dtype(config.dtype, device),
        config.micro_batch_tokens or default_micro_batch_tokens(device),
    )
    measured: list[Measured] = []
    seconds = []
    for which, checkpoint in enumerate(checkpoints):
        began = time.monotonic()
        checkpoint.model.to(device)
        measured.append(items.measure(which, machine))
        checkpoint.model.to("cpu")  # the other one may need the room
        seconds.append(time.monotonic() - began)
    a, b = measured
    found = differences(a.figures, b.figures, len(items.entries), config.seed)
    headline = next(name for name in HEADLINES if name in found)
    record: dict[str, Any] = {
        "kind": items.kind,
        "data": data,
        "num_items": len(items.entries),
        "headline": headline,
        "figures": {name: asdict(each) for name, each in found.items()},
    }
    if a.right is not None and b.right is not None:
        record["mcnemar"] = asdict(mcnemar(a.right, b.right))
    for name, checkpoint, spent in zip("ab", checkpoints, seconds, strict=True):
        record[name] = what_it_is(checkpoint) | {"measuring_seconds": round(spent, 3)}
    record["items"] = [
        {**entry, "a": of_a, "b": of_b}
        for entry, of_a, of_b in zip(items.entries, a.entries, b.entries, strict=True)
    ]
    if config.json:
        line = json.dumps(record, ensure_ascii=False)
        sys.stdout.write(for_stream(line, sys.stdout) + "\n")
    else:
        show_comparison(record, found, config.num_examples)
    return found[headline].difference


def items_of(config: CompareConfig, checkpoints: Sequence[Checkpoint]) -> tuple[Items, str]:
    """What both are measured on, and where that lies."""
    classifiers = [checkpoint.labels is not None for checkpoint in checkpoints]
    names = (config.checkpoint_a, config.checkpoint_b)
    if config.data is None or (Path(config.data).expanduser() / MANIFEST_FILE).is_file():
        if any(classifiers):
            which = names[classifiers.index(True)]
            raise UserError(f"{which} is a classifier: give a file of texts with labels")
        corpus = corpus_of(config, checkpoints)
        return text_items(config, checkpoints, corpus), str(corpus.directory)
    for checkpoint, name in zip(checkpoints, names, strict=True):
        warn_if_learnt(checkpoint, name, config.data)
    for key in OF_PROMPTS if all(classifiers) else ():
        if getattr(config, key):
            raise UserError(f"{key} is for language models, and both are classifiers")
    if any(classifiers):
        kind = kind_of_keys([key for key in KEYS_OF_KINDS if getattr(config, key) is not None])
        if ({kind} if kind else detect_kinds(config.data)) != {"classify"}:
            which = names[classifiers.index(True)]
            raise UserError(f"{config.data}: prompts with answers, and {which} is a classifier")
        return labelled_items(config, checkpoints), config.data
    task = read_task(config.data, reading_of(config), seed=config.seed)
    if task.kind != "answers":
        return task_items(config, checkpoints, task), config.data
    require_text_metrics()
    return instruct_items(config, checkpoints), config.data


def corpus_of(config: CompareConfig, checkpoints: Sequence[Checkpoint]) -> Corpus:
    """The corpus asked for, or the one on which both were pretrained.

    Raises `UserError` where there is no such one.
    """
    recorded = [
        None if checkpoint.info is None else checkpoint.info.lineage.corpus_manifest
        for checkpoint in checkpoints
    ]
    if config.data is not None:
        corpus = Corpus.open(Path(config.data).expanduser())
        names = (config.checkpoint_a, config.checkpoint_b)
        for name, own in zip(names, recorded, strict=True):
            if own != corpus.manifest_hash:
                warn(
                    f"{name} was not pretrained on {config.data}: whether it has read this text "
                    "is not known"
                )
        return corpus
    remedy = "name a corpus: llmstages compare A B CORPUS_DIR"
    if recorded[0] is None or recorded[0] != recorded[1]:
        raise UserError(f"A and B are not recorded to be pretrained on one corpus: {remedy}")
    places = []
    for checkpoint in checkpoints:
        settings = pretraining_of(checkpoint.directory)
        if settings is None:
            continue
        directory = Path(settings.corpus_dir)
        places.append(str(directory))
        if (directory / MANIFEST_FILE).is_file():
            corpus = Corpus.open(directory)
            if corpus.manifest_hash == recorded[0]:
                return corpus
    where = f" at {' or '.join(dict.fromkeys(places))}" if places else ""
    raise UserError(f"the corpus of A and B is not there any more{where}: {remedy}")


def what_it_is(checkpoint: Checkpoint) -> dict[str, Any]:
    """A model: its size, and what its training took, alone and with all that led to it."""
    chain = chain_of(checkpoint.directory, check="off")
    shape = checkpoint.model.config
    training = flops_per_token(shape, shape.context_length)
    return {
        "checkpoint": str(checkpoint.directory),
        "parameters": num_parameters(shape),
        "forward_flops_per_token": training / 3,
        "cost": asdict(chain.steps[-1].cost),
        "cost_with_all_before": asdict(chain.cost),
    }

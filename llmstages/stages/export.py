"""`llmstages export`: a checkpoint in the format of another program.

What is written is a directory, complete under its name or not there at all, with `export.json`:
what it was made of.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from llmstages import __version__
from llmstages.config.uses import ExportConfig
from llmstages.disk import require_writable
from llmstages.errors import UserError
from llmstages.export.modelfile import modelfile, ollama_template
from llmstages.model.layouts import config_to_disk
from llmstages.report.terminal import say, warn
from llmstages.text.chat import stop_ids
from llmstages.train.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    Lineage,
    load_checkpoint,
    put_in_place,
    sync,
    write_model,
)
from llmstages.train.model_card import CARD_NAME, card_of_export, model_card
from llmstages.train.records import write_json

RECORD_NAME = "export.json"
TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PACKAGES = {"gguf": ("gguf",), "onnx": ("onnx",)}
"""What a format needs beside llmstages, by its name in an import."""


def run(config: ExportConfig) -> None:
    """Write the export that a config asks for, and say where it is."""
    if config.checkpoint_dir is None:
        raise UserError("export needs a checkpoint: llmstages export RUN format=gguf")
    checkpoint = load_checkpoint(config.checkpoint_dir)
    if config.format == "auto":  # and with a format its dtype is checked
        config = replace(config, format="gguf" if checkpoint.labels is None else "onnx")
    missing = [name for name in PACKAGES.get(config.format, ()) if find_spec(name) is None]
    if missing:
        raise UserError(
            f"format={config.format} needs {', '.join(missing)}: install it with "
            "pip install 'llmstages[export]'"
        )
    name = name_of(checkpoint.directory)
    directory = Path(config.output or f"exports/{name}-{config.format}-{config.dtype}")
    with whole_directory(directory, overwrite=config.overwrite) as staging:
        use: list[str] = []
        if config.format == "gguf":
            export_gguf(staging, checkpoint, name, config.dtype)
            use = ["```sh", "ollama create my-model -f Modelfile"]
            use += [f"llama-cli -m {name}-{config.dtype}.gguf", "```"]
        elif config.format == "onnx":
            export_onnx(staging, checkpoint)
            use = ["ONNX Runtime reads `model.onnx`; its ids come from `tokenizer.json`, and"]
            use += ["`export.json` has the labels and the rule for them."]
        else:
            export_safetensors(staging, checkpoint, config.dtype)
        card = card_beside(checkpoint, config.format, use)
        (staging / CARD_NAME).write_text(card, encoding="utf-8")
        record: dict[str, Any] = {
            "format": config.format,
            "dtype": config.dtype,
            "checkpoint": str(checkpoint.directory),
            "weights_sha256": checkpoint.hash,
            "llmstages": __version__,
        }
        if checkpoint.labels is not None:
            record["labels"] = checkpoint.labels
            record["classifier"] = checkpoint.info.classifier if checkpoint.info else None
        write_json(staging / RECORD_NAME, record)
    for path in sorted(directory.iterdir()):
        say(f"{path}  {path.stat().st_size:,} bytes")


def name_of(directory: Path) -> str:
    """What a checkpoint is called: by its run where it is in one."""
    resolved = directory.resolve()
    return (resolved.parent.parent if resolved.parent.name == "checkpoints" else resolved).name


def card_beside(checkpoint: Checkpoint, format: str, use: Sequence[str]) -> str:
    """The card that lies beside a checkpoint, or one that says what is known of its model; of
    formats for other engines with these lines on its use."""
    config, tokenizer, info = checkpoint.model.config, checkpoint.tokenizer, checkpoint.info
    if info is None:
        answers = "finetune-instruct" if checkpoint.is_tuned else "pretrain"
        lineage = Lineage(parent=checkpoint.hash, base=checkpoint.source)
        info = CheckpointInfo(
            *("finetune-classify" if checkpoint.labels is not None else answers, 0, 0, {}, lineage),
            training={"base": checkpoint.name},
        )
    beside = checkpoint.directory / CARD_NAME
    if beside.is_file():
        card = beside.read_text(encoding="utf-8", errors="replace")
    else:
        ids = {"end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
        entries = config_to_disk(config, **ids, labels=checkpoint.labels)
        card = model_card(
            *(config, info, entries),
            vocabulary=tokenizer.vocab_size,
            is_foreign=checkpoint.info is None,
        )
    return card_of_export(card, info.stage, format, use) if use else card


@contextmanager
def whole_directory(directory: Path, *, overwrite: bool) -> Iterator[Path]:
    """A directory to write into, which gets its name when all is written.

    Raises `UserError` where something has that name, unless it is an export and to be replaced.
    """
    if directory.exists():
        if not (directory / RECORD_NAME).is_file():
            raise UserError(f"{directory}: there, and no export: set output to another place")
        if not overwrite:
            raise UserError(f"{directory}: there already: set overwrite=true or output=DIRECTORY")
    require_writable(directory, "output")
    staging = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        for path in staging.rglob("*"):
            sync(path)
        put_in_place(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def export_gguf(staging: Path, checkpoint: Checkpoint, name: str, dtype: str) -> None:
    """Write a GGUF file and Ollama's `Modelfile`; says where llama.cpp will differ."""
    from llmstages.export.gguf_model import write_gguf

    if checkpoint.labels is not None:
        raise UserError(
            f"{checkpoint.directory}: a classifier, and format=gguf is for language models: "
            "take format=onnx"
        )
    file, tokenizer = f"{name}-{dtype}.gguf", checkpoint.tokenizer
    speaks = checkpoint.is_tuned
    written = write_gguf(
        staging / file, checkpoint.model, tokenizer, dtype=dtype, name=name, speaks=speaks
    )
    if written.vocabulary.kind == "t5":
        warn(
            "llama.cpp has no bytes beside a unigram vocabulary: it reads characters that are no "
            "pieces as <|unk|>"
        )
    if rest := written.not_quantised:
        warn(
            f"{len(rest)} matrices are f16, as their rows are no multiple of 32 numbers long: "
            f"{', '.join(rest[:3])}{', ...' if len(rest) > 3 else ''}"
        )
    names = {index: token for token, index in tokenizer.backend.vocabulary.items()}
    stops = [names[index] for index in stop_ids(tokenizer)]
    text = modelfile(
        *(file, tokenizer, stops),
        context_length=checkpoint.model.config.context_length,
        speaks=speaks,
    )
    (staging / "Modelfile").write_text(text, encoding="utf-8")
    if ollama_template(tokenizer, speaks=speaks) is None:
        warn(
            "Modelfile has no TEMPLATE, as the model's own chat template is Jinja and Ollama's are "
            "not: it takes its own where it knows the one in the GGUF file, and else hands prompts "
            "on as they are; llama.cpp follows the one in the file"
        )


def export_safetensors(staging: Path, checkpoint: Checkpoint, dtype: str) -> None:
    """Write a Hugging Face directory with weights of this type, adapters merged."""
    model, kind = checkpoint.model, TORCH_DTYPES[dtype]
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    largest = torch.finfo(kind).max
    if over := [name for name, tensor in weights.items() if tensor.abs().max() > largest]:
        raise UserError(f"dtype={dtype}: {over[0]} has larger numbers than {largest:g}: take bf16")
    entries = write_model(
        *(staging, model.config, weights, checkpoint.tokenizer),
        labels=checkpoint.labels,
        answers=checkpoint.is_tuned,
        dtype=kind,
    )
    if "architectures" not in entries:
        warn("transformers has no class for this classifier's head; llmstages reads it")


def export_onnx(staging: Path, checkpoint: Checkpoint) -> None:
    """Write a classifier's graph and its tokenizer, which ends every text as the graph expects."""
    from llmstages.export.onnx_classifier import write_onnx

    if checkpoint.labels is None:
        raise UserError(f"{checkpoint.directory}: a language model, format=onnx is for classifiers")
    write_onnx(staging / "model.onnx", checkpoint.model, checkpoint.labels)
    length = checkpoint.model.config.context_length
    checkpoint.tokenizer.save(staging, append_end=True, model_max_length=length)
    classifier = checkpoint.info.classifier if checkpoint.info else None
    if (classifier or {}).get("decision"):
        warn("the graph gives probabilities alone: the rule for labels is in export.json")

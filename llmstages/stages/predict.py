"""`llmstages predict`: labels and probabilities of texts, as JSON Lines in the input's order."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch

from llmstages.config.stages import PredictConfig
from llmstages.data.examples import Example, by_length, labelled_example
from llmstages.data.labelled_texts import read_texts
from llmstages.errors import UserError
from llmstages.report.plain import for_stream
from llmstages.report.terminal import progress, say
from llmstages.stages.output import output_file
from llmstages.train.checkpoint import Checkpoint, load_checkpoint
from llmstages.train.device import choose_device, choose_dtype, keep_freed_memory
from llmstages.train.losses import label_probabilities

WINDOW_BATCHES = 64
"""Batches read ahead, so that texts of similar length can be put together."""


def run(config: PredictConfig) -> None:
    """Write one object a text: id (its line), label, and the probability of every label."""
    if config.checkpoint_dir is None or config.data is None:
        raise UserError("predict needs a checkpoint and a file: llmstages predict RUN FILE")
    checkpoint = load_checkpoint(config.checkpoint_dir)
    if checkpoint.labels is None:
        raise UserError(f"{config.checkpoint_dir}: not a classifier; use llmstages generate")
    device = choose_device(config.device)
    keep_freed_memory(device)
    dtype = choose_dtype(config.dtype, device)
    checkpoint.model.to(device).eval()
    rows = texts_of(config)
    count = 0
    with output_file(config.output) as file, progress("predicting", unit="texts") as advance:
        while window := list(islice(rows, WINDOW_BATCHES * config.batch_size)):
            for (line, _), scores in zip(
                window, scores_of(checkpoint, window, config.batch_size, device, dtype), strict=True
            ):
                best = max(scores, key=lambda label: scores[label])
                entry = {"id": line, "label": best, "probabilities": scores}
                file.write(for_stream(json.dumps(entry, ensure_ascii=False), file) + "\n")
            count += len(window)
            advance(len(window))
    if config.output is not None:
        say(f"{count:,} predictions in {config.output}")


def texts_of(config: PredictConfig) -> Iterator[tuple[int, str]]:
    """(line, text) of a file's rows, or the text itself when no file is meant."""
    assert config.data is not None
    path = Path(config.data)
    try:
        exists = bool(config.data) and path.exists()
    except OSError:  # too long for a path
        exists = False
    looks_like_path = not any(c.isspace() for c in config.data) and (
        "/" in config.data or path.suffix in (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
    )
    if exists or looks_like_path:
        return iter(read_texts(path, config.text_column, config.bad_rows))
    return iter([(1, config.data)])


def scores_of(
    checkpoint: Checkpoint,
    window: list[tuple[int, str]],
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> list[dict[str, float]]:
    """Probability by label of each text of a window, in its order."""
    tokenizer, model, labels = checkpoint.tokenizer, checkpoint.model, checkpoint.labels
    assert labels is not None
    context_length = model.config.context_length
    encoded = tokenizer.encode_batch([text for _, text in window])
    examples = [
        labelled_example(ids, tokenizer.end_id, 0, context_length, str(line))
        for ids, (line, _) in zip(encoded, window, strict=True)
    ]
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].tokens), reverse=True)
    results: list[dict[str, float]] = [{} for _ in examples]
    done = 0
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        for begin in range(0, len(order), batch_size):
            chosen: list[Example] = [examples[i] for i in order[begin : begin + batch_size]]
            for batch in by_length(chosen, batch_size * context_length, context_length):
                for row in label_probabilities(model, batch.to(device)).tolist():
                    results[order[done]] = dict(zip(labels, row, strict=True))
                    done += 1
    return results

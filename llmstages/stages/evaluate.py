"""`llmstages evaluate`: how good a classifier is on a labelled file, or what a language model is
able to do, and whether that will do."""

import json
from typing import Any

import numpy as np
import torch

from llmstages.config.uses import EvaluateCheckpointConfig
from llmstages.data.labelled_texts import read_known_labels
from llmstages.data.text_template import TextTemplate
from llmstages.errors import CheckFailed, UserError
from llmstages.evaluate.classification import FIGURES, SCOPE_FIGURES
from llmstages.evaluate.multi_label import MULTI_LABEL_FIGURES
from llmstages.evaluate.requirements import read_requirement
from llmstages.report.plain import for_stream
from llmstages.report.terminal import say
from llmstages.stages.asking.abilities import Evaluated, evaluate
from llmstages.stages.classifying.ensemble import load_members
from llmstages.stages.classifying.probabilities import (
    LabelSets,
    assess,
    decision_of,
    examples_of,
    probabilities,
)
from llmstages.stages.shared.output import output_file
from llmstages.stages.shared.rows import warn_if_learnt
from llmstages.stages.shared.setup import Machine, default_micro_batch_tokens
from llmstages.train.checkpoint import Checkpoint
from llmstages.train.device import choose_device, keep_freed_memory
from llmstages.train.heads import with_head

OF_LANGUAGE_MODELS = (
    *("prompt_column", "answer_column", "shots", "template", "label_words"),
    *("max_items", "max_tokens"),
)


def run(config: EvaluateCheckpointConfig) -> float:
    """Write the report as one JSON object; returns the macro F1 of a classifier, of a language
    model the first figure of the first file.

    Raises:
        CheckFailed: a figure is not what `require` asks for. The report is written all the same.
    """
    if config.checkpoint_dir is None:
        raise UserError("evaluate needs a checkpoint: llmstages evaluate RUN [FILE ...]")
    checkpoints = load_members(config.checkpoint_dir, config.head)
    checkpoint = checkpoints[0]
    with output_file(config.output) as file:
        if checkpoint.labels is None:
            evaluated = evaluate(config, checkpoint)
        else:
            evaluated = evaluate_classifier(config, checkpoints, checkpoint.labels)
        file.write(for_stream(json.dumps(evaluated.report, ensure_ascii=False), file) + "\n")
    if config.output is not None:
        say(f"the report is in {config.output}")
    if evaluated.failures:
        on = f" on {', '.join(config.data_paths)}" if config.data_paths else ""
        raise CheckFailed(f"{config.checkpoint_dir}{on}: {'; '.join(evaluated.failures)}")
    return evaluated.headline


def evaluate_classifier(
    config: EvaluateCheckpointConfig, checkpoints: list[Checkpoint], labels: list[str]
) -> Evaluated:
    """The figures of a classifier on one labelled file, or of several trainings as one; labels: its
    own."""
    checkpoint = checkpoints[0]
    if len(config.data_paths) != 1:
        raise UserError(
            f"{config.checkpoint_dir}: a classifier is evaluated on one file with labels: "
            f"llmstages evaluate {config.checkpoint_dir} FILE"
        )
    (data,) = config.data_paths
    for key in OF_LANGUAGE_MODELS:
        if getattr(config, key) not in (None, 0):
            raise UserError(
                f"{key}={getattr(config, key)} is for language models; {config.checkpoint_dir} is "
                "a classifier"
            )
    if config.head is not None:
        if len(checkpoints) > 1:
            raise UserError(
                f"head={config.head} is of one training: name one in {config.checkpoint_dir}"
            )
        checkpoint = with_head(checkpoint, config.head)
        checkpoints, labels = [checkpoint], checkpoint.labels or labels
    multi_label = checkpoint.model.config.multi_label
    figures = MULTI_LABEL_FIGURES if multi_label else FIGURES | SCOPE_FIGURES
    requirements = [read_requirement(text, figures) for text in config.require]
    rows, num_skipped = read_known_labels(
        *(data, labels, config.text_column, config.label_column, config.bad_rows),
        multi_label=multi_label,
        label_separator=config.label_separator,
        template=TextTemplate.from_record(checkpoint.info.classifier if checkpoint.info else None),
    )
    warn_if_learnt(checkpoint, config.checkpoint_dir, data)
    sets = LabelSets.of(rows, labels)
    device = choose_device(config.device)
    keep_freed_memory(device)
    machine = Machine(
        device,
        torch.float32,
        config.micro_batch_tokens or default_micro_batch_tokens(device),
    )
    context_length = checkpoint.model.config.context_length
    examples = examples_of(rows, labels, checkpoint.tokenizer, context_length, sets)
    found = [probabilities(each.model.to(device), examples, machine) for each in checkpoints]
    report, _ = assess(
        *(np.mean(found, axis=0), rows, examples, labels),
        *(config.seed, decision_of(checkpoint)),
        sets=sets,
        title=data,
    )
    entry: dict[str, Any] = {
        "checkpoint": str(checkpoint.directory),
        "trainings": len(checkpoints),
        "data": data,
        "skipped_rows": num_skipped,
        **report.as_dict(),
    }
    failures = [requirement.failure(report.figures) for requirement in requirements]
    return Evaluated(
        entry,
        [failure for failure in failures if failure is not None],
        report.figures["macro_f1"],
    )

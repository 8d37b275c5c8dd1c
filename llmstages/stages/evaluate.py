"""`llmstages evaluate`: how good a classifier is on a labelled file, and whether that will do."""

import json

import torch

from llmstages.config.stages import EvaluateCheckpointConfig
from llmstages.data.labelled_texts import read_known_labels
from llmstages.data.text_template import TextTemplate
from llmstages.errors import CheckFailed, UserError
from llmstages.evaluate.classification import FIGURES, SCOPE_FIGURES
from llmstages.evaluate.multi_label import MULTI_LABEL_FIGURES
from llmstages.evaluate.requirements import read_requirement
from llmstages.report.plain import for_stream
from llmstages.report.terminal import say
from llmstages.stages.classifying import LabelSets, assess, decision_of, examples_of
from llmstages.stages.output import output_file
from llmstages.stages.training import Machine, default_micro_batch_tokens
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.device import choose_device, keep_freed_memory
from llmstages.train.heads import with_head


def run(config: EvaluateCheckpointConfig) -> float:
    """Write the report as one JSON object; returns the macro F1.

    Raises:
        CheckFailed: a figure is not what `require` asks for. The report is written all the same.
    """
    if config.checkpoint_dir is None or config.data is None:
        raise UserError("evaluate needs a checkpoint and a file: llmstages evaluate RUN FILE")
    checkpoint = load_checkpoint(config.checkpoint_dir)
    if config.head is not None:
        checkpoint = with_head(checkpoint, config.head)
    multi_label = checkpoint.model.config.multi_label
    figures = MULTI_LABEL_FIGURES if multi_label else FIGURES | SCOPE_FIGURES
    requirements = [read_requirement(text, figures) for text in config.require]
    labels = checkpoint.labels
    if labels is None:
        raise UserError(
            f"{config.checkpoint_dir}: not a classifier, and evaluate is for classifiers so far"
        )
    rows, num_skipped = read_known_labels(
        *(config.data, labels, config.text_column, config.label_column, config.bad_rows),
        multi_label=multi_label,
        label_separator=config.label_separator,
        template=TextTemplate.from_record(checkpoint.info.classifier if checkpoint.info else None),
    )
    sets = LabelSets.of(rows, labels)
    device = choose_device(config.device)
    keep_freed_memory(device)
    model = checkpoint.model.to(device)
    machine = Machine(
        device,
        torch.float32,
        config.micro_batch_tokens or default_micro_batch_tokens(device),
    )
    examples = examples_of(rows, labels, checkpoint.tokenizer, model.config.context_length, sets)
    with output_file(config.output) as file:
        report, _ = assess(
            *(model, rows, examples, labels, machine, config.seed, decision_of(checkpoint)),
            sets=sets,
            title=config.data,
        )
        entry = {
            "checkpoint": str(checkpoint.directory),
            "data": config.data,
            "skipped_rows": num_skipped,
            **report.as_dict(),
        }
        file.write(for_stream(json.dumps(entry, ensure_ascii=False), file) + "\n")
    if config.output is not None:
        say(f"the report is in {config.output}")
    failures = [found.failure(report.figures) for found in requirements]
    if missed := [failure for failure in failures if failure is not None]:
        raise CheckFailed(f"{config.checkpoint_dir} on {config.data}: {'; '.join(missed)}")
    return report.figures["macro_f1"]

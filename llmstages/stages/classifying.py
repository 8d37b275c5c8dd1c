"""What a classifier says of labelled texts, and how good that is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from llmstages.data.examples import Example, labelled_windows
from llmstages.data.labelled_texts import LabelledText
from llmstages.errors import UserError
from llmstages.evaluate.classification import ClassificationReport, classification_report
from llmstages.evaluate.decision import Decision
from llmstages.model.transformer import Transformer
from llmstages.report.classification import PredictedRow
from llmstages.stages.training import Machine
from llmstages.text.tokenizer import Tokenizer
from llmstages.train import parallel
from llmstages.train.checkpoint import INFO_NAME, Checkpoint
from llmstages.train.losses import text_states
from llmstages.train.scoring import per_text


def examples_of(
    rows: Sequence[LabelledText], labels: Sequence[str], tokenizer: Tokenizer, context_length: int
) -> list[list[Example]]:
    """The windows of each row's text; each label must be among `labels`."""
    index = {label: number for number, label in enumerate(labels)}
    return [
        labelled_windows(
            ids,
            tokenizer.end_id,
            index[row.label],
            context_length,
            f"{Path(row.path).name}:{row.line}",
        )
        for ids, row in zip(tokenizer.encode_batch([row.text for row in rows]), rows, strict=True)
    ]


def decision_of(checkpoint: Checkpoint) -> Decision:
    """The rule by which a classifier gives labels; `UserError` where it is a bad one."""
    assert checkpoint.labels is not None
    classifier = None if checkpoint.info is None else checkpoint.info.classifier
    try:
        return Decision.of(classifier, len(checkpoint.labels))
    except ValueError as error:
        raise UserError(f"{checkpoint.directory / INFO_NAME}: {error}") from error


def measure(
    model: Transformer, texts: Sequence[Sequence[Example]], labels: Sequence[str], machine: Machine
) -> ClassificationReport:
    """Report on texts, without intervals."""
    truth = [windows[0].targets[-1] for windows in texts]
    return classification_report(labels, truth, probabilities(model, texts, machine))


def assess(
    model: Transformer,
    rows: Sequence[LabelledText],
    texts: Sequence[Sequence[Example]],
    labels: Sequence[str],
    machine: Machine,
    seed: int,
    decision: Decision,
) -> tuple[ClassificationReport, list[PredictedRow]]:
    """Report on rows, whose windows are in `texts`, with intervals; each row and its prediction."""
    truth = [windows[0].targets[-1] for windows in texts]
    found = probabilities(model, texts, machine)
    refused: list[bool | None] = [None] * len(rows)
    if decision.min_probability is not None:
        refused = (~decision.accepted(found)).tolist()
    predictions = [
        PredictedRow(
            file=row.path,
            line=row.line,
            text=row.text,
            label=row.label,
            predicted=labels[best],
            probabilities=dict(zip(labels, shares, strict=True)),
            out_of_scope=out,
        )
        for row, best, shares, out in zip(
            rows, decision.labels(found), found.tolist(), refused, strict=True
        )
    ]
    return classification_report(labels, truth, found, seed, decision), predictions


def probabilities(
    model: Transformer, texts: Sequence[Sequence[Example]], machine: Machine
) -> NDArray[np.float64]:
    """[n, num_labels] of texts, in their order: what `predict` says of them. In float32, unless the
    weights of a sharded model are gathered in another type."""
    return per_text(
        model,
        texts,
        device=machine.device,
        dtype=parallel.product_dtype(model, torch.float32),
        micro_batch_tokens=machine.micro_batch_tokens,
    )


def features(
    model: Transformer, texts: Sequence[Sequence[Example]], machine: Machine
) -> NDArray[np.float64]:
    """[n, hidden_size] what the head reads of each text, the mean over its windows."""
    return per_text(
        model,
        texts,
        lambda m, batch: text_states(m, batch).float(),
        device=machine.device,
        dtype=parallel.product_dtype(model, torch.float32),
        micro_batch_tokens=machine.micro_batch_tokens,
    )

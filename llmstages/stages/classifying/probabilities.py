"""What a classifier says of labelled texts, and how good that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from llmstages.data.examples import Example, labelled_windows
from llmstages.data.labelled_texts import LabelledText
from llmstages.data.rows import located
from llmstages.errors import UserError
from llmstages.evaluate.classification import ClassificationReport, classification_report
from llmstages.evaluate.decision import Decision
from llmstages.evaluate.multi_label import THRESHOLD, MultiLabelReport, multi_label_report
from llmstages.model.transformer import Transformer
from llmstages.report.classification import (
    PredictedLabels,
    PredictedRow,
    render_classification,
    render_multi_label,
)
from llmstages.report.terminal import error_console
from llmstages.stages.shared.setup import Machine
from llmstages.text.tokenizer import Tokenizer
from llmstages.train import parallel
from llmstages.train.checkpoint import INFO_NAME, Checkpoint
from llmstages.train.losses import text_states
from llmstages.train.scoring import per_text

Report = ClassificationReport | MultiLabelReport


@dataclass(frozen=True)
class LabelSets:
    """The different sets of labels of texts with any number of labels.

    The target of such a text is the number of its set: one number a text, as with one label.
    """

    numbers: dict[tuple[str, ...], int]
    members: NDArray[np.bool_]
    """[num_sets, num_labels] whether a label is in a set."""

    @classmethod
    def of(cls, rows: Sequence[LabelledText], labels: Sequence[str]) -> "LabelSets | None":
        """Those of rows, in the order of `labels`; None for rows with one label each."""
        if rows[0].labels is None:
            return None
        different = dict.fromkeys(row.all_labels for row in rows)
        numbers = {found: number for number, found in enumerate(different)}
        members = [[label in found for label in labels] for found in numbers]
        return cls(numbers, np.array(members, dtype=np.bool_))


def examples_of(
    rows: Sequence[LabelledText],
    labels: Sequence[str],
    tokenizer: Tokenizer,
    context_length: int,
    sets: LabelSets | None = None,
) -> list[list[Example]]:
    """The windows of each row's text; each label must be among `labels`, each set among `sets`."""
    index = {label: number for number, label in enumerate(labels)}
    return [
        labelled_windows(
            ids,
            tokenizer.end_id,
            index[row.label] if sets is None else sets.numbers[row.all_labels],
            context_length,
            located(Path(row.path).name, row.line),
            tokenizer.begin_ids,
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
    model: Transformer,
    texts: Sequence[Sequence[Example]],
    labels: Sequence[str],
    machine: Machine,
    sets: LabelSets | None = None,
) -> Report:
    """Report on texts, without intervals."""
    return _report(labels, texts, probabilities(model, texts, machine), sets, None)


def _report(
    labels: Sequence[str],
    texts: Sequence[Sequence[Example]],
    found: NDArray[np.float64],
    sets: LabelSets | None,
    seed: int | None,
    decision: Decision | None = None,
) -> Report:
    targets = [windows[0].targets[-1] for windows in texts]
    if sets is None:
        return classification_report(labels, targets, found, seed, decision)
    return multi_label_report(labels, sets.members[targets], found, seed)


def assess(
    found: NDArray[np.float64],
    rows: Sequence[LabelledText],
    texts: Sequence[Sequence[Example]],
    labels: Sequence[str],
    seed: int,
    decision: Decision,
    sets: LabelSets | None = None,
    title: str = "",
) -> tuple[Report, list[PredictedRow] | list[PredictedLabels]]:
    """Report on rows, whose windows are in `texts`, with intervals; each row and its prediction.

    found: [n, num_labels] their probabilities. decision: how one label is given. title: under which
    the report is shown.
    """
    report = _report(labels, texts, found, sets, seed, decision)
    if isinstance(report, MultiLabelReport):
        several = [
            PredictedLabels(
                file=row.path,
                line=row.line,
                text=row.text,
                labels=list(row.all_labels),
                predicted=above_threshold(dict(zip(labels, shares, strict=True))),
                probabilities=dict(zip(labels, shares, strict=True)),
            )
            for row, shares in zip(rows, found.tolist(), strict=True)
        ]
        error_console().print(render_multi_label(report, title=title, predictions=several))
        return report, several
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
    error_console().print(render_classification(report, title=title, predictions=predictions))
    return report, predictions


def above_threshold(scores: Mapping[str, float]) -> list[str]:
    """The labels that a text with any number of labels is given, in the order of the model's."""
    return [label for label, share in scores.items() if share > THRESHOLD]


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

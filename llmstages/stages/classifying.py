"""What a classifier says of labelled texts, and how good that is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmstages.data.batch import IGNORED
from llmstages.data.examples import Example, by_length, labelled_example
from llmstages.data.labelled_texts import LabelledText
from llmstages.evaluate.classification import ClassificationReport, classification_report
from llmstages.model.transformer import Transformer
from llmstages.report.classification import PredictedRow
from llmstages.stages.training import Machine
from llmstages.text.tokenizer import Tokenizer
from llmstages.train import parallel
from llmstages.train.losses import label_probabilities


def examples_of(
    rows: Sequence[LabelledText], labels: Sequence[str], tokenizer: Tokenizer, context_length: int
) -> list[Example]:
    """The rows as a model reads them; each label must be among `labels`."""
    index = {label: number for number, label in enumerate(labels)}
    return [
        labelled_example(
            ids,
            tokenizer.end_id,
            index[row.label],
            context_length,
            f"{Path(row.path).name}:{row.line}",
        )
        for ids, row in zip(tokenizer.encode_batch([row.text for row in rows]), rows, strict=True)
    ]


def measure(
    model: Transformer, examples: Sequence[Example], labels: Sequence[str], machine: Machine
) -> ClassificationReport:
    """Report on examples, without intervals."""
    truth = [example.targets[-1] for example in examples]
    return classification_report(labels, truth, probabilities(model, examples, machine))


def assess(
    model: Transformer,
    rows: Sequence[LabelledText],
    examples: Sequence[Example],
    labels: Sequence[str],
    machine: Machine,
    seed: int,
) -> tuple[ClassificationReport, list[PredictedRow]]:
    """Report on rows, which `examples` are of, with intervals; and each row with its prediction."""
    truth = [example.targets[-1] for example in examples]
    found = probabilities(model, examples, machine)
    predictions = [
        PredictedRow(
            file=row.path,
            line=row.line,
            text=row.text,
            label=row.label,
            predicted=labels[best],
            probabilities=dict(zip(labels, shares, strict=True)),
        )
        for row, best, shares in zip(rows, found.argmax(axis=1), found.tolist(), strict=True)
    ]
    return classification_report(labels, truth, found, seed), predictions


def probabilities(
    model: Transformer, examples: Sequence[Example], machine: Machine
) -> NDArray[np.float64]:
    """[n, num_labels] of examples, in their order, computed in float32, unless the weights of a
    sharded model are gathered in another type."""
    return _per_example(model, examples, machine, label_probabilities)


@torch.no_grad()
def features(
    model: Transformer, examples: Sequence[Example], machine: Machine
) -> NDArray[np.float64]:
    """[n, hidden_size] hidden state of each text's end token."""
    return _per_example(
        model,
        examples,
        machine,
        lambda m, batch: m(batch.tokens)[batch.targets != IGNORED].float(),
    )


def _per_example(
    model: Transformer, examples: Sequence[Example], machine: Machine, compute: Any
) -> NDArray[np.float64]:
    """Rows computed batch by batch over examples sorted by length, put back in order."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].tokens), reverse=True)
    was_training = model.training
    model.eval()
    dtype = parallel.product_dtype(model, torch.float32)
    batches = by_length(
        [examples[i] for i in order], machine.micro_batch_tokens, model.config.context_length
    )
    with torch.autocast(machine.device.type, dtype=dtype, enabled=dtype != torch.float32):
        parts = [
            compute(model, batch.to(machine.device)).cpu().double().numpy() for batch in batches
        ]
    model.train(was_training)
    stacked = np.concatenate(parts)
    result = np.empty_like(stacked)
    result[order] = stacked
    return result

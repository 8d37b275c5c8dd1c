"""`llmstages predict`: labels and probabilities of texts, as JSON Lines in the input's order."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from llmstages.config.uses import PredictConfig
from llmstages.data.examples import labelled_windows
from llmstages.data.labelled_texts import read_texts
from llmstages.data.text_template import TextTemplate
from llmstages.errors import UserError
from llmstages.evaluate.decision import Decision
from llmstages.evaluate.multi_label import THRESHOLD
from llmstages.report.plain import for_stream
from llmstages.report.terminal import progress, say, warn
from llmstages.stages.classifying.ensemble import load_members
from llmstages.stages.classifying.probabilities import above_threshold, decision_of
from llmstages.stages.shared.output import output_file
from llmstages.train.checkpoint import Checkpoint
from llmstages.train.device import choose_device, keep_freed_memory
from llmstages.train.heads import with_head
from llmstages.train.scoring import per_text

BATCHES_AHEAD = 64
"""Batches read ahead, so that texts of similar length can be put together."""
CHARACTERS_AHEAD = 2**20
"""Most characters of them, which bounds memory where texts are long."""

PATH_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".eml", ".mbox")
"""A word that ends so names a file, also one that is not there."""

Id = int | str


def run(config: PredictConfig) -> None:
    """Write one object a text: id, label (or labels), and the probability of every label.

    A text that the classifier's rule takes to be out of scope has the label null.
    """
    if config.checkpoint_dir is None or config.data is None:
        raise UserError("predict needs a checkpoint and a file: llmstages predict RUN FILE")
    checkpoint, *others = load_members(config.checkpoint_dir, config.head)
    classifier = classifier_of(checkpoint, config.head, config.device, config.dtype, others)
    if classifier is None:
        raise UserError(f"{config.checkpoint_dir}: not a classifier; use llmstages generate")
    count = num_empty = 0
    first_empty: Id = 0
    with output_file(config.output) as file, progress("predicting", unit="texts") as advance:
        texts = texts_of(config, classifier.template)
        for rows in read_ahead(texts, BATCHES_AHEAD * config.batch_size):
            found = classifier.predict([text for _, text in rows], config.batch_size)
            for (id, text), prediction in zip(rows, found, strict=True):
                entry = {"id": id, **prediction}
                file.write(for_stream(json.dumps(entry, ensure_ascii=False), file) + "\n")
                if not text.strip():
                    first_empty = first_empty if num_empty else id
                    num_empty += 1
            count += len(rows)
            advance(len(rows))
    if num_empty:
        warn(
            f"{num_empty:,} of {count:,} texts are empty, the first with id {first_empty}: "
            "their label is what the model says of no text at all"
        )
    if config.output is not None:
        say(f"{count:,} predictions in {config.output}")


@dataclass(frozen=True)
class Classifier:
    """A classifier's checkpoint on its device, and the rule by which it gives labels."""

    checkpoint: Checkpoint
    template: TextTemplate | None
    decision: Decision
    device: torch.device
    dtype: torch.dtype
    others: Sequence[Checkpoint] = ()
    """Further trainings of it, whose probabilities are averaged with its own."""

    @property
    def multi_label(self) -> bool:
        """Whether a text has any number of labels."""
        return self.checkpoint.model.config.multi_label

    @property
    def rule(self) -> dict[str, Any]:
        """The decision rule, or the bound of each of any number of labels; empty where it is the
        likeliest label that is given."""
        return {"threshold": THRESHOLD} if self.multi_label else self.decision.as_dict()

    def predict(self, texts: Sequence[str], batch_size: int) -> list[dict[str, Any]]:
        """Label (or labels) and the probability of every label of each text, in their order."""
        by_training = [
            scores_of(each, texts, batch_size, self.device, self.dtype)
            for each in (self.checkpoint, *self.others)
        ]
        found = [
            {label: fmean(scores[label] for scores in of_text) for label in of_text[0]}
            for of_text in zip(*by_training, strict=True)
        ]
        return [{**self._given(scores), "probabilities": scores} for scores in found]

    def _given(self, scores: Mapping[str, float]) -> dict[str, Any]:
        if self.multi_label:
            return {"labels": above_threshold(scores)}
        return labelled(scores, self.decision)


def classifier_of(
    checkpoint: Checkpoint,
    head: str | None,
    device: str,
    dtype: str,
    others: Sequence[Checkpoint] = (),
) -> Classifier | None:
    """The classifier in a checkpoint, with another of its heads if one is named; None where the
    checkpoint is a language model. others: further trainings of it."""
    if head is not None:
        checkpoint = with_head(checkpoint, head)
    if checkpoint.labels is None:
        return None
    chosen = choose_device(device)
    keep_freed_memory(chosen)
    for each in (checkpoint, *others):
        each.model.to(chosen)
    return Classifier(
        checkpoint,
        TextTemplate.from_record(checkpoint.info.classifier if checkpoint.info else None),
        decision_of(checkpoint),
        chosen,
        # Whatever is not asked for is float32: labels must not depend on what the processor can do.
        torch.bfloat16 if dtype == "bfloat16" else torch.float32,
        others,
    )


def labelled(scores: Mapping[str, float], decision: Decision) -> dict[str, Any]:
    """The label, null where a text is out of scope; that and how sure the classifier is of its
    likeliest label are said where there is a rule for it."""
    shares = np.array([list(scores.values())])
    label = list(scores)[decision.labels(shares)[0]]
    if decision.min_probability is None:
        return {"label": label}
    accepted = bool(decision.accepted(shares)[0])
    return {
        "label": label if accepted else None,
        "out_of_scope": not accepted,
        "score": shares.max(),
    }


def read_ahead(rows: Iterator[tuple[Id, str]], most: int) -> Iterator[list[tuple[Id, str]]]:
    """Rows in their order, `most` at a time or fewer long ones."""
    found: list[tuple[Id, str]] = []
    characters = 0
    for row in rows:
        found.append(row)
        characters += len(row[1])
        if len(found) == most or characters >= CHARACTERS_AHEAD:
            yield found
            found, characters = [], 0
    if found:
        yield found


def texts_of(
    config: PredictConfig, template: TextTemplate | None = None
) -> Iterator[tuple[Id, str]]:
    """(id, text) of a file's rows, or the text itself when no file is meant."""
    assert config.data is not None
    path = Path(config.data)
    try:
        exists = bool(config.data) and path.exists()
    except OSError:  # too long for a path
        exists = False
    looks_like_path = not any(c.isspace() for c in config.data) and (
        "/" in config.data or path.suffix in PATH_SUFFIXES
    )
    if exists or looks_like_path:
        return read_texts(path, config.text_column, config.bad_rows, config.id_column, template)
    if template is not None and template.joins:
        listed = ", ".join(template.columns)
        raise UserError(f"the classifier reads rows with {listed}: give a file that has them")
    return iter([(1, config.data)])


def scores_of(
    checkpoint: Checkpoint,
    texts: Sequence[str],
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> list[dict[str, float]]:
    """Probability by label of each text, in their order."""
    tokenizer, model, labels = checkpoint.tokenizer, checkpoint.model, checkpoint.labels
    assert labels is not None
    context_length = model.config.context_length
    windows = [
        labelled_windows(ids, tokenizer.end_id, 0, context_length, "", tokenizer.begin_ids)
        for ids in tokenizer.encode_batch(texts)
    ]
    found = per_text(
        model,
        windows,
        device=device,
        dtype=dtype,
        micro_batch_tokens=batch_size * context_length,
        batch_size=batch_size,
    )
    return [dict(zip(labels, row, strict=True)) for row in found.tolist()]

"""The rows of labelled texts: read, split, and of labels that training has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmstages.config.stages import FinetuneClassifyConfig
from llmstages.data.labelled_texts import (
    LabelledText,
    as_names,
    found_template,
    read_labelled_texts,
)
from llmstages.data.rows import located
from llmstages.data.text_template import TextTemplate
from llmstages.errors import UserError
from llmstages.report.terminal import say, some_of, warn
from llmstages.stages.classifying.probabilities import LabelSets
from llmstages.stages.shared.rows import Rows, finetune_rows

LABELS_LISTED = 8
FEW_ROWS = 5
"""A label with fewer training rows is named in a warning."""


@dataclass(frozen=True)
class ClassRows:
    """What there is to learn from and to measure with."""

    rows: Rows[LabelledText]
    labels: list[str]
    """In the order of the head's logits."""
    sets: LabelSets | None
    """Of texts with any number of labels."""
    template: TextTemplate | None
    """The column of the texts, or how several are joined."""
    set_aside: dict[str, int]
    """Rows that are not used, by reason."""


def class_rows(config: FinetuneClassifyConfig) -> ClassRows:
    """Read and split the labelled texts that the config names."""
    assert config.data is not None
    aside: Counter[str] = Counter()
    frequency: Counter[str] = Counter()
    template = found_template(
        Path(config.data), config.text_column, config.label_column, config.text_template
    )

    def is_test_file(path: Path) -> bool:
        """Nothing is learnt from it: rows of one label measure its recall."""
        return config.test_data is not None and path == Path(config.test_data)

    def read(path: Path) -> list[LabelledText]:
        found = read_labelled_texts(
            path,
            config.text_column,
            config.label_column,
            config.bad_rows,
            aside,
            label_separator=config.label_separator,
            template=template,
            one_label=is_test_file(path),
        )
        frequency.update(label for row in found for label in row.all_labels)
        return found

    rows = finetune_rows(
        config,
        read,
        lambda row: row.text,
        lambda row: stratum(row, frequency),
        fold=None if config.fold is None else (config.fold, config.folds),
    )
    check_labels_alike(config, rows)
    labels = labels_of(rows.train, config.label_column)
    rows = known_rows(rows, labels, config.bad_rows, aside)
    warn_of_rare(rows, labels)
    sets = LabelSets.of([*rows.train, *rows.validation, *rows.test], labels)
    return ClassRows(rows, labels, sets, template, dict(aside))


def check_labels_alike(config: FinetuneClassifyConfig, rows: Rows[LabelledText]) -> None:
    """Raise `UserError` where held-out rows have any number of labels and training rows one."""
    several = [row for row in [*rows.validation, *rows.test] if row.labels is not None]
    if several and rows.train[0].labels is None:
        raise UserError(
            f"{several[0].path}: its rows have lists of labels, and those of {config.data} one "
            "label each: write the labels of both alike"
        )


def stratum(row: LabelledText, frequency: Mapping[str, int]) -> str:
    """By what a split keeps its proportions: the label; of several the rarest, as those are the
    ones that a part would miss (after Sechidis et al. 2011)."""
    if row.labels is None:
        return row.label
    return min(row.labels, key=lambda label: (frequency[label], label), default="")


def labels_of(rows: Sequence[LabelledText], label_column: Any) -> list[str]:
    """The labels of training rows, sorted; those with columns of their own as these were named."""
    found = {label for row in rows for label in row.all_labels}
    named = as_names(label_column) if isinstance(label_column, list) else []
    if not found <= set(named):
        return sorted(found)
    if missing := [label for label in named if label not in found]:
        warn(f"no training row has the label {', '.join(missing)}: it is never learnt")
    return named


def warn_of_rare(rows: Rows[LabelledText], labels: Sequence[str]) -> None:
    """Name labels of which there is little to learn from, or none to choose a checkpoint by."""
    trained = Counter(label for row in rows.train for label in row.all_labels)
    validated = {label for row in rows.validation for label in row.all_labels}
    few = sorted((label for label in labels if trained[label] < FEW_ROWS), key=trained.__getitem__)
    counted = [f"{label} ({trained[label]})" for label in few]
    unseen = [label for label in labels if label not in validated]
    found = {f"fewer than {FEW_ROWS} training rows": counted, "no validation row": unseen}
    if said := [f"with {what}: {some_of(names)}" for what, names in found.items() if names]:
        warn(f"labels {'; '.join(said)}")


def known_rows(
    rows: Rows[LabelledText], labels: Sequence[str], bad_rows: str, aside: Counter[str]
) -> Rows[LabelledText]:
    """The rows without those held out that have a label of no training row; counted in `aside`.

    Says which labels no test row has.

    Raises:
        UserError: there is such a row and `bad_rows` is `refuse`, or no other is left.
    """

    known = set(labels)

    def unknown(row: LabelledText) -> list[str]:
        return [label for label in row.all_labels if label not in known]

    odd = [row for row in [*rows.validation, *rows.test] if unknown(row)]
    if odd:
        first = odd[0]
        message = (
            f"{located(first.path, first.line)}: label {unknown(first)[0]!r} does not occur in the "
            f"training rows ({len(odd):,} such row{'s' if len(odd) > 1 else ''}"
        )
        if bad_rows == "refuse":
            raise UserError(f"{message}; leave them out with bad_rows=skip)")
        warn(f"{message}, left out)")
        aside["a label that does not occur in the training rows"] += len(odd)
        validation, test = (
            [row for row in part if not unknown(row)] for part in (rows.validation, rows.test)
        )
        if not validation or not test:
            raise UserError(f"{first.path}: no row with a label that occurs in the training rows")
        rows = replace(rows, validation=validation, test=test)
    measured = {label for row in rows.test for label in row.all_labels}
    if unmeasured := [label for label in labels if label not in measured]:
        more = ", ..." if len(unmeasured) > LABELS_LISTED else ""
        listed = ", ".join(unmeasured[:LABELS_LISTED]) + more
        say(f"no test row has the label {listed} ({len(unmeasured):,} of {len(labels):,} labels)")
    return rows

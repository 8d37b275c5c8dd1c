"""The rows that fine-tuning reads: of which files, split into parts, weighted, known by a hash."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from llmstages.config.stages import FinetuneConfig
from llmstages.data.class_folders import class_files
from llmstages.data.labelled_files import data_files, weighted
from llmstages.data.split import alike_rows, normalised_text, split_examples, split_folds
from llmstages.errors import UserError
from llmstages.report.terminal import say, warn
from llmstages.train.checkpoint import Checkpoint, file_hash

R = TypeVar("R")


@dataclass(frozen=True)
class Rows(Generic[R]):
    """The rows of a labelled file, by what they are for."""

    train: list[R]
    validation: list[R]
    """Choose the best checkpoint."""
    test: list[R]
    """Give the final figures; the validation rows when no row is set apart for it."""
    overlap: dict[str, int] = field(default_factory=dict)
    """Rows that stand, equal or nearly so, in several of the files given: for `summary.json`."""


def finetune_rows(
    config: FinetuneConfig,
    read: Callable[[Path], list[R]],
    key: Callable[[R], str],
    label: Callable[[R], str] | None = None,
    answer: Callable[[R], str] | None = None,
    weights: Sequence[float] = (),
    fold: tuple[int, int] | None = None,
) -> Rows[R]:
    """Read labelled data and split it, unless its validation or test rows are given in files.

    key: the text by which rows are known that are equal or nearly so; they never stand in two
    parts. answer: the same for what is learnt. label: for stratified splits. weights: of each path
    in the data, for its share of the training rows. fold: (number, of how many) whose rows are the
    test rows.
    """
    parts = [read(Path(path)) for path in config.data_paths]
    rows = [row for part in parts for row in part]
    part_of = [number for number, part in enumerate(parts) for _ in part]
    given_validation = read(Path(config.validation_data)) if config.validation_data else []
    given_test = read(Path(config.test_data)) if config.test_data else []
    every = [*rows, *given_validation, *given_test]
    alike = alike_rows(
        [key(row) for row in every], None if answer is None else [answer(row) for row in every]
    )
    kept, overlap = _apart(
        *(config, [key(row) for row in every], alike, len(rows), len(given_validation))
    )
    seed = config.seed if config.split_seed is None else config.split_seed
    if fold is not None:
        assert label is not None
        number, num_folds = fold
        in_fold = split_folds(
            [key(rows[index]) for index in kept],
            [label(rows[index]) for index in kept],
            num_folds,
            seed,
            [alike[index] for index in kept],
        )
        given_test = [
            rows[index] for index, own in zip(kept, in_fold, strict=True) if own == number
        ]
        if not given_test:
            raise UserError(f"{described(config)}: too few rows for folds={num_folds}")
        kept = [index for index, own in zip(kept, in_fold, strict=True) if own != number]
    split = split_examples(
        [key(rows[index]) for index in kept],
        None if label is None else [label(rows[index]) for index in kept],
        config.validation_share if not given_validation else 0.0,
        config.test_share if not given_test else 0.0,
        seed,
        [alike[index] for index in kept],
    )
    validation = given_validation or [rows[kept[index]] for index in split.validation]
    test = given_test or [rows[kept[index]] for index in split.test]
    chosen = [kept[index] for index in split.train]
    if bool(validation) != bool(test):
        warn(
            "validation and test rows are the same: the final figures are those by which the best "
            "checkpoint was chosen"
        )
    validation = validation or test
    test = test or validation
    if not chosen or not validation:
        groups = len(set(alike[: len(rows)]))
        which = "" if groups == len(rows) else f", of which {groups} differ enough to be split,"
        raise UserError(
            f"{described(config)}: {len(rows)} rows{which} are too few to train on and to measure "
            "with: add rows, or give validation_data=FILE"
        )
    if not weights:
        return Rows([rows[index] for index in chosen], validation, test, overlap)
    training: list[list[R]] = [[] for _ in parts]
    for index in chosen:
        training[part_of[index]].append(rows[index])
    return Rows(_weighted_rows(config, training, weights), validation, test, overlap)


def _apart(
    config: FinetuneConfig,
    texts: Sequence[str],
    alike: Sequence[int],
    num_rows: int,
    num_validation: int,
) -> tuple[list[int], dict[str, int]]:
    """The rows of the data to train on where validation and test rows are given, and counts.

    By default those that no given row is like. Says how many are like one, and how many rows of
    the two files are alike. texts and alike are those of the data, then of the validation file,
    then of the test file.
    """
    begin_test = num_rows + num_validation
    in_validation = set(alike[num_rows:begin_test])
    held_out = in_validation | set(alike[begin_test:])
    apart = [index for index in range(num_rows) if alike[index] not in held_out]
    equal = 0
    left_out = config.overlap == "leave_out"
    if len(apart) < num_rows:
        equal_texts = {normalised_text(text) for text in texts[num_rows:]}
        equal = sum(normalised_text(text) in equal_texts for text in texts[:num_rows])
        warn(
            f"{described(config)}: {num_rows - len(apart):,} rows stand in the validation or test "
            f"file too and are {'left out of training' if left_out else 'trained on'}: {equal:,} "
            f"are equal, {num_rows - len(apart) - equal:,} nearly so"
        )
    both = sum(number in in_validation for number in alike[begin_test:])
    if both:
        warn(
            f"{config.test_data}: {both:,} of its {len(alike) - begin_test:,} rows are equal or "
            f"nearly so to rows of {config.validation_data}, by which the best checkpoint is chosen"
        )
    kept = apart if left_out else list(range(num_rows))
    if num_rows == len(alike):  # no file was given
        return kept, {}
    what = "left_out_as" if left_out else "kept_though"
    return kept, {
        f"training_rows_{what}_equal": equal,
        f"training_rows_{what}_nearly_equal": num_rows - len(apart) - equal,
        "test_rows_like_validation_rows": both,
    }


def _weighted_rows(
    config: FinetuneConfig, training: Sequence[Sequence[R]], weights: Sequence[float]
) -> list[R]:
    """The rows of an epoch in which each path of the data has its weight's share; says how many."""
    for path, part in zip(config.data_paths, training, strict=True):
        if not part:
            raise UserError(
                f"{path}: no row of it is left for training, and data_weights wants some"
            )
    train_rows, counts = weighted(training, weights, config.seed)
    for path, part, count in zip(config.data_paths, training, counts, strict=True):
        say(
            f"{path}: {count:,} rows an epoch, {count / len(train_rows):.0%} of all, from its "
            f"{len(part):,} training rows ({count / len(part):.2f} times each)"
        )
    return train_rows


def described(config: FinetuneConfig) -> str:
    """The data of a run for a message."""
    return ", ".join(config.data_paths)


def data_hash(paths: Sequence[str]) -> str:
    """Hash of all files of labelled data; of one file its sha256."""
    named: list[tuple[str, Path]] = []
    for path in paths:
        by_label = class_files(Path(path).expanduser())
        named += [(f"{label}/{file.name}", file) for label in by_label for file in by_label[label]]
        if not by_label:
            named += [(file.name, file) for file in data_files(path)]
    if len(named) == 1:
        return file_hash(named[0][1])
    together = "\n".join(f"{name} {file_hash(file)}" for name, file in named)
    return hashlib.sha256(together.encode(errors="surrogateescape")).hexdigest()


def warn_if_learnt(checkpoint: Checkpoint, name: str | None, path: str) -> None:
    """Say so where a checkpoint is asked the very file that it was tuned on, or a part of it."""
    recorded = None if checkpoint.info is None else checkpoint.info.lineage.data
    if recorded is not None and data_hash([path]) == recorded:
        warn(
            f"{name} was trained on {path}, but for the rows that it set aside: figures of what it "
            "has learnt say nothing of new texts"
        )

"""What a labelled file is for: labelled texts to classify, or conversations to learn answers from.

Only names and shapes of the columns are looked at. Nothing here imports torch: the command line
asks before Hydra starts.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from llmstages.data.class_folders import class_files
from llmstages.data.columns import (
    ANSWER_NAMES,
    INSTANCES_NAMES,
    LABEL_NAMES,
    MESSAGES_NAMES,
    PROMPT_NAMES,
    TEXT_NAMES,
    find_column,
    find_pair,
    listed_columns,
    only_preferences,
)
from llmstages.data.headerless import column_shapes, without_attribution
from llmstages.data.labelled_files import data_files
from llmstages.data.table import table_with_columns
from llmstages.errors import UserError

Kind = Literal["classify", "instruct"]

# A column of a headerless file with fewer distinct values than this share of the rows is a label.
LABEL_SHARE = 0.1
CHOOSE = "say which with text_column=... label_column=... or prompt_column=... answer_column=..."
KEYS_OF_KINDS: dict[str, Kind] = {
    "prompt_column": "instruct",
    "answer_column": "instruct",
    "text_column": "classify",
    "label_column": "classify",
    "label_separator": "classify",
}
"""Settings that say what a file is for, as they name its columns."""


def kind_of_keys(given: Collection[str]) -> Kind | None:
    """What a file is for by the settings given with it; None where they leave that open.

    Raises:
        UserError: they contradict each other.
    """
    by_kind = {KEYS_OF_KINDS[key]: key for key in given if key in KEYS_OF_KINDS}
    if len(by_kind) > 1:
        raise UserError(
            f"{by_kind['classify']} is for texts with labels, {by_kind['instruct']} for prompts "
            "with answers: keep one"
        )
    return next(iter(by_kind), None)


def detect_kinds(path: Path | str) -> set[Kind]:
    """What the files behind a path are for; a folder with a subfolder a label is one to classify.

    Raises:
        UserError: as `data_files` and `detect_kind`.
    """
    if class_files(Path(path).expanduser()):
        return {"classify"}
    return {detect_kind(file) for file in data_files(path)}


def detect_kind(path: Path | str) -> Kind:
    """What a labelled file is for: `classify` (text and label) or `instruct` (pairs or messages).

    Only its first rows are looked at. A file of two columns without header is for classification
    if exactly one column has fewer than 10 % distinct values, and holds pairs if neither has.

    Raises:
        UserError: it is neither, or could be both; says which columns were found.
    """
    path = Path(path)
    table = table_with_columns(path, "skip", [], quiet=True)
    if not table.has_header:
        return _headerless_kind(path)
    columns = table.columns
    listed = listed_columns(columns)
    if find_column(columns, MESSAGES_NAMES):
        return "instruct"
    prompt = find_column(columns, PROMPT_NAMES)
    answer = find_column(columns, ANSWER_NAMES, prompt) or find_column(columns, INSTANCES_NAMES)
    label = find_column(columns, LABEL_NAMES)
    pair_of_texts = find_pair(columns, label)
    text = pair_of_texts[0] if pair_of_texts else find_column(columns, TEXT_NAMES, label)
    pairs = prompt is not None and answer is not None
    if only_preferences(columns):
        return "instruct"  # with method=dpo, as the stage says
    # A question may be the text of a label or the prompt of an answer: with an answer beside it, it
    # is a prompt.
    if text is not None and label is not None and not (pairs and text in (prompt, answer)):
        if pairs:
            raise UserError(f"{path}: has both a text with a label and pairs ({listed}): {CHOOSE}")
        return "classify"
    if pairs:
        return "instruct"
    raise UserError(
        f"{path}: neither text and label nor prompt and answer nor messages among its columns "
        f"({listed}): {CHOOSE}"
    )


def _headerless_kind(path: Path) -> Kind:
    shapes = column_shapes(path)
    if shapes is None:
        raise UserError(f"{path}: plain text without columns: labelled rows are needed")
    columns = without_attribution(shapes)
    if len(columns) != 2:
        count = f"{len(shapes)} column{'s' if len(shapes) > 1 else ''}"
        raise UserError(
            f"{path}: no header and {count}: name two by their numbers, as prompt_column=1 "
            "answer_column=2, or text_column=1 label_column=2"
        )
    few = [shapes[name].num_distinct < LABEL_SHARE * shapes[name].num_rows for name in columns]
    if all(few):
        raise UserError(
            f"{path}: no header, and both columns have few different values: name them, as "
            "text_column=1 label_column=2, or prompt_column=1 answer_column=2"
        )
    return "classify" if any(few) else "instruct"

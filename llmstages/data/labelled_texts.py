"""Texts, with labels to learn a classification from or without to apply it to.

Columns are found by their names (case does not matter, see `TEXT_NAMES` and `LABEL_NAMES` in
`llmstages.data.columns`) and can always be named. A row without a label is a bad row: refused or
skipped like one that cannot be read. Mails and texts in files of their own have the label of their
folder (`llmstages.data.class_folders`). Nothing here imports torch.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from llmstages.data.cells import as_text, kind_of, number_text, required_text
from llmstages.data.class_folders import (
    class_files,
    files_below,
    is_mail,
    read_documents,
    said_aside,
)
from llmstages.data.columns import (
    ID_NAMES,
    LABEL_NAMES,
    TEXT_NAMES,
    find_column,
    require_column,
)
from llmstages.data.headerless import ColumnShape, column_shapes
from llmstages.data.rows import Row, Unusable, shown
from llmstages.data.table import Table, table_with_columns
from llmstages.errors import UserError

logger = logging.getLogger("llmstages")

LABELS_LISTED = 8
"""Labels named in a message about one that is unknown."""


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, its label, the line it stands on (of a mailbox the message) and the file."""

    text: str
    label: str
    line: int
    path: str = field(default="", compare=False)


def read_labelled_texts(
    path: Path | str,
    text_column: str | None = None,
    label_column: str | None = None,
    bad_rows: str = "refuse",
    aside: Counter[str] | None = None,
) -> list[LabelledText]:
    """Read a file with a text and a label in each row, or a folder with a subfolder a label.

    Whole numbers and truth values become strings (`1`, `true`); an empty text is kept. A file
    without header has the label in the column with fewer distinct values.

    aside: counts what is left out, by reason; of a great many rows the first are told apart.

    Raises:
        UserError: a column is missing, a row is bad (with `bad_rows="refuse"`), there is no row, or
            all rows have the same label.
    """
    aside = Counter() if aside is None else aside
    where, column = Path(path).expanduser(), "of folders"
    if by_label := class_files(where):
        examples = _texts_of_folder(where, by_label, aside)
    else:
        table, text, column = _labelled_table(where, text_column, label_column, bad_rows)
        examples = list(table.usable(lambda row: _labelled_text(table, row, text, column)))
        aside.update(reason for _, reason in table.skipped)
    if not examples:
        raise UserError(f"{path}: no row with a text and a label in it")
    counts = Counter(example.label for example in examples)
    if len(counts) == 1:
        raise UserError(
            f"{path}: all {len(examples):,} rows have the label {shown(repr(examples[0].label))}; "
            "classification needs two labels (is label_column right?)"
        )
    if len(counts) > 50 and len(counts) > len(examples) / 2:
        logger.warning(
            "%s: column %r has %d labels in %d rows: is label_column right?",
            *(path, column, len(counts), len(examples)),
        )
    return examples


def read_known_labels(
    path: Path | str,
    labels: Collection[str],
    text_column: str | None = None,
    label_column: str | None = None,
    bad_rows: str = "refuse",
) -> tuple[list[LabelledText], int]:
    """The same for a classifier that knows `labels`, and how many rows were skipped.

    A row with any other label is a bad row. All rows may have the same label.

    Raises:
        UserError: a column is missing, a row is bad (with `bad_rows="refuse"`), or no row is left.
    """
    where = Path(path).expanduser()
    if by_label := class_files(where):
        return _known_of_folder(where, by_label, labels, bad_rows)
    table, text, label = _labelled_table(where, text_column, label_column, bad_rows)

    def read(row: Row) -> LabelledText:
        example = _labelled_text(table, row, text, label)
        if example.label not in labels:
            raise Unusable(_unknown_label(example.label, labels))
        return example

    examples = list(table.usable(read))
    if not examples:
        raise UserError(f"{path}: no row with a text and a label that the classifier knows")
    return examples, table.bad.count


def read_texts(
    path: Path | str,
    text_column: str | None = None,
    bad_rows: str = "refuse",
    id_column: str | None = None,
) -> Iterator[tuple[int | str, str]]:
    """Id and text of each row, streamed; a label column is not needed.

    The id is that of `id_column`, without which a row is a bad one; else of a column `id`; else,
    and where that is empty, the line. A plain text file has one text a line. With
    `bad_rows="refuse"` nothing is handed out after the first bad row, and the `UserError` comes at
    the end of the file. Of mail, and of the mails and texts in a folder, the id is the file's name.
    """
    path = Path(path).expanduser()
    if path.is_dir() or is_mail(path):
        return _texts_of_files(path)
    named = [name for name in (text_column, id_column) if name is not None]
    if text_column is None and (shapes := column_shapes(path, named)):
        text_column = max(shapes, key=lambda name: shapes[name].mean_length)
    table = table_with_columns(path, bad_rows, named)
    only = table.columns[0] if len(table.columns) == 1 else None
    if id_column is not None:
        id_column = require_column(path, table.columns, "id", id_column, ID_NAMES)
    text = require_column(
        path, table.columns, "text", text_column or only, TEXT_NAMES, taken=id_column
    )
    known = find_column(table.columns, ID_NAMES, taken=text)

    def read(row: Row) -> tuple[int | str, str]:
        found = required_text(row.values, text)
        if id_column is not None:
            return _id(row.values.get(id_column), id_column), found
        value = row.values.get(known) if known is not None else None
        return (row.line if value in (None, "") else _id(value, known or "")), found

    return table.usable(read)


def _texts_of_files(path: Path) -> Iterator[tuple[int | str, str]]:
    """Name and text of mails and texts in a folder, or in one file."""
    aside: Counter[str] = Counter()
    folder, files = (path, files_below(path)) if path.is_dir() else (path.parent, [path])
    for document in read_documents(files, aside):
        yield document.id_below(folder), document.text
    said_aside(path, aside)


def _texts_of_folder(
    path: Path, by_label: Mapping[str, list[Path]], aside: Counter[str]
) -> list[LabelledText]:
    """The mails and texts of each label's files; says what is set aside."""
    found: Counter[str] = Counter()
    examples = [
        LabelledText(document.text, label, document.number, str(document.path))
        for label, files in by_label.items()
        for document in read_documents(files, found)
    ]
    said_aside(path, found)
    aside.update(found)
    return examples


def _known_of_folder(
    path: Path, by_label: Mapping[str, list[Path]], labels: Collection[str], bad_rows: str
) -> tuple[list[LabelledText], int]:
    """`read_known_labels` of a folder: a subfolder with another name is a bad row."""
    aside: Counter[str] = Counter()
    for label in by_label.keys() - labels:
        if bad_rows == "refuse":
            raise UserError(
                f"{path / label}: {_unknown_label(label, labels)} "
                "(leave the folder out with bad_rows=skip)"
            )
        aside["of an unknown label"] += len(by_label[label])
    known = {label: files for label, files in by_label.items() if label in labels}
    examples = _texts_of_folder(path, known, aside)
    if not examples:
        raise UserError(f"{path}: no text with a label that the classifier knows")
    return examples, aside.total()


def _id(value: object, name: str) -> int | str:
    """An id as it is: whole numbers stay numbers."""
    if value is None or value == "":
        raise Unusable(f"no {name!r}")
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return as_text(value, name)


def _labelled_table(
    path: Path, text_column: str | None, label_column: str | None, bad_rows: str
) -> tuple[Table, str, str]:
    """An opened file, and its columns of texts and labels."""
    named = [name for name in (text_column, label_column) if name is not None]
    if len(named) < 2 and (shapes := column_shapes(path, named)):
        text_column, label_column = _headerless_columns(path, shapes, text_column, label_column)
    table = table_with_columns(path, bad_rows, named)
    label = require_column(path, table.columns, "label", label_column, LABEL_NAMES)
    text = require_column(path, table.columns, "text", text_column, TEXT_NAMES, taken=label)
    return table, text, label


def _labelled_text(table: Table, row: Row, text: str, label: str) -> LabelledText:
    return LabelledText(
        required_text(row.values, text), _label(row, label), row.line, str(table.path)
    )


def _unknown_label(label: str, labels: Collection[str]) -> str:
    """What is wrong with a label that a classifier does not know, and the nearest that it does."""
    near = get_close_matches(label, labels, n=1)
    listed = ", ".join(map(repr, sorted(labels)[:LABELS_LISTED]))
    more = ", ..." if len(labels) > LABELS_LISTED else ""
    hint = f"did you mean {near[0]!r}?" if near else f"it knows {shown(listed + more, 200)}"
    return f"the classifier has no label {shown(repr(label))}: {hint}"


def _label(row: Row, name: str) -> str:
    """The label of a row, white space around it left out."""
    value = row.values.get(name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return number_text(value, name)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if value is None or isinstance(value, str):
        raise Unusable(f"no label in {name!r}")
    raise Unusable(f"label {name!r} is no text but {kind_of(value)}; one label a row is needed")


def _headerless_columns(
    path: Path, shapes: Mapping[str, ColumnShape], text: str | None, label: str | None
) -> tuple[str, str]:
    """Text and label of two columns without names: the label is the one with fewer values."""
    advice = "name them, such as text_column=1 label_column=2"
    if len(shapes) == 1:
        raise UserError(f"{path}: one column only; a text and a label are needed")
    if len(shapes) > 2:
        raise UserError(f"{path}: no header and {len(shapes)} columns: {advice}")
    first, second = shapes
    if text is not None or label is not None:
        given = text if text is not None else label
        other = second if given == first else first
        return (text or other), (label or other)
    distinct = shapes[first].num_distinct, shapes[second].num_distinct
    if distinct[0] == distinct[1]:
        raise UserError(f"{path}: no header, and either column could be the label: {advice}")
    return (second, first) if distinct[0] < distinct[1] else (first, second)

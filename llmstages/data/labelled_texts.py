"""Texts, with labels to learn a classification from or without to apply it to.

Columns are found by their names (case does not matter, see `TEXT_NAMES` and `LABEL_NAMES` in
`llmstages.data.columns`) and can always be named. A row without a label is a bad row: refused or
skipped like one that cannot be read. Mails and texts in files of their own have the label of their
folder (`llmstages.data.class_folders`). Nothing here imports torch.
"""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from llmstages.data.cells import as_text, kind_of, number_text, required_text
from llmstages.data.class_folders import (
    are_rows,
    class_files,
    files_below,
    is_mail,
    kind_of_document,
    read_documents,
    readable,
    said_aside,
)
from llmstages.data.columns import (
    ID_NAMES,
    LABEL_NAMES,
    TEXT_NAMES,
    column_key,
    find_column,
    find_pair,
    require_column,
)
from llmstages.data.headerless import ColumnShape, column_shapes
from llmstages.data.opening import check_file
from llmstages.data.rows import BadRows, Row, Unusable, shown
from llmstages.data.table import Table, read_rows, table_with_columns
from llmstages.data.text_template import TextTemplate
from llmstages.errors import UserError

logger = logging.getLogger("llmstages")

LABELS_LISTED = 8
"""Labels named in a message about one that is unknown."""
ROWS_LOOKED_AT = 200
"""For lists of labels."""
TRUTHS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


Columns = str | Sequence[str] | None
"""A column or several, as a user names them; None: found by its name."""


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, its label, the line it stands on (of a mailbox the message) and the file."""

    text: str
    label: str
    """Of a text with any number of labels all of them, for messages."""
    line: int
    path: str = field(default="", compare=False)
    labels: tuple[str, ...] | None = None
    """Of a text that may have any number of labels: those it has."""

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The one label, or the labels, of a text."""
        return (self.label,) if self.labels is None else self.labels


def read_labelled_texts(
    path: Path | str,
    text_column: Columns = None,
    label_column: Columns = None,
    bad_rows: str = "refuse",
    aside: Counter[str] | None = None,
    *,
    label_separator: str | None = None,
    template: TextTemplate | None = None,
    bad: BadRows | None = None,
    one_label: bool = False,
) -> list[LabelledText]:
    """Read a file with a text and a label in each row, or a folder with a subfolder a label.

    Whole numbers and truth values become strings (`1`, `true`); an empty text is kept. A file
    without header has the label in the column with fewer distinct values.

    text_column: several are joined by `template`; without it, two that are known to be judged
    together are. label_column: several hold 0 or 1. Then, with
    `label_separator` and where a label is a list, texts have any number of labels. aside: counts
    what is left out, by reason; of a great many rows the first are told apart. bad: becomes the
    same rows with their lines. one_label: all rows may have the same label.

    Raises:
        UserError: a column is missing, a row is bad (with `bad_rows="refuse"`), there is no row, or
            all rows have the same label (without `one_label`).
    """
    aside = Counter() if aside is None else aside
    where = Path(path)
    if by_label := class_files(where):
        examples, column = _texts_of_folder(where, by_label, aside), "of folders"
    else:
        names = as_names(text_column)
        if template is None and len(names) < 2:
            template = found_template(where, text_column, label_column)
        table = _open(where, names, label_column, bad_rows, label_separator, template)
        examples = list(table.rows.usable(table.read))
        aside.update(reason for _, reason in table.rows.skipped)
        if bad is not None:
            bad.count, bad.rows = table.rows.bad.count, table.rows.skipped
        column = ", ".join(table.labels.names)
    if not examples:
        raise UserError(f"{path}: no row with a text and a label in it")
    counts = Counter(example.label for example in examples)
    if examples[0].labels is not None:
        if not any(example.labels for example in examples):
            raise UserError(f"{path}: no row has any of the labels in {column}")
        return examples
    if len(counts) == 1 and not one_label:
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
    text_column: Columns = None,
    label_column: Columns = None,
    bad_rows: str = "refuse",
    *,
    multi_label: bool = False,
    label_separator: str | None = None,
    template: TextTemplate | None = None,
) -> tuple[list[LabelledText], int]:
    """The same for a classifier that knows `labels`, and how many rows were skipped.

    A row with any other label is a bad row. All rows may have the same label. With `multi_label`,
    texts have any number of labels, and columns of their names are found.

    Raises:
        UserError: a column is missing, a row is bad (with `bad_rows="refuse"`), or no row is left.
    """
    where = Path(path)
    if by_label := class_files(where):
        examples, num_aside = _known_of_folder(where, by_label, labels, bad_rows)
        if multi_label:
            examples = [replace(example, labels=(example.label,)) for example in examples]
        return examples, num_aside
    wanted = list(labels) if multi_label else []
    table = _open(where, text_column, label_column, bad_rows, label_separator, template, wanted)
    if table.labels.multi_label and not multi_label:
        raise UserError(f"{path}: several labels a row, and the classifier gives one")

    def read(row: Row) -> LabelledText:
        example = table.read(row)
        for label in example.all_labels:
            if label not in labels:
                raise Unusable(_unknown_label(label, labels))
        return example

    examples = list(table.rows.usable(read))
    if not examples:
        raise UserError(f"{path}: no row with a text and a label that the classifier knows")
    return examples, table.rows.bad.count


def found_template(
    path: Path | str,
    text_column: Columns = None,
    label_column: Columns = None,
    text_template: str | None = None,
) -> TextTemplate | None:
    """The column of the texts of a file's rows, or how several are joined; None: it has no names.

    Two columns that are known to be judged together are joined.
    """
    where = Path(path)
    names = as_names(text_column)
    if len(names) < 2 and not class_files(where):
        labels = as_names(label_column)
        table = table_with_columns(where, "skip", [*names, *labels], quiet=True)
        if table.has_header:
            taken = _found(table, labels, LABEL_NAMES)
            one = _found(table, names, TEXT_NAMES, taken)
            pair = [] if names else find_pair(table.columns, taken)
            names = pair or ([] if one is None else [one])
    if text_template is not None and len(names) < 2:
        raise UserError("text_template joins several columns: name them with text_column=[...]")
    return TextTemplate.of(names, text_template) if names else None


def as_names(columns: Columns) -> list[str]:
    """The names of columns; those of a file without header are numbers."""
    if columns is None:
        return []
    return [str(name) for name in ([columns] if isinstance(columns, (str, int)) else columns)]


def read_texts(
    path: Path | str,
    text_column: Columns = None,
    bad_rows: str = "refuse",
    id_column: str | None = None,
    template: TextTemplate | None = None,
) -> Iterator[tuple[int | str, str]]:
    """Id and text of each row, streamed; a label column is not needed.

    The id is that of `id_column`, without which a row is a bad one; else of a column `id`; else,
    and where that is empty, the line. A plain text file has one text a line. With
    `bad_rows="refuse"` nothing is handed out after the first bad row, and the `UserError` comes at
    the end of the file. Of mail, and of the mails and texts in a folder, the id is the file's name.
    template: by which the texts of several columns are joined; without it, one is read.
    """
    path = Path(path)
    if os.path.isdir(path) or is_mail(path):
        if template is not None and template.joins:
            raise UserError(f"{path}: {_pairs_wanted(template)}")
        return _texts_of_files(path)
    names = as_names(text_column) or _joined_columns(template)
    named = [*names, *([] if id_column is None else [id_column])]
    if not names and (shapes := column_shapes(path, named)):
        names = [max(shapes, key=lambda name: shapes[name].mean_length)]
    table = table_with_columns(path, bad_rows, named)
    if len(table.columns) == 1:
        names = names or [table.columns[0]]
    if id_column is not None:
        id_column = require_column(path, table.columns, "id", id_column, ID_NAMES)
    text = _text_reader(table, names, template, taken=id_column)
    known = find_column(table.columns, ID_NAMES, taken=text.names[0])

    def read(row: Row) -> tuple[int | str, str]:
        found = text(row)
        if id_column is not None:
            return _id(row.values.get(id_column), id_column), found
        value = row.values.get(known) if known is not None else None
        return (row.line if value in (None, "") else _id(value, known or "")), found

    return table.usable(read)


def _texts_of_files(path: Path) -> Iterator[tuple[int | str, str]]:
    """Name and text of mails and texts in a folder, or in one file, streamed."""
    folder, files = (path, files_below(path)) if path.is_dir() else (path.parent, [path])
    if are_rows(files):
        check_file(path)  # a folder of tables is refused, and its files are named
    if not any(kind_of_document(file) for file in files):
        raise UserError(f"{path}: no mail (.eml, .mbox) and no text (.txt) in it")

    def read() -> Iterator[tuple[int | str, str]]:
        aside: Counter[str] = Counter()
        for document in read_documents(files, aside):
            yield document.id_below(folder), document.text
        said_aside(path, aside)

    return read()


def _texts_of_folder(
    path: Path, by_label: Mapping[str, list[Path]], aside: Counter[str]
) -> list[LabelledText]:
    """The mails and texts of each label's files; says what is set aside."""
    found: Counter[str] = Counter()
    examples = [
        LabelledText(document.text, label, document.number, readable(document.path))
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


@dataclass(frozen=True)
class _TextReader:
    """The columns of a row's text, and how they are joined."""

    names: list[str]
    template: TextTemplate | None

    def __call__(self, row: Row) -> str:
        texts = [required_text(row.values, name) for name in self.names]
        return texts[0] if self.template is None else self.template.fill(texts)


@dataclass(frozen=True)
class _LabelReader:
    """The columns of a row's labels, and whether it may have any number of them."""

    names: list[str]
    multi_label: bool
    separator: str | None
    own_columns: bool
    """Each label has a column that says whether it is true."""

    def __call__(self, row: Row) -> tuple[str, ...]:
        if self.own_columns:
            return tuple(name for name in self.names if _truth(row, name))
        if not self.multi_label:
            return (_label(row, self.names[0]),)
        value = row.values.get(self.names[0])
        if value is None:
            raise Unusable(f"no label in {self.names[0]!r}")
        if isinstance(value, str) and self.separator is not None:
            value = [part for part in value.split(self.separator) if part.strip()]
        parts = value if isinstance(value, list) else [value]
        found = [_label(Row(row.line, {self.names[0]: part}), self.names[0]) for part in parts]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class _LabelledRows:
    """An opened file, and what its columns are for."""

    rows: Table
    text: _TextReader
    labels: _LabelReader

    def read(self, row: Row) -> LabelledText:
        text, labels = self.text(row), self.labels(row)
        multi = labels if self.labels.multi_label else None
        return LabelledText(text, ", ".join(labels), row.line, readable(self.rows.path), multi)


def _open(
    path: Path,
    text_column: Columns,
    label_column: Columns,
    bad_rows: str,
    separator: str | None,
    template: TextTemplate | None,
    known_labels: Sequence[str] = (),
) -> _LabelledRows:
    """A file of rows, and its columns of texts and labels.

    known_labels: of a classifier whose texts have any number of them; columns of their names are
    found.
    """
    texts = as_names(text_column) or _joined_columns(template)
    labels = as_names(label_column)
    several = isinstance(label_column, Sequence) and not isinstance(label_column, str)
    named = [*texts, *labels]
    if len(named) < 2 and (shapes := column_shapes(path, named)):
        only = (next(iter(texts), None), next(iter(labels), None))
        text, label = _headerless_columns(path, shapes, *only)
        texts, labels = [text], [label]
    table = table_with_columns(path, bad_rows, named)
    if known_labels and not labels and set(known_labels) <= set(table.columns):
        labels, several = list(known_labels), True
    found = [
        require_column(path, table.columns, "label", name, LABEL_NAMES)
        for name in (labels if labels else (None,))
    ]
    lists = len(found) == 1 and _holds_lists(table, found[0])
    multi = several or lists or separator is not None or bool(known_labels)
    own_columns = several and not lists
    return _LabelledRows(
        table,
        _text_reader(table, texts, template, found[0]),
        _LabelReader(found, multi, separator, own_columns),
    )


def _text_reader(
    table: Table, names: Sequence[str], template: TextTemplate | None, taken: str | None
) -> _TextReader:
    """The columns of texts: those named, else the template's, else one found by its name."""
    if not names and template is not None and (one := _found(table, template.columns, ())):
        names = [one]
    found = [
        require_column(table.path, table.columns, "text", name, TEXT_NAMES, taken)
        for name in (names if names else (None,))
    ]
    if template is not None and len(template.columns) != len(found):
        raise UserError(f"{table.path}: {_pairs_wanted(template)}")
    if len(found) == 1:
        return _TextReader(found, None)
    return _TextReader(found, template or TextTemplate.of(found))


def _joined_columns(template: TextTemplate | None) -> list[str]:
    return list(template.columns) if template is not None and template.joins else []


def _found(
    table: Table, named: Sequence[str], known: Sequence[str], taken: str | None = None
) -> str | None:
    """The column that is named, else the one with a known name, as far as there is one."""
    if not named:
        return find_column(table.columns, known, taken)
    name = named[0]
    return name if name in table.columns else find_column(table.columns, (column_key(name),))


def _pairs_wanted(template: TextTemplate) -> str:
    listed = ",".join(template.columns)
    if not template.joins:
        return f"the classifier reads one text a row: name one column, text_column={listed}"
    return f"the classifier reads the texts of several columns: name them, text_column=[{listed}]"


def _holds_lists(table: Table, name: str) -> bool:
    """Whether a column of labels holds a list in one of the first rows."""
    if table.format in ("csv", "tsv", "lines"):
        return False
    first = itertools.islice(read_rows(table.path, quiet=True).rows, ROWS_LOOKED_AT)
    return any(isinstance(row.values.get(name), list) for row in first)


def _truth(row: Row, name: str) -> bool:
    """Whether a label that has a column of its own is true of a row."""
    value = row.values.get(name)
    truth = TRUTHS.get(str(value).strip().casefold())
    if truth is None:
        found = "empty" if value is None else shown(repr(value))
        raise Unusable(f"label {name!r} is {found}, neither 0 nor 1")
    return truth


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

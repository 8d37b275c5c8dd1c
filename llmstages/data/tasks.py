"""Tasks: files of questions that a language model is asked without having been tuned on them.

What a file is for is found by its columns:

- `choices`: `query`, `choices` and `gold`, the number of the right one counted from 0; or
  `sentence_good` and `sentence_bad` (BLiMP), of which the first is to be the likelier one;
- `last_word`: `context` and `continuation` (LAMBADA), or texts alone, whose last word is guessed;
- `labels`: a text and a label, each label a choice;
- `answers`: a prompt and an answer, which the model writes itself.

A question is written as EleutherAI's lm-evaluation-harness writes it: after the prompt, which
never ends in white space, comes a space and then what is scored; examples in front of it are
followed by a blank line. Nothing here imports torch.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from llmstages.data.cells import required_text
from llmstages.data.class_folders import class_files
from llmstages.data.columns import (
    ANSWER_NAMES,
    INSTANCES_NAMES,
    LABEL_NAMES,
    TEXT_NAMES,
    find_column,
    only_preferences,
)
from llmstages.data.conversations import conversations_and_bad_rows
from llmstages.data.file_kind import detect_kinds, kind_of_keys
from llmstages.data.labelled_files import data_files
from llmstages.data.labelled_texts import Columns, LabelledText, read_labelled_texts
from llmstages.data.order import generator_for, permutation
from llmstages.data.rows import BadRows, Row, Unusable, shown
from llmstages.data.table import Table, table_with_columns
from llmstages.errors import UserError
from llmstages.text.chat import Message

Kind = Literal["choices", "last_word", "labels", "answers"]

BETWEEN = " "
"""Between a prompt and what is scored after it."""
BETWEEN_EXAMPLES = "\n\n"
PLACE = "{text}"
"""Where the text of a row stands in a template."""
TEMPLATES: dict[Kind, str] = {
    "choices": PLACE,
    "last_word": PLACE,
    "labels": f"Text: {PLACE}\nLabel:",
    "answers": f"Question: {PLACE}\nAnswer:",
}
QUESTION, ANSWER = "Question:", "\nAnswer:"
"""A query that begins with the first gets the second behind it, as in the harness's own tasks."""


@dataclass(frozen=True)
class Reading:
    """How a file of questions is read."""

    text_column: Columns = None
    label_column: Columns = None
    prompt_column: str | None = None
    answer_column: str | None = None
    bad_rows: str = "refuse"
    template: str | None = None
    """How a text becomes a prompt; null: as `TEMPLATES` say."""
    label_words: Mapping[str, str] | None = None
    """What a label is called in prompts."""


@dataclass(frozen=True)
class Item:
    """A question: `prompt`, and texts of which one is to follow it."""

    prompt: str
    choices: tuple[str, ...]
    """One where a word is guessed, or an answer is written."""
    gold: int
    line: int
    path: str
    turns: tuple[Message, ...] = ()
    """Where an answer is written: what stands before it in a conversation, without the template."""

    @property
    def answer(self) -> str:
        """The text that is right."""
        return self.choices[self.gold]

    def asks_the_same(self, other: "Item") -> bool:
        """Whether another question would give this one away."""
        return self.prompt == other.prompt and (
            bool(self.prompt) or set(self.choices) == set(other.choices)
        )


@dataclass(frozen=True)
class Task:
    """The questions of a file, or of the files in a folder."""

    name: str
    """Of the file or folder, without suffix."""
    kind: Kind
    items: tuple[Item, ...]
    num_skipped: int = 0
    """Rows that were left out."""
    shots: int = 0
    """Examples in front of each question."""
    pool: tuple[Item, ...] | None = None
    """What they are taken from; None: the other questions."""
    known: tuple[str, ...] = ()
    """The labels as the files have them, in the order of the choices."""
    seed: int = 0

    def examples(self, index: int) -> list[Item]:
        """The examples in front of question `index`, drawn by the seed and the question's line:
        never the same question, wherever it stands; fewer only where there are no others."""
        if not self.shots:
            return []
        pool = self.items if self.pool is None else self.pool
        asked = self.items[index]
        count = self.shots
        while True:
            count = min(len(pool), count + self.shots + 1)
            generator = generator_for("shots", self.seed, asked.line)
            drawn = generator.choice(len(pool), count, replace=False)
            others = [pool[number] for number in drawn if not asked.asks_the_same(pool[number])]
            if len(others) >= self.shots or count == len(pool):
                return others[: self.shots]

    def prompt(self, index: int) -> str:
        """The prompt of question `index`, examples in front of it; no white space at its end."""
        examples = [
            f"{item.prompt}{BETWEEN}{item.answer}".lstrip() for item in self.examples(index)
        ]
        return BETWEEN_EXAMPLES.join([*examples, self.items[index].prompt]).rstrip()

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Of a task with labels: what all of its questions can be answered with."""
        return self.items[0].choices

    def sample(self, count: int | None) -> "Task":
        """So many of the questions, spread over all, the same at each call; None: all."""
        if count is None or count >= len(self.items):
            return self
        chosen = sorted(permutation(len(self.items), "items", self.seed)[:count].tolist())
        pool = self.items if self.pool is None else self.pool
        return replace(self, items=tuple(self.items[index] for index in chosen), pool=pool)


@dataclass(frozen=True)
class _Part:
    """What a file gives: questions, or rows with labels, of which questions are made."""

    kind: Kind
    items: Sequence[Item] = ()
    num_skipped: int = 0
    rows: Sequence[LabelledText] = ()


def read_task(
    path: Path | str,
    reading: Reading | None = None,
    *,
    seed: int = 0,
    pool: Task | None = None,
    one_label: bool = False,
) -> Task:
    """Read a file of questions, or all files of a folder, which must be of one kind.

    pool: questions whose labels can be given too. one_label: all rows may have the same.

    Raises:
        UserError: it is none; a row is bad (with `bad_rows="refuse"`); no row is left.
    """
    reading = reading or Reading()
    where = Path(path).expanduser()
    files = data_files(where)
    if where.is_dir() and class_files(where):
        files = [where]
    parts = [_read_file(file, reading) for file in files]
    kinds = {part.kind for part in parts}
    if len(kinds) > 1:
        raise UserError(f"{path}: files of different kinds ({', '.join(sorted(kinds))})")
    items = [item for part in parts for item in part.items]
    rows = [row for part in parts for row in part.rows]
    known = tuple(sorted({row.label for row in rows} | set(() if pool is None else pool.known)))
    if rows:
        if len(known) < 2 and not one_label:
            raise UserError(
                f"{path}: all {len(rows):,} rows have the label {shown(repr(known[0]))}: none "
                "other to choose (is label_column right? shots_data= brings its labels)"
            )
        items = label_items(rows, known, reading, path)
    if not items:
        raise UserError(f"{path}: no question in it")
    name = where.name if where.is_dir() else where.name.partition(".")[0]
    num_skipped = sum(part.num_skipped for part in parts)
    return Task(name, kinds.pop(), tuple(items), num_skipped, known=known, seed=seed)


def with_shots(task: Task, shots: int, pool: Task | None = None) -> Task:
    """The task with so many examples in front of each question, of its own or of another file.

    Raises:
        UserError: there are too few, or they are of another kind.
    """
    if pool is not None and pool.kind != task.kind:
        raise UserError(f"examples of {pool.kind} for a task of {task.kind} ({task.name})")
    available = len(task.items) - 1 if pool is None else len(pool.items)
    if shots > available:
        raise UserError(f"shots={shots}: {task.name} has {available:,} examples to take")
    return replace(task, shots=shots, pool=task.items if pool is None else pool.items)


def _read_file(path: Path, reading: Reading) -> _Part:
    keys = ("prompt_column", "answer_column", "text_column", "label_column")
    kind = kind_of_keys([key for key in keys if getattr(reading, key) is not None])
    if kind is None and not path.is_dir():
        table = table_with_columns(path, reading.bad_rows, [])
        columns = set(table.columns)
        if {"query", "choices", "gold"} <= columns:
            return _usable("choices", table, lambda row: _choices(row, path, reading))
        if {"sentence_good", "sentence_bad"} <= columns:
            return _usable("choices", table, lambda row: _sentences(row, path))
        if {"context", "continuation"} <= columns:
            return _usable("last_word", table, lambda row: _continuation(row, path, reading))
        text = find_column(table.columns, TEXT_NAMES)
        taught = find_column(table.columns, (*LABEL_NAMES, *ANSWER_NAMES, *INSTANCES_NAMES))
        if text is not None and taught is None and not only_preferences(table.columns):
            return _usable("last_word", table, lambda row: _last_word(row, text, path, reading))
        del table
    if kind is None:
        (kind,) = detect_kinds(path)
    return _labels(path, reading) if kind == "classify" else _answers(path, reading)


def _usable(kind: Kind, table: Table, read: Callable[[Row], Item]) -> _Part:
    items = list(table.usable(read))  # which counts the rows that are left out
    return _Part(kind, items, table.bad.count)


def _choices(row: Row, path: Path, reading: Reading) -> Item:
    query = required_text(row.values, "query").rstrip()
    choices = row.values.get("choices")
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) and choice.strip() for choice in choices)
    ):
        raise Unusable("'choices' is no list of two texts or more")
    gold = row.values.get("gold")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise Unusable(
            f"'gold' is {shown(repr(gold))}, not the number of a choice, 0 to {len(choices) - 1}"
        )
    prompt = _filled(query, "choices", reading)
    if reading.template is None and query.startswith(QUESTION) and ANSWER not in query:
        prompt += ANSWER
    return Item(prompt, tuple(choices), gold, row.line, str(path))


def _sentences(row: Row, path: Path) -> Item:
    pair = tuple(required_text(row.values, f"sentence_{name}") for name in ("good", "bad"))
    return Item("", pair, 0, row.line, str(path))


def _continuation(row: Row, path: Path, reading: Reading) -> Item:
    context = required_text(row.values, "context").rstrip()
    continuation = required_text(row.values, "continuation").strip()
    if not context or not continuation:
        raise Unusable("'context' or 'continuation' is empty")
    prompt = _filled(context, "last_word", reading)
    return Item(prompt, (continuation,), 0, row.line, str(path))


def _last_word(row: Row, text: str, path: Path, reading: Reading) -> Item:
    *before, word = required_text(row.values, text).rsplit(maxsplit=1) or [""]
    context = before[0] if before else ""
    if not context.strip() or not word:
        raise Unusable(f"{text!r} has fewer than two words: there is no last one to guess")
    return Item(_filled(context, "last_word", reading), (word,), 0, row.line, str(path))


def _labels(path: Path, reading: Reading) -> _Part:
    bad = BadRows(path, "skip")
    columns = (reading.text_column, reading.label_column)
    rows = read_labelled_texts(path, *columns, reading.bad_rows, bad=bad, one_label=True)
    if rows[0].labels is not None:
        raise UserError(f"{path}: several labels a row; choices exclude each other")
    return _Part("labels", (), bad.count, rows)


def label_items(
    rows: Sequence[LabelledText], known: Sequence[str], reading: Reading, path: Path | str
) -> list[Item]:
    """Texts as questions of which label they have, each of the `known` ones a choice.

    Raises:
        UserError: `label_words` names a label that is not known, or two by one word.
    """
    words = dict(reading.label_words or {})
    if unknown := [label for label in words if label not in known]:
        raise UserError(
            f"label_words names {unknown[0]!r}, no label of {path} ({shown(', '.join(known))})"
        )
    choices = tuple(words.get(label, label) for label in known)
    if len(set(choices)) < len(choices):
        raise UserError(f"label_words={words}: two labels are called the same")
    numbers = {label: number for number, label in enumerate(known)}
    return [
        Item(
            *(_filled(row.text, "labels", reading), choices, numbers[row.label], row.line),
            row.path,
        )
        for row in rows
    ]


def _answers(path: Path, reading: Reading) -> _Part:
    columns = (reading.prompt_column, reading.answer_column)
    conversations, bad = conversations_and_bad_rows(path, *columns, reading.bad_rows)
    items = []
    for conversation in conversations:
        *before, answer = conversation.messages
        asked = BETWEEN_EXAMPLES.join(message.content.strip() for message in before)
        prompt = _filled(asked, "answers", reading)
        items.append(
            Item(
                *(prompt, (answer.content.strip(),), 0, conversation.line, conversation.path),
                tuple(before),
            )
        )
    return _Part("answers", items, bad.count)


def _filled(text: str, kind: Kind, reading: Reading) -> str:
    """The prompt of a text, without white space at its end."""
    template = reading.template or TEMPLATES[kind]
    return template.replace(PLACE, text).rstrip()


def as_template(typed: str) -> str:
    """A template as a user types it, in which `\\n` is the end of a line. `UserError` without a
    place for the text."""
    template = re.sub(r"\\n", "\n", typed)
    if PLACE not in template:
        raise UserError(f"template={typed!r} has no place for {PLACE}")
    return template

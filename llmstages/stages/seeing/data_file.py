"""What a data file holds: its format, columns and rows, and what fine-tuning would take it for.

torch is imported only where a base reads conversations (`llmstages.stages.seeing.conversations`).
"""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmstages.config.uses import InspectConfig
from llmstages.data.class_folders import class_files, files_below, is_mail, read_documents
from llmstages.data.columns import only_preferences
from llmstages.data.conversations import Conversation, conversations_and_bad_rows
from llmstages.data.file_kind import KEYS_OF_KINDS, detect_kind, kind_of_keys
from llmstages.data.labelled_texts import (
    LabelledText,
    as_names,
    found_template,
    read_labelled_texts,
)
from llmstages.data.opening import check_file
from llmstages.data.preferences import Preference, preferences_and_bad_rows
from llmstages.data.rows import BadRows, Row, place
from llmstages.data.split import alike_rows, normalised_text
from llmstages.data.table import read_rows
from llmstages.errors import UserError
from llmstages.report.facts import show_facts, show_line, show_passage
from llmstages.report.terminal import progress, table

if TYPE_CHECKING:
    from llmstages.stages.seeing.conversations import Reader, Rendered

MAX_LABELS_SHOWN = 30
MAX_COLUMNS_SHOWN = 30
MAX_REASONS_SHOWN = 10
DEFAULT_BASE = "runs/pretrain"
# Distinct values of a column are counted up to this many; more is "many".
MAX_DISTINCT = 100_000
MAX_COLUMNS = 10_000
"""Columns counted; objects may have keys of their own in every row."""

Item = TypeVar("Item")


def named_columns(config: InspectConfig) -> dict[str, Any]:
    """The settings that name columns of a data file."""
    given = {key: getattr(config, key) for key in KEYS_OF_KINDS}
    return {key: value for key, value in given.items() if value is not None}


def inspect_data_file(path: Path, config: InspectConfig) -> None:
    """Print format, columns and rows of a file, and what it would train."""
    check_file(path)
    named = named_columns(config)
    kind, why_not = kind_of_keys(named), ""
    names = [name for key in named if key != "label_separator" for name in as_names(named[key])]
    opened = read_rows(path, bad_rows="skip", quiet=True, column_names=names)
    columns: dict[str, _Column] = {}
    first: list[Row] = []
    num_rows = 0
    with progress(f"reading {path.name}", unit="rows") as advance:
        for row in opened.rows:
            num_rows += 1
            if len(first) < config.num_examples:
                first.append(row)
            for name, value in row.values.items():
                if name in columns or len(columns) < MAX_COLUMNS:
                    columns.setdefault(name, _Column()).add(value)
            if num_rows % 10_000 == 0:
                advance(10_000)
        advance(num_rows % 10_000)
    try:
        kind = kind or detect_kind(path)
    except UserError as error:
        why_not = str(error).removeprefix(f"{path}: ")
    preferred = (
        kind == "instruct" and only_preferences(opened.columns) and config.answer_column is None
    )
    uses = {"classify": "finetune-classify: text and label", "instruct": "finetune-instruct"}
    if preferred:
        uses["instruct"] += " method=dpo: chosen and rejected answers"
    show_facts(
        str(path),
        {
            "format": opened.format,
            "encoding": None if opened.format == "parquet" else opened.encoding,
            "delimiter": {"\t": "tab", None: None}.get(opened.delimiter, opened.delimiter),
            "header": opened.has_header if opened.delimiter else None,
            "bytes": path.stat().st_size,
            "rows": num_rows + opened.bad.count,
            "for": uses[kind] if kind else why_not,
        },
    )
    table(
        "columns",
        ("column", "filled", "distinct", "mean characters", "longest"),
        [
            (name, column.num_filled, column.distinct, column.mean_length, column.longest)
            for name, column in islice(columns.items(), MAX_COLUMNS_SHOWN)
        ],
        to_output=True,
    )
    reader = _reader(config.base) if kind == "instruct" else None
    bad = opened.bad
    try:
        if preferred:
            preferences, bad = preferences_and_bad_rows(path, config.prompt_column, quiet=True)
            _show_bad_rows(bad)
            _show_preferences(preferences, config.num_examples, reader)
        elif kind == "classify":
            texts, labels = config.text_column, config.label_column
            template = found_template(path, texts, labels)
            examples = read_labelled_texts(
                path,
                texts or (None if template is None else template.columns),
                labels,
                bad_rows="skip",
                label_separator=config.label_separator,
                template=template,
                bad=bad,
            )
            _show_bad_rows(bad)
            _show_labelled(examples, config.num_examples)
        elif kind == "instruct":
            conversations, bad = conversations_and_bad_rows(
                path, config.prompt_column, config.answer_column, quiet=True
            )
            _show_bad_rows(bad)
            _show_conversations(conversations, bad, config.num_examples, reader)
        else:
            _show_bad_rows(bad)
            for row in first:
                shown = json.dumps(row.values, ensure_ascii=False, default=str)
                show_passage(f"row on {place(row.line)}", shown)
    except UserError as error:
        if named:
            raise
        _show_bad_rows(bad)
        show_line(f"not usable for training: {error}")


def is_documents(path: Path) -> bool:
    """Whether a path is a mail or a mailbox, or a folder with a subfolder or mailbox a label."""
    return is_mail(path) or bool(class_files(path))


def inspect_documents(path: Path, num_examples: int) -> None:
    """Print the mails and texts behind a path, their labels, and what is set aside."""
    aside: Counter[str] = Counter()
    by_label = class_files(path)
    files = [file for part in by_label.values() for file in part] or [path]
    facts: dict[str, object] = {
        "format": "a subfolder or mailbox a label" if by_label else "mail",
        "files": len(files),
        "files without a label": len(files_below(path)) - len(files) if by_label else None,
        "bytes": sum(file.stat().st_size for file in files),
        "for": "finetune-classify: text and label" if by_label else "predict",
    }
    show_facts(str(path), facts)
    if by_label:
        try:
            examples = read_labelled_texts(path, aside=aside)
            _show_labelled(examples, num_examples)
        except UserError as error:
            show_line(f"not usable for training: {error}")
    else:
        documents = list(read_documents(files, aside))
        for document in _spread(documents, num_examples):
            show_passage(f"message {document.number} of {len(documents):,}", document.text)
    if aside:
        reasons = aside.most_common(MAX_REASONS_SHOWN)
        table(f"{aside.total():,} set aside", ("reason", "count"), reasons, to_output=True)


class _Column:
    """What one column holds, counted row by row in bounded memory."""

    def __init__(self) -> None:
        self.num_filled = 0
        self.longest = 0
        self._characters = 0
        self._hashes: set[int] = set()

    def add(self, value: object) -> None:
        """Count one cell."""
        text = (
            value
            if isinstance(value, str)
            else ""
            if value is None
            else json.dumps(value, default=str)
        )
        if not text.strip():
            return
        self.num_filled += 1
        self._characters += len(text)
        self.longest = max(self.longest, len(text))
        if len(self._hashes) < MAX_DISTINCT:
            self._hashes.add(hash(text))

    @property
    def distinct(self) -> int | str:
        """Number of different values."""
        count = len(self._hashes)
        return count if count < MAX_DISTINCT else f"{count:,} or more"

    @property
    def mean_length(self) -> float:
        """Characters in a filled cell."""
        return self._characters / max(1, self.num_filled)


def _show_labelled(examples: Sequence[LabelledText], num_examples: int) -> None:
    """Labels, duplicates and a few texts."""
    counts = Counter(label for example in examples for label in example.all_labels)
    shown = counts.most_common(MAX_LABELS_SHOWN)
    rows: list[tuple[str, int, str]] = [
        (label, count, f"{count / len(examples):.1%}") for label, count in shown
    ]
    if len(counts) > len(shown):
        rest = sum(counts.values()) - sum(count for _, count in shown)
        rows.append((f"{len(counts) - len(shown)} more", rest, f"{rest / len(examples):.1%}"))
    table(f"{len(counts)} labels", ("label", "rows", "share"), rows, to_output=True)
    labels_of: dict[str, set[str]] = {}
    for example in examples:
        labels_of.setdefault(normalised_text(example.text), set()).add(example.label)
    show_facts(
        "texts",
        {
            "labelled rows": len(examples),
            "different texts": len(labels_of),
            "rows that repeat a text": len(examples) - len(labels_of),
            "texts that nearly repeat another": _num_near([row.text for row in examples]),
            "texts with different labels": sum(len(found) > 1 for found in labels_of.values()),
            "empty texts": sum(not example.text.strip() for example in examples),
            "words": sum(len(example.text.split()) for example in examples),
        },
    )
    for example in _spread(examples, num_examples):
        show_passage(f"{place(example.line)}: {example.label}", example.text)


def _reader(base: str | None) -> "Reader | None":
    """How the base named reads conversations, or the usual one where it is there."""
    if base is None and not Path(DEFAULT_BASE).is_dir():
        return None
    from llmstages.stages.seeing.conversations import reader_of

    try:
        return reader_of(base or DEFAULT_BASE)
    except UserError as error:
        if base is not None:
            raise
        show_line(f"shown as text only, since {DEFAULT_BASE} cannot be used: {error}")
        return None


def _num_near(texts: Sequence[str]) -> int:
    """How many different texts are a near duplicate of one before them."""
    return len({normalised_text(text) for text in texts}) - len(set(alike_rows(texts)))


def _show_conversations(
    conversations: Sequence[Conversation],
    bad: BadRows,
    num_examples: int,
    reader: "Reader | None",
) -> None:
    """Sizes, duplicates and a few conversations, as the base reads them."""
    if not conversations:
        show_line("not usable for training: no row with a prompt and an answer in it")
        return
    answers = [
        turn.content
        for conversation in conversations
        for turn in conversation.messages
        if turn.role == "assistant"
    ]
    prompts = [
        "\n".join(turn.content for turn in conversation.messages[:-1])
        for conversation in conversations
    ]
    turns = sum(len(conversation.messages) for conversation in conversations)
    facts: dict[str, object] = {
        "conversations": len(conversations),
        "messages": turns,
        "with a system prompt": sum(row.messages[0].role == "system" for row in conversations),
        "with several answers": sum(
            sum(turn.role == "assistant" for turn in row.messages) > 1 for row in conversations
        ),
        "answers": len(answers),
        "words in answers": sum(len(answer.split()) for answer in answers),
        "longest answer, characters": max(len(answer) for answer in answers),
        "rows that repeat a prompt": len(prompts) - len({normalised_text(p) for p in prompts}),
        "prompts that nearly repeat another": _num_near(prompts),
        "empty answers": sum("no answer to learn" in reason for _, reason in bad.rows),
    }
    chosen = [(place(row.line), row) for row in _spread(conversations, num_examples)]
    rendered = _show_as_read("conversations", facts, conversations, chosen, reader)
    if rendered is not None and reader is not None:
        from llmstages.stages.seeing.conversations import show_packing

        show_packing(rendered, reader)


def _show_preferences(
    preferences: Sequence[Preference], num_examples: int, reader: "Reader | None"
) -> None:
    """Sizes and duplicates of pairs of answers, and a few of them, as the base reads them."""
    if not preferences:
        show_line("not usable for training: no row with a chosen and a rejected answer in it")
        return
    prompts = [
        "\n".join(turn.content for turn in pair.chosen.messages[:-1]) for pair in preferences
    ]
    words = [
        [len(pair.messages[-1].content.split()) for pair in side]
        for side in zip(*((pair.chosen, pair.rejected) for pair in preferences), strict=True)
    ]
    facts: dict[str, object] = {
        "preferences": len(preferences),
        "words in a chosen answer, mean": sum(words[0]) / len(preferences),
        "words in a rejected answer, mean": sum(words[1]) / len(preferences),
        "rows that repeat a prompt": len(prompts) - len({normalised_text(p) for p in prompts}),
        "prompts that nearly repeat another": _num_near(prompts),
    }
    both = [
        (f"{place(side.line)}, {name}", side)
        for pair in _spread(preferences, num_examples)
        for name, side in (("chosen", pair.chosen), ("rejected", pair.rejected))
    ]
    _show_as_read(
        "preferences",
        facts,
        [side for pair in preferences for side in (pair.chosen, pair.rejected)],
        both,
        reader,
    )


def _show_as_read(
    title: str,
    facts: dict[str, object],
    conversations: Sequence[Conversation],
    chosen: Sequence[tuple[str, Conversation]],
    reader: "Reader | None",
) -> "Rendered | None":
    """Facts and the conversations chosen, with their headings, as the base reads them."""
    if reader is None:
        show_facts(title, facts)
        for heading, conversation in chosen:
            text = "\n".join(f"{turn.role}: {turn.content}" for turn in conversation.messages)
            show_passage(heading, text)
        return None
    from llmstages.stages.seeing import conversations as see

    rendered = see.rendered_rows(conversations, reader)
    show_facts(title, facts | see.supervision_facts(rendered, reader))
    if rendered.refused:
        reasons = rendered.refused.most_common(MAX_REASONS_SHOWN)
        table("refused by the base's template", ("reason", "rows"), reasons, to_output=True)
    see.show_rendered(rendered, reader, chosen)
    return rendered


def _show_bad_rows(bad: BadRows) -> None:
    """Why rows cannot be read or used, the commonest reason first, and where it is met first."""
    if not bad.count:
        return
    first: dict[str, int] = {}
    for line, reason in bad.rows:
        first.setdefault(reason, line)
    counts = Counter(reason for _, reason in bad.rows).most_common(MAX_REASONS_SHOWN)
    of = f" (reasons of the first {len(bad.rows):,})" if bad.count > len(bad.rows) else ""
    table(
        f"bad rows: {bad.count:,}{of}",
        ("reason", "rows", "the first"),
        [(reason, count, place(first[reason])) for reason, count in counts],
        to_output=True,
    )


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` items at even distances, the first among them."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]

"""Labelled files: texts with labels for classification, conversations for instruction tuning.

Columns are found by their names (case does not matter, see `TEXT_NAMES` and its neighbours in
`llmstages.data.columns`) and can always be named. A row without a label, or with an empty answer,
is a bad row: refused or skipped like one that cannot be read. Nothing here imports torch.
"""

import itertools
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from llmstages.data.columns import (
    ANSWER_NAMES,
    CHOSEN_NAMES,
    INPUT_NAMES,
    LABEL_NAMES,
    MESSAGES_NAMES,
    PROMPT_NAMES,
    REJECTED_NAMES,
    SYSTEM_NAMES,
    TEXT_NAMES,
    column_key,
)
from llmstages.data.rows import BadRows, Row, fault_of, shown
from llmstages.data.table import Table, read_rows
from llmstages.errors import UserError
from llmstages.text.chat import Message

logger = logging.getLogger("llmstages")

Kind = Literal["classify", "instruct"]

# Rows looked at to find out what a file is for.
KIND_ROWS = 5000
# A column of a headerless file with fewer distinct values than this share of the rows is a label.
LABEL_SHARE = 0.1
COLUMNS_LISTED = 30
COLUMNS_COMPARED = 1000
ATTRIBUTION = re.compile(r"\bCC[ -]?(?:BY|0)\b|\bAttribution:|\btatoeba\.org\b", re.IGNORECASE)
# A last column of which this share of the rows names a licence or a source is no part of a pair.
ATTRIBUTION_SHARE = 0.95
# Names that chat files in use give to the three roles.
ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
# What calls of tools and their results are named; nothing of them is learnt or shown to a model.
TOOL_ROLES = ("tool", "function", "function_call", "tool_call", "observation", "ipython")


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, its label and the line it stands on."""

    text: str
    label: str
    line: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, of which the last is the assistant's, and the line and file they start on."""

    messages: list[Message]
    line: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class Preference:
    """Two conversations that differ in the last answer alone, of which one is preferred."""

    chosen: Conversation
    rejected: Conversation


class _Unusable(Exception):
    """A row cannot be used; the message is the reason."""


# -------------------------------------------------------------------------------------------------
# classification


def read_labelled_texts(
    path: Path | str,
    text_column: str | None = None,
    label_column: str | None = None,
    bad_rows: str = "refuse",
) -> list[LabelledText]:
    """Read a file with a text and a label in each row.

    Whole numbers and truth values become strings (`1`, `true`); an empty text is kept. A file
    without header has the label in the column with fewer distinct values.

    Raises:
        UserError: a column is missing, a row is bad (with `bad_rows="refuse"`), there is no row, or
            all rows have the same label.
    """
    path = Path(path)
    named = [name for name in (text_column, label_column) if name is not None]
    if len(named) < 2 and (shape := _headerless(path, named)):
        text_column, label_column = _headerless_label(path, shape, text_column, label_column)
    table = _open(path, bad_rows, named)
    label = _column(table, "label", label_column, LABEL_NAMES)
    text = _column(table, "text", text_column, TEXT_NAMES, taken=label)
    examples: list[LabelledText] = []
    for row in table.rows:
        try:
            if row.values.get(text) is None:
                raise _Unusable(f"no {text!r}")
            content = _as_text(row.values[text], text)
            examples.append(LabelledText(content, _as_label(row, label), row.line))
        except _Unusable as reason:
            table.bad.add(row.line, str(reason))
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
            *(path, label, len(counts), len(examples)),
        )
    return examples


def read_texts(
    path: Path | str, text_column: str | None = None, bad_rows: str = "refuse"
) -> Iterator[tuple[int, str]]:
    """Line and text of each row, streamed; a label column is not needed.

    A plain text file has one text a line. With `bad_rows="refuse"` nothing is handed out after the
    first bad row, and the `UserError` comes at the end of the file.
    """
    path = Path(path)
    named = [] if text_column is None else [text_column]
    if not named and (shape := _headerless(path, [])):
        text_column = max(shape, key=lambda name: shape[name].mean_length)
    table = _open(path, bad_rows, named)
    only = table.columns[0] if len(table.columns) == 1 else None
    text = _column(table, "text", text_column or only, TEXT_NAMES)

    def texts() -> Iterator[tuple[int, str]]:
        for row in table.rows:
            if row.values.get(text) is None:
                table.bad.add(row.line, f"no {text!r}")
                continue
            try:
                content = _as_text(row.values[text], text)
            except _Unusable as reason:
                table.bad.add(row.line, str(reason))
                continue
            if bad_rows == "skip" or not table.bad.rows:
                yield row.line, content

    return texts()


def _as_text(value: object, name: str) -> str:
    """A cell as text; numbers are written out."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Unusable(f"{name!r} is no text but {_kind_of(value)}")
    return _number_text(value, name)


def _number_text(value: int | float, name: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise _Unusable(f"no {name!r}")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _as_label(row: Row, name: str) -> str:
    value = row.values.get(name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return _number_text(value, name)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if value is None or isinstance(value, str):
        raise _Unusable(f"no label in {name!r}")
    raise _Unusable(f"label {name!r} is no text but {_kind_of(value)}; one label a row is needed")


def _kind_of(value: object) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false", bytes: "bytes"}
    return kinds.get(type(value), type(value).__name__)


# -------------------------------------------------------------------------------------------------
# instruction tuning


def read_conversations(
    path: Path | str,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    bad_rows: str = "refuse",
) -> list[Conversation]:
    """Read a file with a prompt and an answer, or a list of messages, in each row.

    Known are Alpaca (`instruction`, `input`, `output`: the user's turn is the instruction, a blank
    line and the input where there is one; `history` holds the pairs before it), prompt/completion,
    question/answer, `messages` with `role` and `content`, the same as `conversations` with `from`
    and `value`, Self-Instruct's `instances`, and pairs in a file of two columns without header; a
    third one that names licences or sources is passed over. Beside all of them a column `system`
    may hold the system prompt. Turns after the last answer are left out.

    Raises:
        UserError: a column is missing, a row is bad (with `bad_rows="refuse"`), or there is no row.
    """
    conversations, _ = conversations_and_bad_rows(path, prompt_column, answer_column, bad_rows)
    if not conversations:
        raise UserError(f"{path}: no row with a prompt and an answer in it")
    return conversations


def conversations_and_bad_rows(
    path: Path | str,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    bad_rows: str = "refuse",
    quiet: bool = False,
) -> tuple[list[Conversation], BadRows]:
    """Conversations, possibly none, and the rows left out; `quiet` refuses and says nothing."""
    path = Path(path)
    named = [name for name in (prompt_column, answer_column) if name is not None]
    if not named and (shape := _headerless(path, [])):
        columns = _without_attribution(shape)
        if len(columns) != 2:
            raise UserError(
                f"{path}: no header and {len(shape)} columns: name two of them, "
                "such as prompt_column=1 answer_column=2"
            )
        prompt_column, answer_column = columns
    table = _open(path, bad_rows, named, quiet)
    if not named and _only_preferences(table.columns):
        raise UserError(
            f"{path}: rows of chosen and rejected answers: set method=dpo to train on them"
        )
    read = _conversation_reader(table, prompt_column, answer_column)
    conversations: list[Conversation] = []
    for row in table.rows:
        try:
            found = read(row)
        except _Unusable as reason:
            table.bad.add(row.line, str(reason))
        else:
            conversations += [Conversation(turns, row.line, str(path)) for turns in found]
    return conversations, table.bad


def _conversation_reader(
    table: Table, prompt_column: str | None, answer_column: str | None
) -> Callable[[Row], list[list[Message]]]:
    """What makes conversations, mostly one, out of a row of this table."""
    named = prompt_column is not None or answer_column is not None
    system = _find(table.columns, SYSTEM_NAMES)
    messages = None if named else _find(table.columns, MESSAGES_NAMES)
    if messages is not None:
        return lambda row: [_messages(row, messages, system)]
    prompt = _column(table, "prompt", prompt_column, PROMPT_NAMES)
    instances = None if named else _find(table.columns, ("instances",))
    if instances is not None:
        return lambda row: [
            _pair(part, prompt, "input", "output", system)
            for part in _instances(row, prompt, instances)
        ]
    answer = _column(table, "answer", answer_column, ANSWER_NAMES, taken=prompt)
    context, history = _beside_prompt(table.columns, prompt)
    return lambda row: [_pair(row.values, prompt, context, answer, system, history)]


def _beside_prompt(columns: Sequence[str], prompt: str) -> tuple[str | None, str | None]:
    """Alpaca's columns of the input and of the turns before; None where there are none."""
    if column_key(prompt) != "instruction":
        return None, None
    return _find(columns, INPUT_NAMES), _find(columns, ("history",))


def read_prompts(
    path: Path | str, prompt_column: str | None = None, bad_rows: str = "refuse"
) -> Iterator[tuple[int, list[Message]]]:
    """Line and turns of each row, the last one the user's, streamed; answers are left out.

    Known are the rows that `read_conversations` knows, with or without their answers, rows with a
    text, and plain text with one prompt a line. With `bad_rows="refuse"` nothing is handed out
    after the first bad row, and the `UserError` comes at the end of the file.
    """
    path = Path(path)
    named = [] if prompt_column is None else [prompt_column]
    if not named and (shape := _headerless(path, [])):
        prompt_column = next(iter(shape))
    table = _open(path, bad_rows, named)
    messages = None if prompt_column else _find(table.columns, MESSAGES_NAMES)
    only = table.columns[0] if len(table.columns) == 1 else None
    prompt = ""
    if messages is None:
        prompt = _column(table, "prompt", prompt_column or only, PROMPT_NAMES + TEXT_NAMES)
    system = _find(table.columns, SYSTEM_NAMES)
    context, history = _beside_prompt(table.columns, prompt)

    def prompts() -> Iterator[tuple[int, list[Message]]]:
        for row in table.rows:
            try:
                if messages is not None:
                    turns = _questions(row, messages, system)
                else:
                    turns = _request(row.values, prompt, context, system, history)
            except _Unusable as reason:
                table.bad.add(row.line, str(reason))
                continue
            if bad_rows == "skip" or not table.bad.rows:
                yield row.line, turns

    return prompts()


def _questions(row: Row, name: str, system: str | None) -> list[Message]:
    """The turns of a row up to the user's last."""
    return _up_to_last("user", _all_messages(row, name, system))


def _request(
    values: dict[str, Any],
    prompt: str,
    context: str | None,
    system: str | None,
    history: str | None = None,
) -> list[Message]:
    """The turns before an answer."""
    parts = [_cell(values, name) for name in (prompt, context) if name is not None]
    request = "\n\n".join(part for part in parts if part.strip())
    if not request:
        raise _Unusable(f"{prompt!r} is empty")
    before = [] if history is None else _history(values.get(history), history)
    return _with_system([*before, Message("user", request)], values, system)


def _pair(
    values: dict[str, Any],
    prompt: str,
    context: str | None,
    answer: str,
    system: str | None,
    history: str | None = None,
) -> list[Message]:
    """The turns of a row with a prompt and an answer."""
    turns = _request(values, prompt, context, system, history)
    reply = _cell(values, answer)
    if not reply.strip():
        raise _Unusable(f"{answer!r} is empty: there is no answer to learn")
    return [*turns, Message("assistant", reply)]


def _history(value: object, name: str) -> list[Message]:
    """The turns before a row's prompt: a list of pairs of prompt and answer."""
    if value is None or value == "":
        return []
    turns: list[Message] = []
    for pair in _listed_in(value, name, "pairs"):
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(said, str) and said.strip() for said in pair)
        ):
            raise _Unusable(f"{name!r} is no list of pairs of prompt and answer")
        turns += [Message("user", pair[0]), Message("assistant", pair[1])]
    return turns


def _with_system(turns: list[Message], values: dict[str, Any], system: str | None) -> list[Message]:
    """The turns after the system prompt of the row's own column, unless they begin with one."""
    opening = "" if system is None else _cell(values, system)
    if not opening.strip() or turns[0].role == "system":
        return turns
    return [Message("system", opening), *turns]


def _cell(values: dict[str, Any], name: str) -> str:
    """A cell as text; a missing one is empty."""
    value = values.get(name)
    return "" if value is None else _as_text(value, name)


def _instances(row: Row, prompt: str, name: str) -> list[dict[str, Any]]:
    """Self-Instruct's rows: one instruction with several inputs and outputs."""
    parts = row.values.get(name)
    if (
        not isinstance(parts, list)
        or not all(isinstance(part, dict) for part in parts)
        or not parts
    ):
        raise _Unusable(f"{name!r} is no list of objects")
    return [{**part, prompt: row.values.get(prompt)} for part in parts]


def _listed_in(value: object, name: str, what: str) -> list[Any]:
    """A list, or a string that holds one as JSON, as in delimited files."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _Unusable(f"{name!r} is no JSON list of {what}") from None
        if (fault := fault_of(value)) is not None:
            raise _Unusable(f"{name!r} holds {fault}")
    if not isinstance(value, list):
        raise _Unusable(f"{name!r} is no list of {what}")
    return value


def _messages(row: Row, name: str, system: str | None) -> list[Message]:
    """The turns of a row up to its last answer: what is said after it teaches nothing."""
    return _up_to_last("assistant", _all_messages(row, name, system))


def _up_to_last(role: str, turns: list[Message]) -> list[Message]:
    """The turns without those after the last of a role."""
    while turns and turns[-1].role != role:
        turns.pop()
    if not turns:
        raise _Unusable(f"no message of the {role}")
    return turns


def _all_messages(row: Row, name: str, system: str | None) -> list[Message]:
    """The turns of a row with a list of messages (a string that holds JSON in delimited files)."""
    listed = _listed_in(row.values.get(name), name, "messages")
    if not listed:
        raise _Unusable(f"{name!r} is no list of messages")
    return _with_system(_turns_of(listed), row.values, system)


def _turns_of(listed: Sequence[object]) -> list[Message]:
    """Messages with role and content, or from and value."""
    return [_message(part, number) for number, part in enumerate(listed, 1)]


def _message(part: object, number: int) -> Message:
    """One turn out of a list of messages."""
    if not isinstance(part, dict):
        raise _Unusable(f"message {number} is no object with role and content")
    speaker = part.get("role", part.get("from"))
    name = speaker.strip().casefold() if isinstance(speaker, str) else None
    if name in TOOL_ROLES:
        raise _Unusable(
            f"message {number} has the role {name!r}: calls of tools and their results are not "
            "learnt here"
        )
    if name is None or name not in ROLES:
        given = shown(repr(speaker)) if isinstance(speaker, str) else _kind_of(speaker)
        raise _Unusable(f"message {number} has the role {given}: user, assistant or system")
    if part.get("tool_calls") or part.get("function_call"):
        raise _Unusable(f"message {number} calls a tool: calls of tools are not learnt here")
    content = _content(part.get("content", part.get("value")), number)
    if ROLES[name] == "assistant" and not content.strip():
        raise _Unusable(f"message {number} is empty: there is no answer to learn")
    return Message(ROLES[name], content)


def _content(value: object, number: int) -> str:
    """The text of a message: itself, or parts that follow each other, all of them texts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise _Unusable(f"message {number} has no text in its content")
    texts: list[str] = []
    for part in value:
        text = part.get("text") if isinstance(part, dict) else part
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind not in ("text", "input_text", "output_text"):
            given = shown(repr(kind)) if isinstance(kind, str) else _kind_of(kind)
            raise _Unusable(f"message {number} has a part of the type {given}: only text is learnt")
        if not isinstance(text, str):
            raise _Unusable(f"message {number} has a part without text in its content")
        texts.append(text)
    return "".join(texts)


# -------------------------------------------------------------------------------------------------
# preferences


def read_preferences(
    path: Path | str, prompt_column: str | None = None, bad_rows: str = "refuse"
) -> list[Preference]:
    """Read a file with a chosen and a rejected answer in each row.

    What was asked is a prompt (with Alpaca's `input`, and a system prompt), a list of messages, or
    stands in front of both answers: in lists of messages, or in texts whose turns begin with
    `Human:` and `Assistant:` after a blank line (Bai et al. 2022, "HH-RLHF").

    Raises:
        UserError: a column is missing, a row is bad (with `bad_rows="refuse"`), or there is no row.
    """
    path = Path(path)
    table = _open(path, bad_rows, [] if prompt_column is None else [prompt_column])
    columns = table.columns
    chosen, rejected = _find(columns, CHOSEN_NAMES), _find(columns, REJECTED_NAMES)
    if chosen is None or rejected is None:
        raise UserError(
            f"{path}: method=dpo needs the columns chosen and rejected; its columns: "
            f"{_listed(columns)}"
        )
    if prompt_column is not None:
        prompt: str | None = _column(table, "prompt", prompt_column, PROMPT_NAMES)
    else:
        prompt = _find(columns, MESSAGES_NAMES) or _find(columns, PROMPT_NAMES)
    system = _find(columns, SYSTEM_NAMES)
    context, history = _beside_prompt(columns, prompt or "")
    preferences = []
    for row in table.rows:
        try:
            asked = _asked(row.values, prompt, context, system, history)
            better, worse = (_answered(row.values, name, asked) for name in (chosen, rejected))
            if better[:-1] != worse[:-1]:
                raise _Unusable(f"{chosen!r} and {rejected!r} differ before the last answer")
            if better == worse:
                raise _Unusable(f"{chosen!r} and {rejected!r} are the same")
        except _Unusable as reason:
            table.bad.add(row.line, str(reason))
        else:
            both = (Conversation(turns, row.line, str(path)) for turns in (better, worse))
            preferences.append(Preference(*both))
    if not preferences:
        raise UserError(f"{path}: no row with a chosen and a rejected answer in it")
    return preferences


def _only_preferences(columns: Sequence[str]) -> bool:
    """Whether there are chosen and rejected answers, and no other."""
    both = _find(columns, CHOSEN_NAMES) and _find(columns, REJECTED_NAMES)
    return bool(both) and not _find(columns, (*ANSWER_NAMES, "instances"))


def _asked(
    values: dict[str, Any],
    prompt: str | None,
    context: str | None,
    system: str | None,
    history: str | None,
) -> list[Message]:
    """The turns in front of the two answers that stand in columns of their own; may be none."""
    if prompt is None:
        return []
    listed = _as_list(values.get(prompt))
    if listed is not None:
        return _with_system(_turns_of(listed), values, system)
    return _request(values, prompt, context, system, history)


def _answered(values: dict[str, Any], name: str, asked: list[Message]) -> list[Message]:
    """The whole conversation with the answer of a column, which may bring all of it."""
    value = values.get(name)
    listed = _as_list(value)
    if listed is not None:
        turns = _turns_of(listed)
    elif not asked:
        turns = _human_and_assistant(_cell(values, name), name)
    else:
        turns = [Message("assistant", _cell(values, name))]
    if not turns or turns[-1].role != "assistant" or not turns[-1].content.strip():
        raise _Unusable(f"{name!r} does not end with an answer")
    if len(turns) == 1 and not asked:
        raise _Unusable(f"nothing is asked: no prompt, and {name!r} is an answer alone")
    return turns if len(turns) > 1 else [*asked, *turns]


def _as_list(value: object) -> list[Any] | None:
    """Messages as they stand in JSON, or as text in a delimited file; one is a list of one."""
    if isinstance(value, str) and value.lstrip().startswith(("[{", "{")):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
        if fault_of(value) is not None:
            return None
    if isinstance(value, dict):
        value = [value]
    is_messages = isinstance(value, list) and all(isinstance(part, dict) for part in value)
    return value if is_messages and value else None  # type: ignore[return-value]


def _human_and_assistant(text: str, name: str) -> list[Message]:
    """Turns of a text with `Human:` and `Assistant:` in front of them."""
    parts = re.split(r"(?:\A|\n\n)\s*(Human|Assistant):", text)
    if parts[0].strip() or len(parts) < 5:
        raise _Unusable(f"no prompt, and {name!r} is no conversation")
    spoken = zip(parts[1::2], parts[2::2], strict=True)
    return [Message(ROLES[speaker.casefold()], said.strip()) for speaker, said in spoken]


# -------------------------------------------------------------------------------------------------
# columns


def _open(path: Path, bad_rows: str, column_names: Sequence[str], quiet: bool = False) -> Table:
    """The file's table, which has columns."""
    table = read_rows(path, bad_rows=bad_rows, column_names=column_names, quiet=quiet)
    if not table.columns:
        if table.skipped:
            line, reason = table.skipped[0]
            raise UserError(f"{path}:{line}: {reason}; none of the first rows can be used")
        raise UserError(f"{path}: no rows in it")
    return table


def _find(columns: Sequence[str], names: Sequence[str], taken: str | None = None) -> str | None:
    """The column with the likeliest of the known names."""
    by_key = {column_key(column): column for column in reversed(columns) if column != taken}
    return next((by_key[name] for name in names if name in by_key), None)


def _listed(columns: Sequence[str]) -> str:
    """The columns for a message; of a great many the first."""
    names = [shown(name) for name in columns[:COLUMNS_LISTED]]
    more = [f"{len(columns) - len(names):,} more"] if len(columns) > len(names) else []
    return ", ".join(names + more) or "none"


def _column(
    table: Table,
    role: Literal["text", "label", "prompt", "answer"],
    explicit: str | None,
    names: Sequence[str],
    taken: str | None = None,
) -> str:
    """The column that plays a role: the one named by the user, or one with a known name."""
    listed = _listed(table.columns)
    if explicit is not None:
        if explicit in table.columns:
            return explicit
        found = _find(table.columns, (column_key(explicit),))
        if found is not None:
            return found
        near = get_close_matches(explicit, table.columns[:COLUMNS_COMPARED], n=1)
        hint = f"; did you mean {role}_column={near[0]}?" if near else ""
        raise UserError(
            f"{table.path}: no column {explicit!r} ({role}_column); its columns: {listed}{hint}"
        )
    found = _find(table.columns, names, taken)
    if found is None:
        raise UserError(
            f"{table.path}: no column for the {role}; its columns: {listed}; "
            f"name it with {role}_column=..."
        )
    return found


# -------------------------------------------------------------------------------------------------
# what a file is for


@dataclass(frozen=True)
class _ColumnShape:
    """What the first rows of a column look like."""

    num_rows: int
    num_distinct: int
    mean_length: float
    attributed_share: float
    """Of the rows that name a licence or a source."""


def _headerless(path: Path, column_names: Sequence[str]) -> dict[str, _ColumnShape] | None:
    """Shape of each column of a delimited file without header; None for every other file."""
    table = _open(path, "skip", column_names, quiet=True)
    if table.has_header or table.delimiter is None:
        return None
    rows = list(itertools.islice(table.rows, KIND_ROWS))
    shapes: dict[str, _ColumnShape] = {}
    for column in table.columns:
        values = [row.values[column] for row in rows]
        length = sum(map(len, values)) / max(1, len(values))
        attributed = sum(ATTRIBUTION.search(value) is not None for value in values)
        share = attributed / max(1, len(values))
        shapes[column] = _ColumnShape(len(rows), len(set(values)), length, share)
    return shapes


def _without_attribution(shape: Mapping[str, _ColumnShape]) -> list[str]:
    """The columns but the last of three that says where each row comes from, as Tatoeba's do."""
    columns = list(shape)
    if len(columns) == 3 and shape[columns[-1]].attributed_share >= ATTRIBUTION_SHARE:
        return columns[:2]
    return columns


def _headerless_label(
    path: Path, shape: dict[str, _ColumnShape], text: str | None, label: str | None
) -> tuple[str, str]:
    """Which of two columns without names is the label: the one with fewer distinct values."""
    advice = "name them, such as text_column=1 label_column=2"
    if len(shape) == 1:
        raise UserError(f"{path}: one column only; a text and a label are needed")
    if len(shape) > 2:
        raise UserError(f"{path}: no header and {len(shape)} columns: {advice}")
    first, second = shape
    if text is not None or label is not None:
        given = text if text is not None else label
        other = second if given == first else first
        return (text or other), (label or other)
    distinct = shape[first].num_distinct, shape[second].num_distinct
    if distinct[0] == distinct[1]:
        raise UserError(f"{path}: no header, and either column could be the label: {advice}")
    return (second, first) if distinct[0] < distinct[1] else (first, second)


def detect_kind(path: Path | str) -> Kind:
    """What a labelled file is for: `classify` (text and label) or `instruct` (pairs or messages).

    Only its first rows are looked at. A file of two columns without header is for classification
    if exactly one column has fewer than 10 % distinct values, and holds pairs if neither has.

    Raises:
        UserError: it is neither, or could be both; says which columns were found.
    """
    path = Path(path)
    choose = "say which with finetune-classify or finetune-instruct"
    table = _open(path, "skip", [], quiet=True)
    if not table.has_header:
        return _headerless_kind(path, choose)
    columns = table.columns
    listed = _listed(columns)
    if _find(columns, MESSAGES_NAMES):
        return "instruct"
    prompt = _find(columns, PROMPT_NAMES)
    answer = _find(columns, ANSWER_NAMES, prompt) or _find(columns, ("instances",))
    label = _find(columns, LABEL_NAMES)
    text = _find(columns, TEXT_NAMES, label)
    pairs = prompt is not None and answer is not None
    if _only_preferences(columns):
        return "instruct"  # with method=dpo, as the stage says
    # A question may be the text of a label or the prompt of an answer: with an answer beside it, it
    # is a prompt.
    if text is not None and label is not None and not (pairs and text in (prompt, answer)):
        if pairs:
            raise UserError(f"{path}: has both a text with a label and pairs ({listed}): {choose}")
        return "classify"
    if pairs:
        return "instruct"
    raise UserError(
        f"{path}: neither text and label nor prompt and answer nor messages among its columns "
        f"({listed}): {choose}, and name the columns with text_column=... label_column=... or "
        "prompt_column=... answer_column=..."
    )


def _headerless_kind(path: Path, choose: str) -> Kind:
    shape = _headerless(path, [])
    if shape is None:
        raise UserError(f"{path}: plain text without columns: labelled rows are needed")
    columns = _without_attribution(shape)
    if len(columns) != 2:
        raise UserError(
            f"{path}: no header and {len(shape)} column{'s' if len(shape) > 1 else ''}: {choose}, "
            "and name the columns by their numbers, such as prompt_column=1 answer_column=2"
        )
    few = [shape[name].num_distinct < LABEL_SHARE * shape[name].num_rows for name in columns]
    if all(few):
        raise UserError(
            f"{path}: no header, and both columns have few different values: {choose}, and name "
            "the columns, such as text_column=1 label_column=2"
        )
    return "classify" if any(few) else "instruct"

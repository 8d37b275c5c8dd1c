"""Conversations: rows with a prompt and an answer, or with a list of messages.

Columns are found by their names (case does not matter, see `llmstages.data.columns`) and can always
be named. A row with an empty answer is a bad row: refused or skipped like one that cannot be read.
Nothing here imports torch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmstages.data.cells import optional_text
from llmstages.data.columns import (
    ANSWER_NAMES,
    INSTANCES_NAMES,
    MESSAGES_NAMES,
    PROMPT_NAMES,
    SYSTEM_NAMES,
    TEXT_NAMES,
    find_column,
    only_preferences,
    require_column,
)
from llmstages.data.headerless import column_shapes, without_attribution
from llmstages.data.messages import (
    PromptColumns,
    listed_messages,
    prompt_columns,
    prompt_messages,
    up_to_last,
)
from llmstages.data.rows import BadRows, Row, Unusable
from llmstages.data.table import Table, table_with_columns
from llmstages.errors import UserError
from llmstages.text.chat import Message


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, of which the last is the assistant's, and the line and file they start on."""

    messages: list[Message]
    line: int
    path: str = ""


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
    if not named and (shapes := column_shapes(path)):
        columns = without_attribution(shapes)
        if len(columns) != 2:
            raise UserError(
                f"{path}: no header and {len(shapes)} columns: name two of them, "
                "such as prompt_column=1 answer_column=2"
            )
        prompt_column, answer_column = columns
    table = table_with_columns(path, bad_rows, named, quiet)
    if not named and only_preferences(table.columns):
        raise UserError(
            f"{path}: rows of chosen and rejected answers: set method=dpo to train on them"
        )
    read = _reader(table, prompt_column, answer_column)
    found = table.usable(
        lambda row: [Conversation(messages, row.line, str(path)) for messages in read(row)]
    )
    return [conversation for of_row in found for conversation in of_row], table.bad


def read_prompts(
    path: Path | str, prompt_column: str | None = None, bad_rows: str = "refuse"
) -> Iterator[tuple[int, list[Message]]]:
    """Line and messages of each row, the last one the user's, streamed; answers are left out.

    Known are the rows that `read_conversations` knows, with or without their answers, rows with a
    text, and plain text with one prompt a line. With `bad_rows="refuse"` nothing is handed out
    after the first bad row, and the `UserError` comes at the end of the file.
    """
    path = Path(path)
    named = [] if prompt_column is None else [prompt_column]
    if not named and (shapes := column_shapes(path)):
        prompt_column = next(iter(shapes))
    table = table_with_columns(path, bad_rows, named)
    columns = table.columns
    messages = None if prompt_column else find_column(columns, MESSAGES_NAMES)
    if messages is not None:
        read = _messages_reader(table, messages, "user")
        return table.usable(lambda row: (row.line, read(row)))
    only = columns[0] if len(columns) == 1 else None
    names = PROMPT_NAMES + TEXT_NAMES
    prompt = require_column(path, columns, "prompt", prompt_column or only, names)
    asked = prompt_columns(columns, prompt)
    return table.usable(lambda row: (row.line, prompt_messages(row.values, asked)))


def _reader(
    table: Table, prompt_column: str | None, answer_column: str | None
) -> Callable[[Row], list[list[Message]]]:
    """What makes conversations, mostly one, out of a row of this table."""
    columns = table.columns
    named = prompt_column is not None or answer_column is not None
    messages = None if named else find_column(columns, MESSAGES_NAMES)
    if messages is not None:
        read = _messages_reader(table, messages, "assistant")
        return lambda row: [read(row)]
    prompt = require_column(table.path, columns, "prompt", prompt_column, PROMPT_NAMES)
    asked = prompt_columns(columns, prompt)
    instances = None if named else find_column(columns, INSTANCES_NAMES)
    if instances is not None:
        inside = replace(asked, input="input", history=None)
        return lambda row: [
            _pair(part, inside, "output") for part in _instances(row.values, prompt, instances)
        ]
    answer = require_column(
        table.path, columns, "answer", answer_column, ANSWER_NAMES, taken=prompt
    )
    return lambda row: [_pair(row.values, asked, answer)]


def _messages_reader(table: Table, messages: str, last: str) -> Callable[[Row], list[Message]]:
    """What makes messages out of a row with a list of them, up to the last one of a role.

    What is said after the last answer teaches nothing.
    """
    system = find_column(table.columns, SYSTEM_NAMES)
    return lambda row: up_to_last(last, listed_messages(row.values, messages, system))


def _pair(values: Mapping[str, Any], asked: PromptColumns, answer: str) -> list[Message]:
    """The messages of a row with a prompt and an answer."""
    messages = prompt_messages(values, asked)
    reply = optional_text(values, answer)
    if not reply.strip():
        raise Unusable(f"{answer!r} is empty: there is no answer to learn")
    return [*messages, Message("assistant", reply)]


def _instances(values: Mapping[str, Any], prompt: str, name: str) -> list[dict[str, Any]]:
    """Self-Instruct's rows: one instruction with several inputs and outputs."""
    parts = values.get(name)
    if (
        not isinstance(parts, list)
        or not all(isinstance(part, dict) for part in parts)
        or not parts
    ):
        raise Unusable(f"{name!r} is no list of objects")
    return [{**part, prompt: values.get(prompt)} for part in parts]

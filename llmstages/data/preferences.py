"""Preferences: rows with two answers to the same prompt, of which one is chosen.

Columns are found by their names (case does not matter, see `llmstages.data.columns`). A row whose
two answers cannot be told apart or compared is a bad row. Nothing here imports torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmstages.data.cells import optional_text
from llmstages.data.columns import (
    CHOSEN_NAMES,
    MESSAGES_NAMES,
    PROMPT_NAMES,
    REJECTED_NAMES,
    find_column,
    listed_columns,
    require_column,
)
from llmstages.data.conversations import Conversation
from llmstages.data.json_files import parse_json
from llmstages.data.messages import (
    ROLES,
    PromptColumns,
    parsed_messages,
    prompt_columns,
    prompt_messages,
    with_system,
)
from llmstages.data.rows import BadRows, Row, Unusable, fault_of
from llmstages.data.table import table_with_columns
from llmstages.errors import UserError
from llmstages.text.chat import Message


@dataclass(frozen=True, slots=True)
class Preference:
    """Two conversations that differ in the last answer alone, of which one is preferred."""

    chosen: Conversation
    rejected: Conversation


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
    preferences, _ = preferences_and_bad_rows(path, prompt_column, bad_rows)
    if not preferences:
        raise UserError(f"{path}: no row with a chosen and a rejected answer in it")
    return preferences


def preferences_and_bad_rows(
    path: Path | str,
    prompt_column: str | None = None,
    bad_rows: str = "refuse",
    quiet: bool = False,
) -> tuple[list[Preference], BadRows]:
    """Preferences, possibly none, and the rows left out; `quiet` refuses and says nothing."""
    path = Path(path)
    named = [] if prompt_column is None else [prompt_column]
    table = table_with_columns(path, bad_rows, named, quiet)
    columns = table.columns
    chosen, rejected = find_column(columns, CHOSEN_NAMES), find_column(columns, REJECTED_NAMES)
    if chosen is None or rejected is None:
        raise UserError(
            f"{path}: method=dpo needs the columns chosen and rejected; its columns: "
            f"{listed_columns(columns)}"
        )
    if prompt_column is not None:
        prompt: str | None = require_column(path, columns, "prompt", prompt_column, PROMPT_NAMES)
    else:
        prompt = find_column(columns, MESSAGES_NAMES) or find_column(columns, PROMPT_NAMES)
    asking = None if prompt is None else prompt_columns(columns, prompt)

    def read(row: Row) -> Preference:
        asked = [] if asking is None else _asked(row.values, asking)
        better, worse = (_answered(row.values, name, asked) for name in (chosen, rejected))
        if better[:-1] != worse[:-1]:
            raise Unusable(f"{chosen!r} and {rejected!r} differ before the last answer")
        if better == worse:
            raise Unusable(f"{chosen!r} and {rejected!r} are the same")
        return Preference(
            *(Conversation(messages, row.line, str(path)) for messages in (better, worse))
        )

    return list(table.usable(read)), table.bad


def _asked(values: Mapping[str, Any], columns: PromptColumns) -> list[Message]:
    """The messages in front of the two answers that stand in columns of their own."""
    listed = _as_messages(values.get(columns.prompt))
    if listed is not None:
        return with_system(listed, values, columns.system)
    return prompt_messages(values, columns)


def _answered(values: Mapping[str, Any], name: str, asked: list[Message]) -> list[Message]:
    """The whole conversation with the answer of a column, which may bring all of it."""
    messages = _as_messages(values.get(name))
    if messages is None:
        answer = optional_text(values, name)
        messages = [Message("assistant", answer)] if asked else _human_and_assistant(answer, name)
    if not messages or messages[-1].role != "assistant" or not messages[-1].content.strip():
        raise Unusable(f"{name!r} does not end with an answer")
    if len(messages) == 1 and not asked:
        raise Unusable(f"nothing is asked: no prompt, and {name!r} is an answer alone")
    return messages if len(messages) > 1 else [*asked, *messages]


def _as_messages(value: object) -> list[Message] | None:
    """Messages as they stand in JSON, or as text in a delimited file; one is a list of one.

    None where a cell holds anything else, such as text.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[{", "{")):
        try:
            value = parse_json(value)
        except ValueError:
            return None
        if fault_of(value) is not None:
            return None
    listed = [value] if isinstance(value, dict) else value
    if isinstance(listed, list) and listed and all(isinstance(part, dict) for part in listed):
        return parsed_messages(listed)
    return None


def _human_and_assistant(text: str, name: str) -> list[Message]:
    """Messages of a text with `Human:` and `Assistant:` in front of them."""
    parts = re.split(r"(?:\A|\n\n)\s*(Human|Assistant):", text)
    if parts[0].strip() or len(parts) < 5:
        raise Unusable(f"no prompt, and {name!r} is no conversation")
    spoken = zip(parts[1::2], parts[2::2], strict=True)
    return [Message(ROLES[speaker.casefold()], said.strip()) for speaker, said in spoken]

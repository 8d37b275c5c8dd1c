"""Messages out of the cells of a row: lists with roles, and a prompt with what stands around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmstages.data.cells import as_list, kind_of, optional_text
from llmstages.data.columns import (
    HISTORY_NAMES,
    INPUT_NAMES,
    SYSTEM_NAMES,
    column_key,
    find_column,
)
from llmstages.data.rows import Unusable, shown
from llmstages.text.chat import Message

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
class PromptColumns:
    """The columns of what stands in front of an answer; None for one that a file does not have."""

    prompt: str
    input: str | None
    """Alpaca's: follows the instruction after a blank line."""
    history: str | None
    """Alpaca's: pairs of prompt and answer before the instruction."""
    system: str | None


def prompt_columns(columns: Sequence[str], prompt: str) -> PromptColumns:
    """The columns that belong to the one with the prompt."""
    is_alpaca = column_key(prompt) == "instruction"
    return PromptColumns(
        prompt,
        input=find_column(columns, INPUT_NAMES) if is_alpaca else None,
        history=find_column(columns, HISTORY_NAMES) if is_alpaca else None,
        system=find_column(columns, SYSTEM_NAMES),
    )


def prompt_messages(values: Mapping[str, Any], columns: PromptColumns) -> list[Message]:
    """The messages in front of an answer, the last one the user's."""
    names = (columns.prompt, columns.input)
    parts = [optional_text(values, name) for name in names if name is not None]
    request = "\n\n".join(part for part in parts if part.strip())
    if not request:
        raise Unusable(f"{columns.prompt!r} is empty")
    before = [] if columns.history is None else _history(values, columns.history)
    return with_system([*before, Message("user", request)], values, columns.system)


def _history(values: Mapping[str, Any], name: str) -> list[Message]:
    """The messages before a row's prompt: a list of pairs of prompt and answer."""
    if values.get(name) in (None, ""):
        return []
    messages: list[Message] = []
    for pair in as_list(values[name], name, "pairs"):
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(said, str) and said.strip() for said in pair)
        ):
            raise Unusable(f"{name!r} is no list of pairs of prompt and answer")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    return messages


def with_system(
    messages: list[Message], values: Mapping[str, Any], system: str | None
) -> list[Message]:
    """The messages after the system prompt of the row's own column, unless they have one."""
    opening = "" if system is None else optional_text(values, system)
    if not opening.strip() or messages[0].role == "system":
        return messages
    return [Message("system", opening), *messages]


def listed_messages(values: Mapping[str, Any], name: str, system: str | None) -> list[Message]:
    """The messages of a row with a list of them (a string that holds JSON in delimited files)."""
    if values.get(name) in (None, ""):
        raise Unusable(f"the row has no {name!r}")
    listed = as_list(values[name], name, "messages")
    if not listed:
        raise Unusable(f"{name!r} is no list of messages")
    return with_system(parsed_messages(listed), values, system)


def up_to_last(role: str, messages: Sequence[Message]) -> list[Message]:
    """The messages without those after the last of a role."""
    kept = list(messages)
    while kept and kept[-1].role != role:
        kept.pop()
    if not kept:
        raise Unusable(f"no message of the {role}")
    return kept


def parsed_messages(listed: Sequence[object]) -> list[Message]:
    """Messages out of objects with role and content, or from and value."""
    return [_message(part, number) for number, part in enumerate(listed, 1)]


def _message(part: object, number: int) -> Message:
    """One message out of a list of them."""
    if not isinstance(part, dict):
        raise Unusable(f"message {number} is no object with role and content")
    speaker = part.get("role", part.get("from"))
    name = speaker.strip().casefold() if isinstance(speaker, str) else None
    if name in TOOL_ROLES:
        raise Unusable(
            f"message {number} has the role {name!r}: calls of tools and their results are not "
            "learnt here"
        )
    if name is None or name not in ROLES:
        given = shown(repr(speaker)) if isinstance(speaker, str) else kind_of(speaker)
        raise Unusable(f"message {number} has the role {given}: known are {', '.join(ROLES)}")
    if part.get("tool_calls") or part.get("function_call"):
        raise Unusable(f"message {number} calls a tool: calls of tools are not learnt here")
    content = _content(part.get("content", part.get("value")), number)
    if ROLES[name] == "assistant" and not content.strip():
        raise Unusable(f"message {number} is empty: there is no answer to learn")
    return Message(ROLES[name], content)


def _content(value: object, number: int) -> str:
    """The text of a message: itself, or parts that follow each other, all of them texts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise Unusable(f"message {number} has no text in its content")
    texts: list[str] = []
    for part in value:
        text = part.get("text") if isinstance(part, dict) else part
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind not in ("text", "input_text", "output_text"):
            given = shown(repr(kind)) if isinstance(kind, str) else kind_of(kind)
            raise Unusable(f"message {number} has a part of the type {given}: only text is learnt")
        if not isinstance(text, str):
            raise Unusable(f"message {number} has a part without text in its content")
        texts.append(text)
    return "".join(texts)

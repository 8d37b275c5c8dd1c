"""Columns of labelled files: the names by which they are known, and which of them plays a role."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from llmstages.data.rows import shown
from llmstages.errors import UserError

COLUMNS_LISTED = 30
COLUMNS_COMPARED = 1000
# Names by which the columns of labelled files are known, likeliest first. A first row that holds
# one of them is a header.
TEXT_NAMES = (
    *("text", "sentence", "sms", "message", "content", "review", "query", "utterance", "tweet"),
    *("document", "body", "comment", "comments", "post", "review_text", "review_body", "title"),
    *("headline", "description", "question", "prompt", "input", "sentences", "phrase", "v2"),
)
PAIR_NAMES = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2")),
    *(("text_a", "text_b"), ("text1", "text2"), ("question", "passage"), ("question", "sentence")),
)
"""Two texts that are judged together."""
LABEL_NAMES = (
    *("label", "labels", "category", "class", "intent", "sentiment", "target", "airline_sentiment"),
    *("emotion", "topic", "polarity", "tag", "stars", "rating", "spam", "is_spam", "toxic"),
    *("label_text", "category_name", "y", "v1"),
)
PROMPT_NAMES = ("instruction", "prompt", "question", "query", "q", "input")
ANSWER_NAMES = ("output", "completion", "response", "answer", "a")
INPUT_NAMES = ("input", "context")
HISTORY_NAMES = ("history",)
INSTANCES_NAMES = ("instances",)
SYSTEM_NAMES = ("system", "system_prompt")
MESSAGES_NAMES = ("messages", "conversations", "conversation", "dialog", "dialogue")
CHOSEN_NAMES = ("chosen", "chosen_response", "preferred")
REJECTED_NAMES = ("rejected", "rejected_response", "dispreferred")
ID_NAMES = ("id",)
OTHER_NAMES = ("id", "idx", "index", "url", "source", "language", "lang", "date", "author", "name")
HEADER_NAMES = frozenset(
    tuple(name for pair in PAIR_NAMES for name in pair)
    + TEXT_NAMES
    + LABEL_NAMES
    + PROMPT_NAMES
    + ANSWER_NAMES
    + INPUT_NAMES
    + SYSTEM_NAMES
) | frozenset(MESSAGES_NAMES + CHOSEN_NAMES + REJECTED_NAMES + OTHER_NAMES)


def column_key(name: str) -> str:
    """A column's name as it is compared: case, spaces and hyphens folded."""
    return re.sub(r"[\s\-]+", "_", name.strip().casefold())


def find_column(
    columns: Sequence[str], names: Sequence[str], taken: str | None = None
) -> str | None:
    """The column with the likeliest of the known names; None where there is none."""
    by_key = {column_key(column): column for column in reversed(columns) if column != taken}
    return next((by_key[name] for name in names if name in by_key), None)


def find_pair(columns: Sequence[str], taken: str | None = None) -> list[str]:
    """The two columns with the likeliest known names of texts judged together; else none."""
    for names in PAIR_NAMES:
        pair = [find_column(columns, (name,), taken) for name in names]
        if all(pair):
            return [name for name in pair if name is not None]
    return []


def require_column(
    path: Path | str,
    columns: Sequence[str],
    role: Literal["text", "label", "prompt", "answer", "id"],
    explicit: str | None,
    names: Sequence[str],
    taken: str | None = None,
) -> str:
    """The column that plays a role: the one named by the user, or one with a known name.

    Raises:
        UserError: there is no such column; says which there are.
    """
    listed = listed_columns(columns)
    if explicit is not None:
        if explicit in columns:
            return explicit
        found = find_column(columns, (column_key(explicit),))
        if found is not None:
            return found
        near = get_close_matches(explicit, columns[:COLUMNS_COMPARED], n=1)
        hint = f"; did you mean {role}_column={near[0]}?" if near else ""
        raise UserError(
            f"{path}: no column {explicit!r} ({role}_column); its columns: {listed}{hint}"
        )
    found = find_column(columns, names, taken)
    if found is None:
        raise UserError(
            f"{path}: no column for the {role}; its columns: {listed}; "
            f"name it with {role}_column=..."
        )
    return found


def listed_columns(columns: Sequence[str]) -> str:
    """The columns for a message; of a great many the first."""
    names = [shown(name) for name in columns[:COLUMNS_LISTED]]
    more = [f"{len(columns) - len(names):,} more"] if len(columns) > len(names) else []
    return ", ".join(names + more) or "none"


def only_preferences(columns: Sequence[str]) -> bool:
    """Whether there are chosen and rejected answers, and no other."""
    both = find_column(columns, CHOSEN_NAMES) and find_column(columns, REJECTED_NAMES)
    return bool(both) and not find_column(columns, (*ANSWER_NAMES, *INSTANCES_NAMES))

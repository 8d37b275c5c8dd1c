"""Chosen and rejected answers, in every form in which they are written down."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmstages.data.conversations import read_conversations
from llmstages.data.file_kind import detect_kind
from llmstages.data.preferences import read_preferences

real_data = pytest.mark.skipif(
    "LLMSTAGES_DATA" not in os.environ, reason="LLMSTAGES_DATA names no real data"
)


def turns(conversation: Any) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in conversation.messages]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is it?", "chosen": "A lion.", "rejected": "Dunno."},
        {"instruction": "What is it?", "input": "", "output": "A lion.", "chosen": "A lion."},
        {"question": "What is it?", "chosen": {"role": "assistant", "content": "A lion."}},
        {"conversations": [{"from": "human", "value": "What is it?"}], "chosen": "A lion."},
        {
            "prompt": [{"role": "user", "content": "What is it?"}],
            "chosen": [{"role": "assistant", "content": "A lion."}],
            "rejected": [{"role": "assistant", "content": "Dunno."}],
        },
        {
            "chosen": [
                {"role": "user", "content": "What is it?"},
                {"role": "assistant", "content": "A lion."},
            ],
            "rejected": [
                {"role": "user", "content": "What is it?"},
                {"role": "assistant", "content": "Dunno."},
            ],
        },
        {
            "chosen": "\n\nHuman: What is it?\n\nAssistant: A lion.",
            "rejected": "\n\nHuman: What is it?\n\nAssistant: Dunno.",
        },
    ],
)
def test_forms(jsonl: Callable[..., Path], row: dict[str, object]) -> None:
    path = jsonl({"rejected": "Dunno.", **row})
    (preference,) = read_preferences(path)
    asked = ("user", "What is it?")
    assert turns(preference.chosen) == [asked, ("assistant", "A lion.")]
    assert turns(preference.rejected) == [asked, ("assistant", "Dunno.")]
    assert detect_kind(path) == "instruct"


def test_context_and_system_prompt_and_several_turns(jsonl: Callable[..., Path]) -> None:
    path = jsonl(
        {"instruction": "Spell", "input": "cat", "system": "Hi.", "chosen": "a", "rejected": 2},
    )
    (preference,) = read_preferences(path)
    expected = [("system", "Hi."), ("user", "Spell\n\ncat"), ("assistant", "2")]
    assert turns(preference.rejected) == expected
    shared = "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
    path = jsonl({"chosen": shared + "d", "rejected": shared + "e"})
    (preference,) = read_preferences(path)
    assert [text for _, text in turns(preference.chosen)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        (
            {"prompt": "a", "chosen": "", "rejected": "b"},
            "'chosen' does not end with an",
        ),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "'prompt' is empty"),
        ({"chosen": "a", "rejected": "b"}, "'chosen' is no conversation"),
        (
            {
                "chosen": "Human: a\n\nAssistant: b",
                "rejected": "Human: x\n\nAssistant: c",
            },
            "differ before the last answer",
        ),
    ],
)
def test_bad_rows(
    jsonl: Callable[..., Path], refusal: Callable[..., str], row: dict[str, object], reason: str
) -> None:
    assert reason in refusal(read_preferences, jsonl(row))


def test_other_files(jsonl: Callable[..., Path], refusal: Callable[..., str]) -> None:
    path = jsonl({"prompt": "a", "completion": "b"})
    message = refusal(read_preferences, path)
    assert "method=dpo needs the columns chosen and rejected; its columns: prompt" in message
    path = jsonl({"prompt": "a", "chosen": "b", "rejected": "c"})
    assert "set method=dpo" in refusal(read_conversations, path)
    # With an answer besides it is a file of pairs as well.
    path = jsonl({"prompt": "a", "output": "x", "chosen": "b", "rejected": "c"})
    assert turns(read_conversations(path)[0])[-1] == ("assistant", "x")


@real_data
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("rasbt/instruction-data-with-preference.json", 1094),  # 6 are the same answer twice
        ("llamafactory/dpo_en_demo.json", 300),
    ],
)
def test_preferences(name: str, rows: int) -> None:
    path = Path(os.environ["LLMSTAGES_DATA"]) / "instruct" / name
    assert detect_kind(path) == "instruct"
    assert len(read_preferences(path, bad_rows="skip")) == rows

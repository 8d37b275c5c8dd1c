"""Conversations of every known shape, and the rows that none can be made of."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmstages.data.conversations import read_conversations
from llmstages.data.file_kind import detect_kind
from llmstages.data.labelled_files import data_files

real_data = pytest.mark.skipif(
    "LLMSTAGES_DATA" not in os.environ, reason="LLMSTAGES_DATA names no real data"
)


def turns(conversation: Any) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in conversation.messages]


def test_alpaca(jsonl: Callable[..., Path]) -> None:
    path = jsonl(
        {"instruction": "Spell it", "input": "freind", "output": "friend"},
        {"instruction": "Say hi", "input": "", "output": "hi"},
        {"instruction": "Count", "output": 42, "system": "Be brief."},
    )
    assert [turns(conversation) for conversation in read_conversations(path)] == [
        [("user", "Spell it\n\nfreind"), ("assistant", "friend")],
        [("user", "Say hi"), ("assistant", "hi")],
        [("system", "Be brief."), ("user", "Count"), ("assistant", "42")],
    ]


@pytest.mark.parametrize(
    "names", [("prompt", "completion"), ("Question", "Answer"), ("Q", "A"), ("input", "output")]
)
def test_pairs(write: Callable[..., Path], names: tuple[str, str]) -> None:
    path = write("x.csv", f"{names[0]},{names[1]},label\nhow?,so,0\n")
    assert turns(read_conversations(path)[0]) == [("user", "how?"), ("assistant", "so")]


def test_messages(jsonl: Callable[..., Path]) -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    (conversation,) = read_conversations(jsonl({"messages": messages}))
    assert turns(conversation) == [("system", "s"), ("user", "a"), ("assistant", "b")]


def test_messages_as_json_in_a_cell(write: Callable[..., Path]) -> None:
    cell = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    path = write("x.csv", "id,messages\n1," + '"' + cell.replace('"', '""') + '"\n')
    assert turns(read_conversations(path)[0]) == [("user", "a"), ("assistant", "b")]


def test_from_and_value(jsonl: Callable[..., Path]) -> None:
    said = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (conversation,) = read_conversations(jsonl({"conversations": said}))
    assert turns(conversation) == [("user", "a"), ("assistant", "b")]


def test_instances(jsonl: Callable[..., Path]) -> None:
    instances = [{"input": "x", "output": "1"}, {"input": "", "output": "2"}]
    rows = read_conversations(jsonl({"instruction": "do", "instances": instances}))
    assert [turns(row)[0][1] for row in rows] == ["do\n\nx", "do"]
    assert [row.line for row in rows] == [1, 1]


def test_headerless_pairs(write: Callable[..., Path]) -> None:
    path = write("x.tsv", "Go.\tVa !\nHi.\tSalut !\n")
    assert turns(read_conversations(path)[1]) == [("user", "Hi."), ("assistant", "Salut !")]


def test_named_columns_of_a_headerless_file(
    write: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    path = write("x.tsv", "Go.\tVa !\tby me\nHi.\tSalut !\tby you\n")
    assert "prompt_column=1 answer_column=2" in refusal(read_conversations, path)
    rows = read_conversations(path, prompt_column="2", answer_column="1")
    assert turns(rows[0]) == [("user", "Va !"), ("assistant", "Go.")]


def test_a_column_of_attributions_is_no_part_of_a_pair(
    write: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    by = "CC-BY 2.0 (France) Attribution: tatoeba.org #1 (CM) & #2 (Aiji)"
    rows = "".join(f"word {n}\tmot {n}\t{by}\n" for n in range(40))
    path = write("x.txt", rows)
    assert detect_kind(path) == "instruct"
    assert turns(read_conversations(path)[7]) == [("user", "word 7"), ("assistant", "mot 7")]
    # Of 40 rows 37 are not enough to tell.
    path = write("y.txt", rows.replace(by, "none", 3))
    assert "prompt_column=1 answer_column=2" in refusal(read_conversations, path)


def test_history_and_system_of_a_row(
    jsonl: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    alpaca = {"instruction": "c", "input": "", "output": "d", "history": [["a", "b"]]}
    rows = [alpaca | {"system": "s"}, alpaca | {"history": [], "system": ""}]
    assert [turns(row) for row in read_conversations(jsonl(*rows))] == [
        [("system", "s"), *zip(["user", "assistant"] * 2, "abcd", strict=True)],
        [("user", "c"), ("assistant", "d")],
    ]
    said = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    own = [{"from": "system", "value": "own"}, *said]
    path = jsonl(
        {"conversations": said, "system": "s"},
        {"conversations": own, "system": "s"},
    )
    firsts = [turns(row)[0] for row in read_conversations(path)]
    assert firsts == [("system", "s"), ("system", "own")]
    wrong = jsonl(alpaca | {"history": [["a"]]})
    assert "'history' is no list of pairs" in refusal(read_conversations, wrong)


def test_content_in_parts(jsonl: Callable[..., Path]) -> None:
    messages = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": " b"}, " c"]},
        {"role": "assistant", "content": [{"type": "text", "text": "d"}]},
    ]
    (conversation,) = read_conversations(jsonl({"messages": messages}))
    assert turns(conversation) == [("system", "s"), ("user", "a b c"), ("assistant", "d")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "completion": " "}, "'completion' is empty"),
        ({"prompt": "a"}, "'completion' is empty"),
        ({"prompt": "", "completion": "b"}, "'prompt' is empty"),
        ({"prompt": ["a"], "completion": "b"}, "'prompt' is no text but a list"),
    ],
)
def test_bad_pairs(
    jsonl: Callable[..., Path], refusal: Callable[..., str], row: dict[str, Any], reason: str
) -> None:
    path = jsonl({"prompt": "a", "completion": "b"}, row)
    assert refusal(read_conversations, path).startswith(f"{path}:2: {reason}")
    assert len(read_conversations(path, bad_rows="skip")) == 1


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no list of messages"),
        ("hello", "no JSON list"),
        ([{"role": "user", "content": "a"}], "no message of the assistant"),
        (None, "the row has no 'messages'"),
        ([{"role": "tool", "content": "a"}], "the role 'tool'"),
        ([{"role": "narrator", "content": "a"}], "the role 'narrator': known are system, dev"),
        ([{"role": "assistant", "content": ""}], "message 1 is empty"),
        ([{"role": "assistant", "content": None}], "no text in its content"),
        (["a"], "message 1 is no object"),
        (
            [{"from": "function_call", "value": "{}"}],
            "the role 'function_call': calls of tools",
        ),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{}]}],
            "message 1 calls a tool",
        ),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "the type 'image_url': only"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a part without text"),
        ([{"role": "user", "content": []}], "no text in its content"),
    ],
)
def test_bad_messages(
    jsonl: Callable[..., Path], refusal: Callable[..., str], messages: Any, reason: str
) -> None:
    path = jsonl({"messages": messages})
    assert reason in refusal(read_conversations, path)


@real_data
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("rasbt/instruction-data.json", 1100),
        ("rasbt/instruction-data-with-preference.json", 1100),
        ("rasbt/instruction-data-with-response.json", 110),
        ("llamafactory/identity.json", 91),
        ("self_instruct/user_oriented_instructions.jsonl", 252),
        ("eng_fra_tatoeba/eng-fra.txt", 5000),
        ("llamafactory/alpaca_en_demo.json", 999),
        ("sharegpt_format/dummy_conversation.json", 500),
        ("self_instruct/seed_tasks.jsonl", 175),
        ("korean_chatbot/ChatbotData.csv", 11823),
    ],
)
def test_instruct(name: str, rows: int) -> None:
    path = Path(os.environ["LLMSTAGES_DATA"]) / "instruct" / name
    assert detect_kind(path) == "instruct"
    assert len(read_conversations(path)) == rows


@real_data
def test_a_folder_of_all_shapes(refusal: Callable[..., str]) -> None:
    """No file of instructions is left out, and all but preferences are read without method."""
    folder = Path(os.environ["LLMSTAGES_DATA"]) / "instruct"
    files = data_files(folder)
    preferences = [file for file in files if file.name == "dpo_en_demo.json"]
    (refused,) = preferences
    assert refusal(read_conversations, refused).startswith(f"{refused}: rows of chosen and")
    read = [file for file in files if file not in preferences]
    assert sum(len(read_conversations(file)) for file in read) == 21150
    assert {path.suffix for path in folder.rglob("*.*")} - {p.suffix for p in files} == {".md"}

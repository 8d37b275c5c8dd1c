"""Labelled files are understood by their columns, and what cannot be used is said in one line."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmstages.data.labelled import (
    LabelledText,
    detect_kind,
    read_conversations,
    read_labelled_texts,
    read_preferences,
    read_texts,
)
from llmstages.data.labelled_files import data_files
from llmstages.errors import UserError


def write(tmp_path: Path, name: str, content: str) -> Path:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


def jsonl(tmp_path: Path, *rows: Any) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return write(tmp_path, "x.jsonl", "\n".join(lines) + "\n")


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        list(call(*arguments, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message


def turns(conversation: Any) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in conversation.messages]


class TestLabelledTexts:
    def test_columns_by_name_whatever_their_case(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "ID,Review,Sentiment\n1,good,pos\n2,bad, neg \n")
        assert read_labelled_texts(path) == [
            LabelledText("good", "pos", 2),
            LabelledText("bad", "neg", 3),
        ]

    def test_likelier_names_first(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "title,text,topic,label\na,b,c,d\ne,f,g,h\n")
        assert read_labelled_texts(path)[0] == LabelledText("b", "d", 2)

    def test_named_columns(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.tsv", "wert\tklasse\neins\ta\nzwei\tb\n")
        rows = read_labelled_texts(path, text_column="wert", label_column="KLASSE")
        assert rows == [LabelledText("eins", "a", 2), LabelledText("zwei", "b", 3)]

    def test_labels_that_are_no_text(self, tmp_path: Path) -> None:
        values = [1, 0, True, False, 2.0, 0.5, " x "]
        path = jsonl(tmp_path, *({"text": "t", "label": value} for value in values))
        labels = [row.label for row in read_labelled_texts(path)]
        assert labels == ["1", "0", "true", "false", "2", "0.5", "x"]

    def test_parquet_with_missing_labels(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"text": ["a", "b", "c"], "label": [1.0, None, 2.0]}), path)
        assert "no label in 'label'" in refusal(read_labelled_texts, path)
        rows = read_labelled_texts(path, bad_rows="skip")
        assert rows == [LabelledText("a", "1", 1), LabelledText("c", "2", 3)]

    def test_empty_text_is_kept_and_empty_label_is_not(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "text,label\n,a\nx,\ny,b\n")
        assert refusal(read_labelled_texts, path).startswith(f"{path}:3: no label in 'label'")
        rows = read_labelled_texts(path, bad_rows="skip")
        assert rows == [LabelledText("", "a", 2), LabelledText("y", "b", 4)]

    def test_first_bad_row_and_their_number(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.jsonl", '{"text":"a","label":1}\n{"text":"b"}\n{\n{"label":2}\n')
        message = refusal(read_labelled_texts, path)
        assert message.startswith(f"{path}:2: no label in 'label' (3 bad rows")

    @pytest.mark.parametrize("value", [["a", "b"], {"a": 1}])
    def test_several_labels(self, tmp_path: Path, value: Any) -> None:
        path = jsonl(tmp_path, {"text": "t", "label": value}, {"text": "t", "label": "x"})
        assert "one label a row" in refusal(read_labelled_texts, path)

    def test_missing_column(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "text,foo\na,b\nc,d\n")
        message = refusal(read_labelled_texts, path)
        assert message == (
            f"{path}: no column for the label; its columns: text, foo; "
            "name it with label_column=..."
        )
        message = refusal(read_labelled_texts, path, label_column="fo")
        assert message.endswith("its columns: text, foo; did you mean label_column=foo?")

    def test_one_label_only(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "text,label\na,ham\nb,ham\n")
        assert "all 2 rows have the label 'ham'" in refusal(read_labelled_texts, path)

    def test_no_rows(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "text,label\n")
        assert "no row with a text and a label" in refusal(read_labelled_texts, path)

    @pytest.mark.parametrize("flip", [False, True])
    def test_headerless_label_is_the_column_with_fewer_values(
        self, tmp_path: Path, flip: bool
    ) -> None:
        cells = [("the first", "1"), ("a second", "0"), ("third one", "1")]
        lines = ["\t".join(reversed(pair) if flip else pair) for pair in cells]
        path = write(tmp_path, "x.tsv", "\n".join(lines))
        assert read_labelled_texts(path)[1] == LabelledText("a second", "0", 2)
        only_text_named = read_labelled_texts(path, text_column="2" if flip else "1")
        assert only_text_named[1] == LabelledText("a second", "0", 2)

    def test_headerless_in_doubt(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.tsv", "Go.\tVa !\nHi.\tSalut !\n")
        assert "label_column=2" in refusal(read_labelled_texts, path)


class TestTexts:
    def test_no_label_is_needed(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "id,message\n1,a\n2,\n")
        assert list(read_texts(path)) == [(2, "a"), (3, "")]

    def test_a_single_column_is_the_text(self, tmp_path: Path) -> None:
        assert list(read_texts(jsonl(tmp_path, {"foo": "a"}, {"foo": "b"}))) == [(1, "a"), (2, "b")]

    def test_plain_lines(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.txt", "one, two\n\nthree\n")
        assert list(read_texts(path)) == [(1, "one, two"), (3, "three")]

    def test_nothing_comes_after_a_bad_row(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path, {"text": "a"}, {"text": None}, {"text": "b"}, {"text": [1]})
        texts = read_texts(path)
        assert next(texts) == (1, "a")
        with pytest.raises(UserError, match=r":2: no 'text' \(2 bad rows"):
            next(texts)
        assert list(read_texts(path, bad_rows="skip")) == [(1, "a"), (3, "b")]


class TestPreferences:
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
    def test_forms(self, tmp_path: Path, row: dict[str, object]) -> None:
        path = jsonl(tmp_path, {"rejected": "Dunno.", **row})
        (preference,) = read_preferences(path)
        asked = ("user", "What is it?")
        assert turns(preference.chosen) == [asked, ("assistant", "A lion.")]
        assert turns(preference.rejected) == [asked, ("assistant", "Dunno.")]
        assert detect_kind(path) == "instruct"

    def test_context_and_system_prompt_and_several_turns(self, tmp_path: Path) -> None:
        path = jsonl(
            tmp_path,
            {"instruction": "Spell", "input": "cat", "system": "Hi.", "chosen": "a", "rejected": 2},
        )
        (preference,) = read_preferences(path)
        expected = [("system", "Hi."), ("user", "Spell\n\ncat"), ("assistant", "2")]
        assert turns(preference.rejected) == expected
        shared = "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
        path = jsonl(tmp_path, {"chosen": shared + "d", "rejected": shared + "e"})
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
    def test_bad_rows(self, tmp_path: Path, row: dict[str, object], reason: str) -> None:
        assert reason in refusal(read_preferences, jsonl(tmp_path, row))

    def test_other_files(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path, {"prompt": "a", "completion": "b"})
        message = refusal(read_preferences, path)
        assert "method=dpo needs the columns chosen and rejected; its columns: prompt" in message
        path = jsonl(tmp_path, {"prompt": "a", "chosen": "b", "rejected": "c"})
        assert "set method=dpo" in refusal(read_conversations, path)
        # With an answer besides it is a file of pairs as well.
        path = jsonl(tmp_path, {"prompt": "a", "output": "x", "chosen": "b", "rejected": "c"})
        assert turns(read_conversations(path)[0])[-1] == ("assistant", "x")


class TestConversations:
    def test_alpaca(self, tmp_path: Path) -> None:
        path = jsonl(
            tmp_path,
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
    def test_pairs(self, tmp_path: Path, names: tuple[str, str]) -> None:
        path = write(tmp_path, "x.csv", f"{names[0]},{names[1]},label\nhow?,so,0\n")
        assert turns(read_conversations(path)[0]) == [("user", "how?"), ("assistant", "so")]

    def test_messages(self, tmp_path: Path) -> None:
        messages = [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ]
        (conversation,) = read_conversations(jsonl(tmp_path, {"messages": messages}))
        assert turns(conversation) == [("system", "s"), ("user", "a"), ("assistant", "b")]

    def test_messages_as_json_in_a_cell(self, tmp_path: Path) -> None:
        cell = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        path = write(tmp_path, "x.csv", "id,messages\n1," + '"' + cell.replace('"', '""') + '"\n')
        assert turns(read_conversations(path)[0]) == [("user", "a"), ("assistant", "b")]

    def test_from_and_value(self, tmp_path: Path) -> None:
        said = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
        (conversation,) = read_conversations(jsonl(tmp_path, {"conversations": said}))
        assert turns(conversation) == [("user", "a"), ("assistant", "b")]

    def test_instances(self, tmp_path: Path) -> None:
        instances = [{"input": "x", "output": "1"}, {"input": "", "output": "2"}]
        rows = read_conversations(jsonl(tmp_path, {"instruction": "do", "instances": instances}))
        assert [turns(row)[0][1] for row in rows] == ["do\n\nx", "do"]
        assert [row.line for row in rows] == [1, 1]

    def test_headerless_pairs(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.tsv", "Go.\tVa !\nHi.\tSalut !\n")
        assert turns(read_conversations(path)[1]) == [("user", "Hi."), ("assistant", "Salut !")]

    def test_named_columns_of_a_headerless_file(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.tsv", "Go.\tVa !\tby me\nHi.\tSalut !\tby you\n")
        assert "prompt_column=1 answer_column=2" in refusal(read_conversations, path)
        rows = read_conversations(path, prompt_column="2", answer_column="1")
        assert turns(rows[0]) == [("user", "Va !"), ("assistant", "Go.")]

    def test_a_column_of_attributions_is_no_part_of_a_pair(self, tmp_path: Path) -> None:
        by = "CC-BY 2.0 (France) Attribution: tatoeba.org #1 (CM) & #2 (Aiji)"
        rows = "".join(f"word {n}\tmot {n}\t{by}\n" for n in range(40))
        path = write(tmp_path, "x.txt", rows)
        assert detect_kind(path) == "instruct"
        assert turns(read_conversations(path)[7]) == [("user", "word 7"), ("assistant", "mot 7")]
        # Of 40 rows 37 are not enough to tell.
        path = write(tmp_path, "y.txt", rows.replace(by, "none", 3))
        assert "prompt_column=1 answer_column=2" in refusal(read_conversations, path)

    def test_history_and_system_of_a_row(self, tmp_path: Path) -> None:
        alpaca = {"instruction": "c", "input": "", "output": "d", "history": [["a", "b"]]}
        rows = [alpaca | {"system": "s"}, alpaca | {"history": [], "system": ""}]
        assert [turns(row) for row in read_conversations(jsonl(tmp_path, *rows))] == [
            [("system", "s"), *zip(["user", "assistant"] * 2, "abcd", strict=True)],
            [("user", "c"), ("assistant", "d")],
        ]
        said = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
        own = [{"from": "system", "value": "own"}, *said]
        path = jsonl(
            tmp_path,
            {"conversations": said, "system": "s"},
            {"conversations": own, "system": "s"},
        )
        firsts = [turns(row)[0] for row in read_conversations(path)]
        assert firsts == [("system", "s"), ("system", "own")]
        wrong = jsonl(tmp_path, alpaca | {"history": [["a"]]})
        assert "'history' is no list of pairs" in refusal(read_conversations, wrong)

    def test_content_in_parts(self, tmp_path: Path) -> None:
        messages = [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": " b"}, " c"]},
            {"role": "assistant", "content": [{"type": "text", "text": "d"}]},
        ]
        (conversation,) = read_conversations(jsonl(tmp_path, {"messages": messages}))
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
    def test_bad_pairs(self, tmp_path: Path, row: dict[str, Any], reason: str) -> None:
        path = jsonl(tmp_path, {"prompt": "a", "completion": "b"}, row)
        assert refusal(read_conversations, path).startswith(f"{path}:2: {reason}")
        assert len(read_conversations(path, bad_rows="skip")) == 1

    @pytest.mark.parametrize(
        ("messages", "reason"),
        [
            ([], "no list of messages"),
            ("hello", "no JSON list"),
            ([{"role": "user", "content": "a"}], "no message of the assistant"),
            ([{"role": "tool", "content": "a"}], "the role 'tool'"),
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
    def test_bad_messages(self, tmp_path: Path, messages: Any, reason: str) -> None:
        path = jsonl(tmp_path, {"messages": messages})
        assert reason in refusal(read_conversations, path)


class TestKind:
    @pytest.mark.parametrize(
        ("header", "kind"),
        [
            ("text,label", "classify"),
            ("Sentence,Category", "classify"),
            ("question,label", "classify"),
            ("instruction,input,output", "instruct"),
            ("prompt,completion", "instruct"),
            ("question,answer,label", "instruct"),
            ("id,messages", "instruct"),
        ],
    )
    def test_by_columns(self, tmp_path: Path, header: str, kind: str) -> None:
        cells = ",".join(f"c{index}" for index in range(header.count(",") + 1))
        assert detect_kind(write(tmp_path, "x.csv", f"{header}\n{cells}\n")) == kind

    def test_neither_and_both(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "foo,bar\na,b\n")
        message = refusal(detect_kind, path)
        assert "(foo, bar)" in message
        assert "label_column=..." in message
        path = write(tmp_path, "y.csv", "text,label,prompt,completion\na,b,c,d\n")
        assert "both" in refusal(detect_kind, path)

    def test_headerless(self, tmp_path: Path) -> None:
        labels = "".join(f"{n % 2}\ttext number {n}\n" for n in range(100))
        assert detect_kind(write(tmp_path, "a.tsv", labels)) == "classify"
        pairs = "".join(f"word {n}\tWort {n}\n" for n in range(100))
        assert detect_kind(write(tmp_path, "b.tsv", pairs)) == "instruct"
        few = "".join(f"{n % 2}\t{n % 3}\n" for n in range(100))
        assert "both columns" in refusal(detect_kind, write(tmp_path, "c.tsv", few))

    def test_a_tenth_distinct_is_no_label(self, tmp_path: Path) -> None:
        # Fewer than 10 %: 9 of 100 are a label's values, 10 of 100 are not.
        nine = "".join(f"t{n % 9}\ttext number {n}\n" for n in range(100))
        ten = "".join(f"t{n % 10}\ttext number {n}\n" for n in range(100))
        assert detect_kind(write(tmp_path, "a.tsv", nine)) == "classify"
        assert detect_kind(write(tmp_path, "b.tsv", ten)) == "instruct"

    def test_no_rows_and_plain_text(self, tmp_path: Path) -> None:
        assert "an object is expected" in refusal(
            detect_kind, write(tmp_path, "x.json", '["a", "b"]')
        )
        assert "plain text" in refusal(detect_kind, write(tmp_path, "x.txt", "a b\nc d\n"))

    def test_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; import llmstages.data.labelled; "
            "print([m for m in ('torch', 'daft', 'transformers', 'pyarrow') if m in sys.modules])"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.skipif("LLMSTAGES_DATA" not in os.environ, reason="LLMSTAGES_DATA names no real data")
class TestRealData:
    @pytest.mark.parametrize(
        ("name", "rows", "labels"),
        [
            ("classify/sms_spam/SMSSpamCollection", 5574, 2),
            ("classify/banking77/train.csv", 10003, 77),
            ("classify/snips/train.csv", 13084, 7),
            ("classify/korean_3i4k/fci_test.txt", 6121, 7),
        ],
    )
    def test_classify(self, name: str, rows: int, labels: int) -> None:
        path = Path(os.environ["LLMSTAGES_DATA"]) / name
        assert detect_kind(path) == "classify"
        examples = read_labelled_texts(path)
        assert (len(examples), len(Counter(row.label for row in examples))) == (rows, labels)

    @pytest.mark.parametrize("encoding", ["cp949", "latin-1", "utf-16", "utf-8-sig"])
    def test_other_encodings(self, tmp_path: Path, encoding: str) -> None:
        name = "korean_3i4k/fci_test.txt" if encoding == "cp949" else "snips/test.csv"
        path = Path(os.environ["LLMSTAGES_DATA"]) / "classify" / name
        copy = tmp_path / path.name
        text = path.read_text(encoding="utf-8").encode(encoding, errors="ignore").decode(encoding)
        copy.write_bytes(text.encode(encoding))
        plain = tmp_path / f"plain-{path.name}"
        plain.write_text(text, encoding="utf-8")
        assert read_labelled_texts(copy) == read_labelled_texts(plain)

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
    def test_instruct(self, name: str, rows: int) -> None:
        path = Path(os.environ["LLMSTAGES_DATA"]) / "instruct" / name
        assert detect_kind(path) == "instruct"
        assert len(read_conversations(path)) == rows

    def test_a_folder_of_all_shapes(self) -> None:
        """No file of instructions is left out, and all but preferences are read without method."""
        folder = Path(os.environ["LLMSTAGES_DATA"]) / "instruct"
        files = data_files(folder)
        preferences = [file for file in files if file.name == "dpo_en_demo.json"]
        (refused,) = preferences
        assert refusal(read_conversations, refused).startswith(f"{refused}: rows of chosen and")
        read = [file for file in files if file not in preferences]
        assert sum(len(read_conversations(file)) for file in read) == 21150
        assert {path.suffix for path in folder.rglob("*.*")} - {p.suffix for p in files} == {".md"}

    @pytest.mark.parametrize(
        ("name", "rows"),
        [
            ("rasbt/instruction-data-with-preference.json", 1094),  # 6 are the same answer twice
            ("llamafactory/dpo_en_demo.json", 300),
        ],
    )
    def test_preferences(self, name: str, rows: int) -> None:
        path = Path(os.environ["LLMSTAGES_DATA"]) / "instruct" / name
        assert detect_kind(path) == "instruct"
        assert len(read_preferences(path, bad_rows="skip")) == rows

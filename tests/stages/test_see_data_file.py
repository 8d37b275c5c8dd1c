"""What a data file holds and would teach is shown, and nothing in it is interpreted."""

import json
import subprocess
import sys

import pytest

from llmstages.errors import UserError


def test_labelled_file(tmp_path, look):
    path = tmp_path / "x.csv"
    path.write_bytes("text;label\nà [red]b[/red] [/];ham\nc;spam\nC ;ham\n;ham\n".encode("latin-1"))
    shown = look(path)
    for expected in (
        "│ encoding │ latin-1 │",
        "│ delimiter │ ; │",
        "│ rows │ 4 │",
        "│ for │ finetune-classify",
        "│ ham │ 3 │ 75.0% │",
        "│ spam │ 1 │ 25.0% │",
        "│ rows that repeat a text │ 1 │",
        "│ texts with different labels │ 1 │",
        "│ empty texts │ 1 │",
        "line 2: ham à [red]b[/red] [/]",
    ):
        assert expected in shown


def test_conversations(tmp_path, look):
    path = tmp_path / "x.jsonl"
    rows = [
        {"prompt": "Say [bold]", "completion": "a b c"},
        {"prompt": "say  [bold]", "completion": "d"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "x"}]))
    shown = look(path, num_examples=1)
    assert "│ words in answers │ 4 │" in shown
    assert "│ rows that repeat a prompt │ 1 │" in shown
    assert "line 1 user: Say [bold] assistant: a b c" in shown
    assert "line 2" not in shown


def test_conversations_as_a_base_reads_them(tmp_path, look, tiny_run):
    long = " ".join(f"word{n} speaks" for n in range(12))
    path = tmp_path / "x.jsonl"
    rows = [
        {"prompt": "Say", "completion": "so", "system": "Be brief."},
        {"prompt": long, "completion": "so"},
        {"prompt": f"{long} again", "completion": "so"},
        {"prompt": "Long", "completion": "because " * 60},
        {"prompt": "Nothing", "completion": " "},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = look(path, base=str(tiny_run), num_examples=4)
    for expected in (
        "bad rows: 1 ┏",
        "│ 'completion' is empty: there is no answer to learn │ 1 │ line 5 │",
        "│ prompts that nearly repeat another │ 1 │",
        "│ with a system prompt │ 1 │",
        "│ empty answers │ 1 │",
        "│ context, tokens │ 64 │",
        "│ answers end in │ <|im_end|> │",
        "marks: ⟦learnt⟧, ⟨cut: cut by the context⟩",
        "<|im_start|>system Be brief.<|im_end|> <|im_start|>user Say<|im_end|> "
        "<|im_start|>assistant ⟦so<|im_end|>⟧",
        "packed rows of 64 tokens",
        "│ line 1 [",
    ):
        assert expected in shown, expected
    assert shown.count("⟨cut: ") >= 2
    with pytest.raises(UserError, match="no such checkpoint or run"):
        look(path, base=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is for a file of conversations"):
        look(tiny_run, base=str(tiny_run))


def test_the_usual_base_is_used_where_it_is(tmp_path, look, tiny_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "Say", "completion": "so"}\n')
    assert "user: Say assistant: so" in look(path)
    (tmp_path / "runs" / "pretrain").mkdir(parents=True)
    shown = look(path)
    assert "shown as text only, since runs/pretrain cannot be used" in shown
    assert "user: Say assistant: so" in shown
    (tmp_path / "runs" / "pretrain").rmdir()
    (tmp_path / "runs" / "pretrain").symlink_to(tiny_run)
    assert "assistant ⟦so<|im_end|>⟧" in look(path)


def test_bad_rows_and_other_files(tmp_path, look):
    path = tmp_path / "x.jsonl"
    path.write_text('{"foo": "[/]", "bar": 1}\n{"foo"\n')
    shown = look(path)
    assert "│ rows │ 2 │" in shown
    assert "bad rows: 1 ┏" in shown
    assert "│ 1 │ line 2 │" in shown
    assert "broken JSON (Expecting ':' delimiter at column 7)" in shown
    assert "neither text and label nor prompt and answer" in shown
    assert 'row on line 1 {"foo": "[/]", "bar": 1}' in shown


def test_columns_are_named(tmp_path, look):
    path = tmp_path / "faq.csv"
    path.write_text("no,ask,reply\n1,How?,So.\n2,Why?,\n3,Who?,\n")
    shown = look(path, prompt_column="ask", answer_column="reply")
    assert "│ for │ finetune-instruct │" in shown
    assert "│ 'reply' is empty: there is no answer to learn │ 2 │ line 3 │" in shown
    assert "line 2 user: How? assistant: So." in shown
    shown = look(path, text_column=["no", "ask"], label_column="reply", label_separator=";")
    assert "line 2: So. no: 1 ask: How?" in shown
    with pytest.raises(UserError, match=r"no column 'askk' \(prompt_column\)"):
        look(path, prompt_column="askk")
    with pytest.raises(UserError, match="label_column is for texts with labels, prompt_column for"):
        look(path, prompt_column="ask", label_column="reply")
    with pytest.raises(UserError, match="text_column is for a file of rows"):
        look(tmp_path, text_column="ask")


def test_preferences(tmp_path, look, tiny_run):
    path = tmp_path / "x.json"
    row = {"prompt": "Say", "chosen": "so", "rejected": "because " * 60}
    path.write_text(json.dumps([row | {"rejected": "so"}, row]))
    shown = look(path)
    assert "│ for │ finetune-instruct method=dpo: chosen and rejected answers │" in shown
    assert "│ 'chosen' and 'rejected' are the same │ 1 │ record 1 │" in shown
    assert "record 2, chosen user: Say assistant: so ── record 2, rejected user: Say" in shown
    shown = look(path, base=str(tiny_run))
    assert "│ answers cut │ 1 of 2 (50.0%) │" in shown
    assert "record 2, chosen: " in shown
    assert "assistant ⟦so<|im_end|>⟧" in shown


def test_one_label_only(tmp_path, look):
    path = tmp_path / "x.csv"
    path.write_text("text,label\na,ham\nb,ham\n")
    assert "not usable for training" in look(path)


def test_a_data_file_needs_no_torch(tmp_path):
    (tmp_path / "x.csv").write_text("text,label\na,b\nc,d\n")
    code = (
        "import sys; from llmstages.stages import inspect; "
        "from llmstages.config.uses import InspectConfig; "
        "inspect.run(InspectConfig(path='x.csv')); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

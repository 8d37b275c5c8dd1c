"""Text and next words on standard output."""

import io
import json
import re
import shutil

import pytest

from llmstages.model.generation import Sampling, generate
from llmstages.text.chat import Message, render
from llmstages.train.checkpoint import load_checkpoint


def test_greedy_text_is_the_prompt_and_its_continuation(cli, tiny_run):
    loaded = load_checkpoint(tiny_run)
    tokenizer = loaded.tokenizer
    (expected,) = generate(
        loaded.model.eval(),
        [tokenizer.encode("The for, x=1")],
        max_new_tokens=7,
        stop_ids=[tokenizer.end_id],
        sampling=Sampling(0.0),
    )
    status, out, err = cli(
        "generate", tiny_run, "The for, x=1", "temperature=0", "max_new_tokens=7"
    )
    assert status == 0, err
    assert out == "The for, x=1" + tokenizer.decode(expected.tokens) + "\n"
    assert f"{len(expected.tokens)} tokens" in err


def test_samples_follow_the_seed(cli, tiny_run):
    words = ["generate", tiny_run, "The", "max_new_tokens=9", "num_samples=3"]
    first, again, other = cli(*words), cli(*words), cli(*words, "seed=1")
    assert first[:2] == again[:2]
    assert first[1] != other[1]
    assert first[1].count("The") >= 3


@pytest.mark.parametrize("prompt", ["", "word " * 500])
def test_empty_and_long_prompts(cli, tiny_run, prompt):
    status, out, err = cli("generate", tiny_run, f"prompt='{prompt}'", "max_new_tokens=3")
    assert status == 0, err
    assert out.startswith(prompt)
    assert ("are used" in err) == bool(prompt)


def test_a_specialist_answers_a_users_turn(cli, instruct_run):
    loaded = load_checkpoint(instruct_run)
    ids, _ = render([Message("user", "What is DEBUGGING?")], loaded.tokenizer, open_answer=True)
    (expected,) = generate(
        loaded.model.eval(),
        [ids],
        max_new_tokens=5,
        stop_ids=[loaded.tokenizer.turn_end_id, loaded.tokenizer.end_id],
        sampling=Sampling(0.0),
    )
    words = ["generate", instruct_run, "What is DEBUGGING?", "temperature=0", "max_new_tokens=5"]
    status, out, err = cli(*words)
    assert status == 0, err
    assert out == loaded.tokenizer.decode(expected.tokens) + "\n"
    assert cli(*words, "chat='off'")[1].startswith("What is DEBUGGING?")


def test_a_foreign_model_speaks_by_its_template(cli, tiny_run, tmp_path, monkeypatch):
    directory = shutil.copytree(tiny_run / "best", tmp_path / "foreign")
    for name in ("llmstages.json", "tokenizer.model"):
        (directory / name).unlink()
    path = directory / "tokenizer_config.json"
    template = (
        "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    config = json.loads(path.read_text("utf-8")) | {"chat_template": template}
    path.write_text(json.dumps(config), encoding="utf-8")
    loaded = load_checkpoint(directory)
    tokenizer = loaded.tokenizer
    (expected,) = generate(
        loaded.model.eval(),
        [
            [
                *tokenizer.encode("user: What?"),
                tokenizer.end_id,
                *tokenizer.encode("assistant: "),
            ]
        ],
        max_new_tokens=5,
        stop_ids=[tokenizer.end_id],
        sampling=Sampling(0.0),
    )
    settings = ("temperature=0", "max_new_tokens=5")
    status, out, err = cli("generate", directory, "What?", *settings)
    assert status == 0, err
    assert "has a chat template, so a prompt is a user's turn" in " ".join(err.split())
    assert out == tokenizer.decode(expected.tokens) + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("What?\n"))
    assert cli("chat", directory, *settings)[1] == out
    assert cli("generate", directory, "What?", "chat='off'", *settings)[1].startswith("What?")


def test_next_words(cli, tiny_run):
    status, out, err = cli("generate", tiny_run, "The value of the", "top=5")
    assert status == 0, err
    rows = [line for line in out.splitlines() if line.startswith("│")]
    assert len(rows) == 5
    shares = [float(row.split("│")[3]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1


def test_samples_are_those_of_the_prompt_read_once(cli, tiny_run):
    words = ["generate", tiny_run, "The", "max_new_tokens=9"]
    status, out, err = cli(*words, "num_samples=4")
    assert status == 0, err
    assert re.search(r"[\d,]+ tokens, [\d,]+ tokens/s; 1 of prompts read, [\d,]+ tokens/s", err)
    assert out.startswith(cli(*words)[1])  # a sample does not depend on how many there are


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


QUESTIONS = [f"What is {'very ' * (7 * i % 11)}topic {i}?" for i in range(9)]


@pytest.fixture
def questions(tmp_path):
    return write_rows(tmp_path / "questions.jsonl", [{"question": text} for text in QUESTIONS])


def entries(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("sampling", ["temperature=0", "temperature=1"])
def test_answers_to_a_file_do_not_depend_on_the_batch(cli, instruct_run, questions, sampling):
    words = ["generate", instruct_run, "data=questions.jsonl", "max_new_tokens=8", sampling]
    status, one, err = cli(*words, "batch_size=1")
    assert status == 0, err
    assert cli(*words, "batch_size=4", "output=answers.jsonl")[:2] == (0, "")
    assert (questions.parent / "answers.jsonl").read_text("utf-8") == one
    found = entries(one)
    assert [entry["id"] for entry in found] == list(range(1, 10))
    assert [entry["prompt"] for entry in found] == QUESTIONS
    for entry in found[:3]:
        if sampling == "temperature=0":
            alone = cli("generate", instruct_run, entry["prompt"], "max_new_tokens=8", sampling)[1]
            assert alone == entry["answer"] + "\n"
        assert 0 <= entry["tokens"] <= 8
        assert entry["stopped"] or entry["tokens"] == 8
    assert cli(*words, "seed=1")[1] == one or sampling == "temperature=1"


def test_samples_of_a_file(cli, instruct_run, questions):
    words = ["generate", instruct_run, "data=questions.jsonl", "max_new_tokens=6", "num_samples=3"]
    status, out, err = cli(*words, "batch_size=4")
    assert status == 0, err
    found = entries(out)
    assert [(e["id"], e["sample"]) for e in found] == [
        (i, k) for i in range(1, 10) for k in range(3)
    ]
    assert cli(*words, "batch_size=7")[1] == out
    assert len({entry["answer"] for entry in found}) > 9


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("a.txt", "One\n\nTwo, too\n", ["One", "Two, too"]),
        ("a.csv", "id,prompt,answer\n1,One,\n2,Two,x\n", ["One", "Two"]),
        ("a.tsv", "text\tlabel\nOne\ta\nTwo\tb\n", ["One", "Two"]),
        (
            "a.jsonl",
            '{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "One"}, '
            '{"role": "assistant", "content": "x"}, {"role": "user", "content": "Two"}]}\n',
            ["Two"],
        ),
        ("b.jsonl", '{"instruction": "One", "input": "Two"}\n', ["One\n\nTwo"]),
        ("c.jsonl", '{"ask": "One", "text": "x"}\n', ["One"]),
    ],
)
def test_files_of_prompts(cli, tiny_run, tmp_path, name, content, prompts):
    (tmp_path / name).write_text(content, encoding="utf-8")
    more = ["prompt_column=ask"] if "ask" in content else []
    status, out, err = cli("generate", tiny_run, f"data={name}", "max_new_tokens=2", *more)
    assert status == 0, err
    assert [entry["prompt"] for entry in entries(out)] == prompts


def test_a_parquet_file_of_prompts(cli, tiny_run, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["One", "Two"]}), tmp_path / "a.parquet")
    status, out, err = cli("generate", tiny_run, "data=a.parquet", "max_new_tokens=2")
    assert status == 0, err
    assert [entry["id"] for entry in entries(out)] == [1, 2]


def test_bad_rows_of_a_file_of_prompts(cli, tiny_run, tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"prompt": "One"}, {"prompt": " "}, {"prompt": "Three"}])
    words = ["generate", tiny_run, "data=a.jsonl", "max_new_tokens=2", "output=out.jsonl"]
    status, _, err = cli(*words)
    assert status == 2
    assert "a.jsonl:2: 'prompt' is empty" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]
    status, _, err = cli(*words, "bad_rows=skip")
    assert status == 0, err
    found = entries((tmp_path / "out.jsonl").read_text("utf-8"))
    assert [entry["id"] for entry in found] == [1, 3]
    assert "2 answers in out.jsonl" in err


def test_prompts_of_a_file_are_cut_to_the_context(cli, tiny_run, tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"prompt": "word " * 500}, {"prompt": "word"}])
    status, out, err = cli("generate", tiny_run, "data=a.jsonl", "max_new_tokens=2")
    assert status == 0, err
    assert len(entries(out)) == 2
    assert "of 1 prompts the end alone was used" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=x.jsonl", "prompt=x"], "data=x.jsonl and prompt=x are given: keep one"),
        (["data=x.jsonl", "top=3"], "data=x.jsonl and top=3 are given: keep one"),
        (["a", "output=x.jsonl"], "output=x.jsonl is for the answers to a file"),
        (["data=missing.jsonl"], "missing.jsonl"),
    ],
)
def test_what_does_not_go_together(cli, tiny_run, words, said):
    status, _, err = cli("generate", tiny_run, *words)
    assert status == 2
    assert said in err

"""What a model is able to do: choices, examples in front of questions, chance, what is refused."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmstages.data.tasks import Reading, as_template, read_task, with_shots
from llmstages.errors import UserError
from llmstages.evaluate.abilities import (
    FIGURES,
    answers_of,
    chances_of,
    chat_prompt,
    fitting,
    measures_of,
)
from llmstages.evaluate.bootstrap import proportion
from llmstages.evaluate.continuations import Subject
from llmstages.text.chat import Message, render
from llmstages.train.checkpoint import load_checkpoint

CHOICES = [
    {"query": "Question: What is an integer?", "choices": ["a number", "a lion — big"], "gold": 0},
    {"query": "Question: Is a tuple a list?\n", "choices": ["no", "yes, it is", "so"], "gold": 1},
    {"query": "The lion is", "choices": ["in the garden", "an integer"], "gold": 0},
    {"query": "Strings are", "choices": ["sequences of characters", "lists"], "gold": 1},
]


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def subject(tiny_run: Path) -> Subject:
    checkpoint = load_checkpoint(tiny_run)
    return Subject(checkpoint.model, checkpoint.tokenizer, torch.device("cpu"), quiet=True)


def test_how_questions_are_written(tmp_path: Path) -> None:
    path = written(tmp_path / "choices.jsonl", CHOICES)
    prompts = [item.prompt for item in read_task(path).items]
    assert prompts[:3] == [
        "Question: What is an integer?\nAnswer:",
        "Question: Is a tuple a list?\nAnswer:",
        "The lion is",
    ]
    task = read_task(path, Reading(template=as_template("Say: {text}\\nNow:")))
    assert task.items[2].prompt == "Say: The lion is\nNow:"
    with pytest.raises(UserError, match=r"has no place for \{text\}"):
        as_template("Say:")


def test_what_chance_comes_to(tmp_path: Path) -> None:
    choices = read_task(written(tmp_path / "choices.jsonl", CHOICES))
    assert chances_of(choices) == pytest.approx({"acc": 11 / 24, "acc_norm": 11 / 24})
    rows = [{"text": f"text {number}", "label": str(number % 4 == 0)} for number in range(12)]
    labels = read_task(written(tmp_path / "labels.jsonl", rows))
    # Always "False" is right in 9 of 12, its F1 6/7 and that of "True" 0.
    assert chances_of(labels) == pytest.approx({"acc": 3 / 4, "acc_norm": 3 / 4, "macro_f1": 3 / 7})
    pairs = [{"prompt": f"p {number}", "completion": f"{number}"} for number in range(4)]
    answers = chances_of(read_task(written(tmp_path / "pairs.jsonl", pairs)))
    assert chances_of(read_task(written(tmp_path / "one.jsonl", pairs[:1]))) == {}
    assert answers["exact_match"] == 0
    assert tuple(answers) == FIGURES["answers"]
    assert proportion([False] * 96).interval(0) == pytest.approx((0, 0.0385), abs=1e-4)


def test_labels_are_chosen_by_their_likelihood(subject: Subject, tmp_path: Path) -> None:
    rows = [{"text": f"a {number}", "label": number % 2} for number in range(6)]
    path = written(tmp_path / "labels.jsonl", rows)
    words = {"0": "the", "1": "qqqqqqqq"}
    task = read_task(path, Reading(template="{text} is of", label_words=words))
    assert task.prompt(1) == "a 1 is of"
    assert task.items[1].choices == ("the", "qqqqqqqq")
    measures = measures_of(subject, task)
    assert measures["acc"].statistics[:, 0].tolist() == [1, 0] * 3
    assert measures["macro_f1"].value == pytest.approx(1 / 3)  # F1 of 2/3 and of 0
    with pytest.raises(UserError, match="label_words names '2', no label of"):
        read_task(path, Reading(label_words={"2": "x"}))


def test_examples_stand_in_front_and_are_never_the_question(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "completion": f"c{number}"} for number in range(5)]
    task = with_shots(read_task(written(tmp_path / "pairs.jsonl", rows)), 4)
    for index in range(5):
        assert {item.line for item in task.examples(index)} == {1, 2, 3, 4, 5} - {index + 1}
    parts = task.prompt(0).split("\n\n")
    assert sorted(parts[:4]) == [f"Question: p{n}\nAnswer: c{n}" for n in range(1, 5)]
    assert parts[4] == "Question: p0\nAnswer:"
    some = task.sample(3)
    assert len({item.line for item in some.items}) == 3
    for index, item in enumerate(some.items):
        assert {i.line for i in some.examples(index)} == {1, 2, 3, 4, 5} - {item.line}
    with pytest.raises(UserError, match="shots=5: pairs has 4 examples to take"):
        with_shots(task, 5)


def test_a_question_is_no_example_of_itself_wherever_it_stands(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number % 3}", "completion": f"c{number}"} for number in range(9)]
    path = written(tmp_path / "pairs.jsonl", rows)
    for pool in (None, read_task(path.parent / ".." / path.parent.name / path.name)):
        task = with_shots(read_task(path), 6, pool)
        for index, item in enumerate(task.items):
            examples = task.examples(index)
            assert len(examples) == 6
            assert item.prompt not in {example.prompt for example in examples}


def test_examples_depend_on_the_seed_and_the_line_alone(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "completion": f"c{number}"} for number in range(40)]
    task = with_shots(read_task(written(tmp_path / "pairs.jsonl", rows)), 3)
    some = task.sample(7)
    for index, item in enumerate(some.items):
        assert some.examples(index) == task.examples(item.line - 1)


def test_any_question_may_be_the_first_example(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "completion": f"c{number}"} for number in range(400)]
    task = read_task(written(tmp_path / "pairs.jsonl", rows))
    drawn = {
        with_shots(replace(task, seed=seed), 1).examples(index)[0].line
        for seed in range(8)
        for index in range(400)
    }
    assert len(drawn) == 400


def test_files_of_a_folder_have_all_their_labels(subject: Subject, tmp_path: Path) -> None:
    for name, labels in (("a", "xy"), ("b", "yz"), ("c", "z")):
        rows = [{"text": f"{name} {label}", "label": label} for label in labels]
        written(tmp_path / f"{name}.jsonl", rows)
    task = read_task(tmp_path)
    assert task.labels == ("x", "y", "z")
    assert [item.answer for item in task.items] == ["x", "y", "y", "z", "z"]
    assert measures_of(subject, task)["macro_f1"].value <= 1
    with pytest.raises(UserError, match="all 1 rows have the label 'z': none other to choose"):
        read_task(tmp_path / "c.jsonl")
    assert read_task(tmp_path / "c.jsonl", pool=task).labels == ("x", "y", "z")


def test_a_conversation_is_asked_turn_by_turn(subject: Subject, tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Age?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    rows = [{"messages": [*messages, {"role": "assistant", "content": str(age)}]} for age in (2, 3)]
    task = with_shots(read_task(written(tmp_path / "chats.jsonl", rows)), 0)
    asked = [Message(role, content) for role, content in turns]
    expected = render(asked, subject.tokenizer, open_answer=True)[0]
    assert chat_prompt(subject.tokenizer, task, 0) == expected
    assert task.items[0].prompt.startswith("Question: Be brief.\n\nHi")


def test_prompts_that_are_cut_are_said(
    subject: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "the lion " * size, "completion": "x"} for size in (1, 99)]
    task = read_task(written(tmp_path / "pairs.jsonl", rows))
    answers_of(replace(subject, quiet=False), task, 4)
    assert "pairs: 1 of 2 prompts leave no room" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"query": "q", "choices": ["a"], "gold": 0}, r":2: 'choices' is no list of two texts"),
        ({"query": "q", "choices": ["a", "b"], "gold": 2}, r":2: 'gold' is 2, not the number"),
        ({"query": "q", "choices": ["a", "b"], "gold": True}, r":2: 'gold' is True, not"),
        ({"query": None, "choices": ["a", "b"], "gold": 1}, r":2: no 'query'"),
    ],
)
def test_a_broken_question_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "choices.jsonl", [CHOICES[0], row])
    with pytest.raises(UserError, match=said):
        read_task(path)
    assert read_task(path, Reading(bad_rows="skip")).num_skipped == 1


def test_the_last_word_of_a_text_is_guessed(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("The lion is in the garden\nNobody\tis\n", encoding="utf-8")
    task = read_task(path)
    assert (task.kind, task.prompt(0), task.items[0].answer) == (
        *("last_word", "The lion is in the", "garden"),
    )
    assert (task.prompt(1), task.items[1].answer) == ("Nobody", "is")


def test_a_choice_longer_than_the_context_is_left_out(subject: Subject, tmp_path: Path) -> None:
    rows = [*CHOICES, {"query": "q", "choices": ["a", "x" * 1000], "gold": 0}]
    task = read_task(written(tmp_path / "choices.jsonl", rows))
    with pytest.raises(UserError, match=r":5: a choice of [\d,]+ tokens does not fit the model's"):
        fitting(task, subject.tokenizer, 64, "refuse")
    kept = fitting(task, subject.tokenizer, 64, "skip")
    assert (len(kept.items), kept.num_skipped) == (4, 1)
    assert measures_of(subject, kept)["acc"].statistics.shape == (4, 2)
    with pytest.raises(UserError, match="tokens of an answer do not fit the model's context of 64"):
        measures_of(subject, task)

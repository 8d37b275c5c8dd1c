"""Questions with choices become pairs that teach to write them."""

import json
from pathlib import Path

import pytest

ROWS = [
    {"query": "Question: What is 3 - 1?\n", "choices": ["3", "2"], "gold": 1},
    {"question": "Who came?", "passage": "Ann came.", "choices": ["Ann", "Tom"], "answer": 0},
]


def turn(tmp_path: Path, rows: list[object], *words: str) -> list[dict[str, str]]:
    import turn_questions

    questions, pairs = tmp_path / "questions.jsonl", tmp_path / "pairs.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    turn_questions.main([str(questions), str(pairs), *words])
    return [json.loads(line) for line in pairs.read_text("utf-8").splitlines()]


def test_a_question_is_asked_for_by_its_answer_or_by_its_passage(tmp_path):
    assert turn(tmp_path, ROWS) == [
        {
            "instruction": "Write a multiple-choice question with this answer.",
            "input": "2",
            "output": "What is 3 - 1?\nA) 3\nB) 2\nAnswer: B",
        },
        {
            "instruction": "Write a multiple-choice question on this text.",
            "input": "Ann came.",
            "output": "Who came?\nA) Ann\nB) Tom\nAnswer: A",
        },
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gold": 2}, "2 is the place of none of 2 choices"),
        ({"gold": True}, "True is the place of none"),
        ({"choices": "3, 2"}, "the choices are no list of texts"),
        ({"query": " "}, "there is no question"),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path, change, reason):
    with pytest.raises(SystemExit, match=f"jsonl:2: {reason}"):
        turn(tmp_path, [ROWS[0], ROWS[0] | change])
    assert not (tmp_path / "pairs.jsonl").exists()
    assert len(turn(tmp_path, [ROWS[0], ROWS[0] | change], "bad_rows=skip")) == 1

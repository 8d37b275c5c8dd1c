"""Multiple-choice questions turned round, into pairs that teach a model to write such questions.

    python scripts/turn_questions.py QUESTIONS PAIRS.jsonl [bad_rows=skip]

A row of QUESTIONS (any format of labelled rows) has a `question` or `query`, a list `choices`, and
the place of the right one, counted from 0, as `gold` or `answer`; where the question is about a
`passage`, the row has that too. A pair asks for a question on the passage, or else for one with the
right choice as its answer; its output is the question, the choices with letters, and the right
letter.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from llmstages.data.columns import find_column
from llmstages.data.rows import Unusable
from llmstages.data.table import read_rows
from llmstages.errors import UserError

ON_PASSAGE = "Write a multiple-choice question on this text."
WITH_ANSWER = "Write a multiple-choice question with this answer."
# In the files of LLM Foundry's and MMLU's sets, and of sets of reading comprehension.
NAMES = {
    "question": ("question", "query"),
    "choices": ("choices", "options"),
    "right": ("gold", "answer"),
    "passage": ("passage", "article"),
}


def turned(row: Mapping[str, Any]) -> dict[str, str]:
    """The pair that a question makes: instruction, input and output.

    Raises:
        Unusable: a part is missing, or there is no choice at the place of the right one.
    """
    found = {part: row.get(find_column(list(row), names) or "") for part, names in NAMES.items()}
    question, choices, right = (found[part] for part in ("question", "choices", "right"))
    if not isinstance(question, str) or not question.strip():
        raise Unusable("there is no question")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise Unusable("the choices are no list of texts")
    if type(right) is not int or not 0 <= right < len(choices) <= len(ascii_uppercase):
        raise Unusable(f"{right!r} is the place of none of {len(choices)} choices")
    passage = found["passage"]
    lines = [question.strip().removeprefix("Question:").strip()]
    lines += [
        f"{letter}) {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)
    ]
    return {
        "instruction": ON_PASSAGE if passage else WITH_ANSWER,
        "input": str(passage or choices[right]),
        "output": "\n".join([*lines, f"Answer: {ascii_uppercase[right]}"]),
    }


def main(argv: list[str]) -> None:
    """Turn a file round."""
    if len(argv) < 2 or argv[2:] not in ([], ["bad_rows=skip"]):
        raise SystemExit(
            "usage: python scripts/turn_questions.py QUESTIONS PAIRS.jsonl [bad_rows=skip]"
        )
    questions, pairs = map(Path, argv[:2])
    bad_rows = "skip" if argv[2:] else "refuse"
    try:
        rows = read_rows(questions, bad_rows=bad_rows).usable(lambda row: turned(row.values))
        written = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in rows)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    pairs.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

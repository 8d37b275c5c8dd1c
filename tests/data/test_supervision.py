"""What is learnt of conversations within a context, counted by hand."""

import pytest

from llmstages.data.supervision import Supervision, refuse_cut_answers, supervision_of
from llmstages.errors import UserError

END = 9
# Two answers: 5 6 END, and 7 END.
IDS = [1, 2, 5, 6, END, 3, 7, END, 4]
LEARNT = [False, False, True, True, True, False, True, True, False]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (8, Supervision(1, 0, 8, 5, 2, 0, 2)),
        (7, Supervision(1, 1, 7, 5, 2, 0, 2)),
        (6, Supervision(1, 1, 6, 4, 2, 1, 1)),
        (4, Supervision(1, 1, 4, 3, 2, 1, 1)),
        (3, Supervision(1, 1, 3, 2, 2, 2, 0)),
        (1, Supervision(1, 1, 1, 0, 2, 2, 0)),
    ],
)
def test_counts(context: int, expected: Supervision) -> None:
    assert supervision_of([(IDS, LEARNT)], context, END) == expected


def test_counts_add_up() -> None:
    found = supervision_of([(IDS, LEARNT), (IDS[:5], LEARNT[:5])], 6, END)
    assert found == Supervision(2, 1, 10, 7, 3, 1, 2)
    assert found.cut_share == pytest.approx(1 / 3)


def test_too_many_cut_answers_are_refused() -> None:
    found = supervision_of([(IDS, LEARNT)] * 3 + [(IDS[:5], LEARNT[:5])], 6, END)
    refuse_cut_answers(found, 3 / 7, 6, "a.jsonl")
    with pytest.raises(UserError) as refused:
        refuse_cut_answers(found, 0.42, 6, "a.jsonl")
    assert str(refused.value).startswith(
        "a.jsonl: 3 of 7 answers (43%) are cut by the context of 6 tokens, more than "
        "max_cut_share=0.42"
    )
    for remedy in ("longer context", "shorter rows", "max_cut_share=..."):
        assert remedy in str(refused.value)


def test_answers_that_never_end_are_refused() -> None:
    every = supervision_of([(IDS, LEARNT)], 3, END)
    with pytest.raises(UserError, match="all 2 answers are cut by the context of 3 tokens"):
        refuse_cut_answers(every, 1.0, 3, "a.jsonl")
    unended = supervision_of([(IDS, LEARNT)], 8, END + 1)
    with pytest.raises(UserError, match="template ends no answer with its end token"):
        refuse_cut_answers(unended, 1.0, 8, "a.jsonl")

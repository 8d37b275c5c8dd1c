"""Exact match and chrF."""

import sys

import pytest

from llmstages.errors import UserError
from llmstages.evaluate.text_metrics import text_metrics


def test_exact_match_folds_white_space_only() -> None:
    scores = text_metrics([" a  b\n", "c", "D"], ["a b", "c", "d"])
    assert scores["exact_match"] == pytest.approx(2 / 3)


def test_chrf_ends() -> None:
    assert text_metrics(["the same"], ["the same"]) == {"exact_match": 1.0, "chrf": 100.0}
    assert text_metrics([""], ["something"]) == {"exact_match": 0.0, "chrf": 0.0}


def test_chrf_by_hand() -> None:
    # "abc" against "abd": of 1-grams 2/3 are shared, of 2-grams 1/2, of 3-grams none; precision
    # and recall are equal, and orders beyond the text's length do not count.
    scores = text_metrics(["abc"], ["abd"])
    assert scores["chrf"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="1 answers but 0 references"):
        text_metrics(["a"], [])
    with pytest.raises(ValueError, match="no answer"):
        text_metrics([], [])


def test_missing_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sacrebleu"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match=r"pip install 'llmstages\[eval\]'"):
        text_metrics(["a"], ["a"])

"""Baselines learn what is to be learnt, and say when scikit-learn is missing."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from llmstages.data.labelled_texts import read_labelled_texts
from llmstages.data.split import normalised_text, split_examples
from llmstages.errors import UserError
from llmstages.evaluate.baselines import linear_probe, majority_baseline, tfidf_baseline


def test_majority_exactly() -> None:
    scores = majority_baseline(list("aab"), list("abbb"), ["a", "b"])
    assert scores == {"accuracy": 0.25, "macro_f1": pytest.approx(0.4 / 2)}
    assert majority_baseline(list("ba"), list("bb"), ["b", "a"])["accuracy"] == 1.0


def test_tfidf_learns_words() -> None:
    texts = [f"{word} number {n}" for n in range(20) for word in ("good", "bad")]
    labels = ["pos", "neg"] * 20
    scores = tfidf_baseline(texts, labels, ["so good", "too bad"], ["pos", "neg"], ["neg", "pos"])
    assert scores == {"accuracy": 1.0, "macro_f1": 1.0}


def test_tfidf_learns_parts_of_words() -> None:
    texts = ["먹었습니다", "갔습니다", "왔습니다", "먹니", "가니", "오니"]
    scores = tfidf_baseline(texts, list("aaaqqq"), ["봤습니다", "보니"], ["a", "q"], ["a", "q"])
    assert scores["accuracy"] == 1.0


@pytest.mark.parametrize("texts", [["", " ", ""], ["!", "?", "."], ["", "a", "!"]])
def test_tfidf_on_next_to_nothing(texts: list[str]) -> None:
    scores = tfidf_baseline(texts, ["a", "b", "b"], ["b", ""], ["b", "b"], ["a", "b"])
    assert 0 <= scores["accuracy"] <= 1


def test_one_training_label_is_the_majority() -> None:
    assert tfidf_baseline(["x"], ["a"], ["x"], ["a"], ["a", "b"])["accuracy"] == 1.0
    features = np.ones((1, 2))
    assert linear_probe(features, ["a"], features, ["b"], ["a", "b"])["accuracy"] == 0.0


def test_linear_probe_standardises() -> None:
    random = np.random.default_rng(0)
    labels = np.array(["a", "b"])[(np.arange(200) % 2)]
    features = random.normal(size=(200, 3)) * [1000.0, 1.0, 0.0] + 5.0
    features[:, 1] += np.where(labels == "a", -4, 4)  # the small feature is what tells
    scores = linear_probe(
        features[:100].astype(np.float32), labels[:100].tolist(),
        features[100:].astype(np.float32), labels[100:].tolist(), ["a", "b"],
    )  # fmt: skip
    assert scores["accuracy"] > 0.97


def test_missing_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"pip install 'llmstages\[eval\]'"):
        tfidf_baseline(["x", "y"], ["a", "b"], ["x"], ["a"], ["a", "b"])


@pytest.mark.skipif("LLMSTAGES_DATA" not in os.environ, reason="LLMSTAGES_DATA names no real data")
def test_sms_spam() -> None:
    path = Path(os.environ["LLMSTAGES_DATA"]) / "classify/sms_spam/SMSSpamCollection"
    rows = {normalised_text(row.text): row for row in read_labelled_texts(path)}
    texts, labels = list(rows), [row.label for row in rows.values()]
    split = split_examples(texts, labels, 0.0, 0.2, seed=0)
    scores = tfidf_baseline(
        *([rows[texts[n]].text for n in split.train], [labels[n] for n in split.train]),
        *([rows[texts[n]].text for n in split.test], [labels[n] for n in split.test]),
        ["ham", "spam"],
    )
    assert scores["accuracy"] > 0.98
    assert scores["macro_f1"] > 0.96

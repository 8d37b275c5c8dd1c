"""Labelled files as they come: rare labels, many labels, texts without end and without a word."""

import json
import random

import pytest

from llmstages.data.labelled_texts import LabelledText
from llmstages.stages import finetune_classify
from llmstages.stages.classifying.rows import warn_of_rare
from llmstages.stages.shared.rows import Rows

WORDS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "owl", "pig", "ram", "yak"]


@pytest.fixture
def train_on(tmp_path, classify_config):
    """train_on(rows, **settings) -> summary, predictions; rows are (text, label)."""

    def call(rows, **settings):
        path = tmp_path / "rows.jsonl"
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        finetune_classify.run(classify_config(tmp_path, data=str(path), **settings))
        run = tmp_path / "rows-classify"
        kept = (run / "predictions.jsonl").read_text("utf-8").splitlines()
        return json.loads((run / "summary.json").read_text("utf-8")), [*map(json.loads, kept)]

    return call


def sentence(number: int) -> str:
    """A text that is not nearly equal to any other."""
    return " ".join(random.Random(number).choices(WORDS, k=12))


def test_rare_labels_are_named_in_one_line(capsys):
    def rows(*labels):
        return [LabelledText("", label, 1) for label in labels]

    often = rows(*"abcdefg") * 4 + rows("a", "b")
    warn_of_rare(Rows(often + rows("h"), rows("a", "b", "h"), []), [*"abcdefgh"])
    assert capsys.readouterr().err == (
        "warning: labels with fewer than 5 training rows: h (1), c (4), d (4), e (4), f (4) and 1 "
        "more; with no validation row: c, d, e, f, g\n"
    )
    warn_of_rare(Rows(rows("a") * 5, rows("a"), []), ["a"])
    assert capsys.readouterr().err == ""


def test_150_labels_of_which_one_has_one_example(train_on):
    labels = [f"intent-{number:03d}" for number in range(150)]
    rows = [
        (f"{sentence(3 * n + k)} {label}", label)
        for n, label in enumerate(labels)
        for k in (0, 1, 2)
    ]
    rows = rows[:-2]  # one row of the last label is left
    rows += [("", labels[0]), (" \t ", labels[1]), (" ".join(WORDS * 40), labels[2])]
    summary, predictions = train_on(rows, steps=2, baselines=True)
    parts = summary["examples"]
    assert parts["train"] + parts["validation"] + len(predictions) == len(rows)
    assert all(len(row["probabilities"]) == 150 for row in predictions)
    assert all(
        sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4) for row in predictions
    )
    assert labels[-1] not in {row["label"] for row in predictions}  # its row is trained on
    metrics = summary["metrics"]
    assert 0 <= metrics["macro_f1"] <= 1
    assert summary["baselines"].keys() == {"majority", "tfidf"}


def test_one_in_a_hundred(train_on):
    """Every part has its share of the rare label, and the report shows what accuracy hides."""
    rows = [(sentence(number), "ham") for number in range(600)]
    rows += [(f"{sentence(1000 + number)} prize", "spam") for number in range(6)]
    summary, predictions = train_on(rows, steps=2, baselines=["majority"])
    rare = sum(row["label"] == "spam" for row in predictions)
    assert rare == 1
    assert summary["baselines"]["majority"]["accuracy"] > 0.98
    assert summary["baselines"]["majority"]["macro_f1"] < 0.51
    assert {"balanced_accuracy", "roc_auc", "pr_auc"} <= summary["metrics"].keys()

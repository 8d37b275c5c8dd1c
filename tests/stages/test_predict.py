"""Predictions as JSON Lines, in the order of the input."""

import json

import pytest
import torch

from llmstages.stages import predict


def read(text):
    return [json.loads(line) for line in text.splitlines()]


def test_predictions_in_order_whatever_the_batch(cli, classifier_run, labelled_file, tmp_path):
    outputs = []
    for size in (1, 7, 32):
        path = tmp_path / f"out-{size}.jsonl"
        status, out, err = cli(
            "predict", classifier_run, labelled_file, f"output={path}", f"batch_size={size}"
        )
        assert (status, out) == (0, ""), err
        outputs.append(read(path.read_text(encoding="utf-8")))
    for entries in outputs:
        assert [entry["id"] for entry in entries] == list(range(1, 61))
        for entry, first in zip(entries, outputs[0], strict=True):
            assert entry["probabilities"] == pytest.approx(first["probabilities"], abs=1e-5)
            assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-6)
            assert entry["label"] == max(entry["probabilities"], key=entry["probabilities"].get)
    assert len({entry["probabilities"]["strings"] for entry in outputs[0]}) > 30
    assert not list(tmp_path.glob("*.tmp"))


def test_one_text_on_the_command_line(cli, classifier_run):
    status, out, err = cli("predict", classifier_run, "String literals, a=b, 'quoted'")
    assert status == 0, err
    (entry,) = read(out)
    assert entry["id"] == 1
    assert entry["probabilities"].keys() == {"integers", "strings"}


def test_the_column_of_training_and_no_pair(cli, classifier_run, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("sentence1,sentence2,text\nfor x in,range(3),a quoted string\n", "utf-8")
    outputs = [cli("predict", classifier_run, path, *more) for more in ([], ["text_column=text"])]
    assert outputs[0][0] == 0, outputs[0][2]
    assert outputs[0][1] == outputs[1][1] != ""
    path.write_text("sentence1,sentence2\nfor x in,range(3)\n", "utf-8")
    status, _, err = cli("predict", classifier_run, path)
    assert status == 2
    assert "name it with text_column=" in err


def test_empty_and_very_long_texts(cli, classifier_run, tmp_path):
    path = tmp_path / "texts.jsonl"
    texts = ["", "word " * 1000, "한국어"]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    status, out, err = cli("predict", classifier_run, path)
    assert status == 0, err
    assert [entry["id"] for entry in read(out)] == [1, 2, 3]
    assert "1 of 3 texts are empty, the first with id 1" in err


def test_rows_are_read_ahead_so_far_and_no_further(monkeypatch):
    monkeypatch.setattr(predict, "CHARACTERS_AHEAD", 10)
    taken = []
    rows = ((taken.append(number) or number, "word") for number in range(10))
    ahead = predict.read_ahead(rows, 4)
    assert [id for id, _ in next(ahead)] == [0, 1, 2]
    assert taken == [0, 1, 2]
    assert sum(len(part) for part in ahead) == 7


@pytest.mark.parametrize(("dtype", "type"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_bfloat16_is_taken_only_when_asked_for(cli, classifier_run, monkeypatch, dtype, type):
    monkeypatch.setattr("llmstages.train.device.has_fast_bfloat16", lambda device: True)
    seen = []
    monkeypatch.setattr(
        predict, "scores_of", lambda *arguments: seen.append(arguments[-1]) or [{"a": 1.0}]
    )
    assert cli("predict", classifier_run, "A text", f"dtype={dtype}")[0] == 0
    assert seen == [getattr(torch, type)]


def test_an_empty_text_is_a_text_and_no_path(cli, classifier_run):
    status, out, err = cli("predict", classifier_run, "data=''")
    assert status == 0, err
    (entry,) = read(out)
    assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-6)

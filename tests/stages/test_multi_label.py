"""Any number of labels, and two texts a row: from training to prediction."""

import json

import pytest
import torch

from llmstages.data.examples import labelled_example, make_batch
from llmstages.errors import UserError
from llmstages.stages import finetune_classify
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.losses import multi_label_loss


@pytest.fixture
def comments(tmp_path):
    """24 rows with two texts and two labels, each of both, one or none."""
    path = tmp_path / "comments.csv"
    rows = [
        f"{'rude' if n % 2 else 'kind'} word{n} thing{n},about item{n} {n},{n % 2},{n % 3 // 2}\n"
        for n in range(24)
    ]
    path.write_text("comment,topic,rude,late\n" + "".join(rows), encoding="utf-8")
    return path


def test_from_columns_of_labels_to_prediction(cli, classify_config, comments, tmp_path):
    finetune_classify.run(
        classify_config(
            tmp_path,
            data=str(comments),
            text_column=["comment", "topic"],
            text_template="{comment} ({topic})",
            label_column=["rude", "late"],
            baselines=True,
            steps=3,
        )
    )
    run = tmp_path / "comments-classify"
    config = json.loads((run / "best" / "config.json").read_text("utf-8"))
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "rude", "1": "late"}
    record = json.loads((run / "best" / "llmstages.json").read_text("utf-8"))["classifier"]
    assert record["task"] == "multi_label"
    assert record["text_template"] == "{comment} ({topic})"
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert {"micro_f1", "macro_f1"} <= summary["baselines"]["tfidf"].keys()
    predictions = (run / "predictions.jsonl").read_text("utf-8").splitlines()
    assert len(predictions) == summary["metrics"]["num_examples"]

    status, out, err = cli("predict", run, comments)
    assert status == 0, err
    entries = [json.loads(line) for line in out.splitlines()]
    assert len(entries) == 24
    for entry in entries:
        above = [label for label, share in entry["probabilities"].items() if share > 0.5]
        assert entry["labels"] == above
    by_line = {entry["id"]: entry for entry in entries}
    for row in map(json.loads, predictions):
        assert row["probabilities"] == pytest.approx(
            by_line[row["line"]]["probabilities"], abs=1e-5
        )
    status, out, err = cli("evaluate", run, comments, "require=micro_f1>=0")
    assert status == 0, err
    assert json.loads(out)["per_label"][0]["support"] == 12
    status, out, err = cli("inspect", run)
    assert status == 0, err
    assert "Hamming loss" in out
    status, _, err = cli("predict", run, "only one text")
    assert status == 2
    assert "reads rows with comment, topic" in err


def test_the_loss_is_the_mean_binary_cross_entropy(classifier_run):
    model = load_checkpoint(classifier_run).model
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    sets = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    examples = [labelled_example([5, 6, 7][:n], 0, n - 1, 8, "") for n in (1, 2, 3)]
    total, count = multi_label_loss(sets)(model, make_batch([[e] for e in examples]))
    expected = 0.0
    for example, wanted in zip(examples, sets, strict=True):
        shares = model.logits(model(torch.tensor([example.tokens]))[0, -1]).sigmoid()
        expected -= torch.where(wanted > 0, shares, 1 - shares).log().mean().item()
    assert (total.item(), count.item()) == (pytest.approx(expected, abs=1e-5), 3)


def test_rare_and_unknown_labels(classify_config, tmp_path):
    """A common class, 60 of two texts each, one with a single text, an empty text; then a test file
    with a label that training lacks."""
    rows = [{"text": f"usual thing{n} {n * 7}", "label": "common"} for n in range(100)]
    rows += [{"text": f"odd{n} case{n // 2}x{n}", "label": f"rare{n // 2}"} for n in range(120)]
    rows += [{"text": "lonely words here", "label": "single"}, {"text": "", "label": "common"}]
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    odd = [{"text": "usual thing3 21", "label": "common"}, {"text": "what else", "label": "new"}]
    test.write_text("".join(json.dumps(row) + "\n" for row in odd), encoding="utf-8")
    given = {"data": str(train), "steps": 1, "validation_share": 0.2}
    finetune_classify.run(classify_config(tmp_path, **given))
    summary = json.loads((tmp_path / "train-classify" / "summary.json").read_text("utf-8"))
    assert len(summary["metrics"]["labels"]) == 62
    assert summary["overlap"] == {}

    with_test = classify_config(tmp_path, **given, test_data=str(test), name="b")
    with pytest.raises(UserError, match=r"test.jsonl:2: label 'new' does not occur in the train"):
        finetune_classify.run(with_test)
    with_test = classify_config(tmp_path, **given, test_data=str(test), name="b", bad_rows="skip")
    finetune_classify.run(with_test)
    summary = json.loads((tmp_path / "b" / "summary.json").read_text("utf-8"))
    assert summary["set_aside"] == {"a label that does not occur in the training rows": 1}
    assert summary["overlap"]["training_rows_left_out_as_equal"] == 1
    assert summary["examples"]["test"] == 1


def test_lists_of_labels_to_measure_with_alone(classify_config, tmp_path):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    rows = [{"text": f"word{n} thing{n * 7}", "label": "ab"[n % 2]} for n in range(20)]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    test.write_text('{"text": "x", "label": ["a", "b"]}\n', encoding="utf-8")
    config = classify_config(tmp_path, data=str(train), test_data=str(test))
    with pytest.raises(UserError, match=f"{test}: its rows have lists .* those of {train} one"):
        finetune_classify.run(config)

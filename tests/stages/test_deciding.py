"""What is found on the validation rows is in the checkpoint, and predict and the figures agree."""

import json
import shutil

import numpy as np
import pytest
import torch

from llmstages.config.groups import CheckpointConfig, DecideConfig, MethodConfig
from llmstages.errors import UserError
from llmstages.stages import finetune_classify
from llmstages.stages.classifying import deciding
from llmstages.stages.lineage.prove import prove
from llmstages.train.checkpoint import (
    load_checkpoint,
    read_info,
    read_tensors,
    revise_classifier,
    undivided_head,
    verify_files,
)
from llmstages.train.loop import Goal


def test_a_temperature_is_divided_into_the_head_once(cli, tmp_path, classify_config, monkeypatch):
    monkeypatch.setattr(deciding, "MIN_ROWS", 1)
    monkeypatch.setattr(deciding, "fitted_temperature", lambda *_: 0.25)
    # The first evaluation is the best: the best checkpoint is one that the run can go on from.
    monkeypatch.setattr(Goal, "improves", lambda self, new, old: old[0] is None)
    config = classify_config(
        tmp_path, method=MethodConfig(name="lora"), checkpoint=CheckpointConfig(every_steps=3)
    )
    finetune_classify.run(config)
    run = tmp_path / "lines-classify"
    best = load_checkpoint(run)
    assert best.info.classifier["temperature"] == 0.25
    rows = [
        json.loads(line) for line in (run / "predictions.jsonl").read_text("utf-8").splitlines()
    ]
    status, out, err = cli("predict", run, run / "predictions.jsonl")
    assert status == 0, err
    for row, line in zip(rows, out.splitlines(), strict=True):
        assert json.loads(line)["probabilities"] == pytest.approx(row["probabilities"], abs=1e-6)
    # What the pipeline reads and what PEFT reads are one head.
    score = read_tensors(run / "best" / "model.safetensors")["score.weight"]
    adapter = read_tensors(run / "best" / "adapter" / "adapter_model.safetensors")
    assert torch.equal(adapter["base_model.model.score.weight"], score)
    # Undone, the figures are those from before.
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert summary["calibration"]["temperature"] == 0.25
    true = torch.tensor([[row["probabilities"][row["label"]], 1] for row in rows]).double()
    cooled = torch.stack([true[:, 0], 1 - true[:, 0]], 1) ** 0.25
    before = -(cooled[:, 0] / cooled.sum(1)).log().mean().item()
    assert summary["calibration"]["log_loss_before"] == pytest.approx(before, abs=1e-6)
    assert summary["calibration"]["log_loss_before"] != summary["metrics"]["log_loss"]
    prove(run, 20)
    # Killed before its summary, the run finds the same; without its last checkpoint it goes on from
    # the best as if no temperature had been divided in.
    last = read_info(run / "last").files
    for damaged in (False, True):
        if damaged:
            (run / "last" / "config.json").write_text("{}", encoding="utf-8")
        (run / "summary.json").unlink()
        finetune_classify.run(config)
        again = read_tensors(run / "best" / "model.safetensors")["score.weight"]
        assert torch.equal(again, score)
        found = json.loads((run / "summary.json").read_text("utf-8"))
        assert found["metrics"] == summary["metrics"]
        assert found["calibration"] == summary["calibration"]
    assert read_info(run / "last").files["model.safetensors"] == last["model.safetensors"]


def test_a_checkpoint_is_revised_only_where_something_is_new(tmp_path, classifier_run):
    copy = tmp_path / "step-000006"
    shutil.copytree((classifier_run / "best").resolve(), copy)
    before = copy.stat().st_ino
    revise_classifier(copy, {"temperature": None, "decision": {}})
    assert copy.stat().st_ino == before
    state = (copy / "trainer" / "state.safetensors").stat().st_ino
    score = read_tensors(copy / "model.safetensors")["score.weight"]
    for temperature in (3.0, 0.7, None):
        revise_classifier(copy, {"temperature": temperature})
        assert (copy / "trainer" / "state.safetensors").stat().st_ino == state  # not copied
        verify_files(copy, read_info(copy), trainer=True)
        found = read_tensors(copy / "model.safetensors")["score.weight"]
        assert torch.equal(found, score / (temperature or 1.0))
    assert undivided_head(copy) == {}


def test_a_threshold_and_a_scope_are_used_wherever_labels_are_given(
    cli, tmp_path, classify_config, capfd
):
    decide = DecideConfig(positive="strings", min_recall=1.0, refuse_share=0.34)
    finetune_classify.run(classify_config(tmp_path, decide=decide))
    run = tmp_path / "lines-classify"
    rule = load_checkpoint(run).info.classifier["decision"]
    assert rule.keys() == {"positive", "threshold", "min_probability"}
    # Of a few rows nobody knows a recall of 1: that is said, and what became of it.
    decided = json.loads((run / "summary.json").read_text("utf-8"))["decision"]
    assert (decided["positive"], decided["threshold"]) == ("strings", rule["threshold"])
    assert decided["asked"] == {"min_recall": 1.0}
    counts, tested = decided["validation"], decided["test"]
    assert (counts["missed"], counts["rows"], tested["rows"]) == (0, 6, 6)
    said = capfd.readouterr().err
    assert f"too few to be sure of it on others: recall 1.000 ({counts['right']} of" in said
    found = tested["right"] / (tested["right"] + tested["missed"])
    log = (run / "log.txt").read_text("utf-8")
    assert f"'strings' is given from a probability of {rule['threshold']:.3f} on\n" in log
    best = (run / "best").resolve()
    card = (best / "README.md").read_text("utf-8")
    assert f"'strings' is given from a probability of {rule['threshold']:.3f} on; texts" in card
    assert "pipeline ignores this" in card
    macro_f1 = json.loads((run / "summary.json").read_text("utf-8"))["metrics"]["macro_f1"]
    assert f"| `macro_f1` | {macro_f1:.4g} |" in card.partition("## Figures of the test rows")[2]
    verify_files(best, read_info(best), trainer=True)
    assert f"decide.min_recall=1: on the test rows recall {found:.3f} (" in log
    lines = (run / "predictions.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        above = row["probabilities"]["strings"] >= rule["threshold"]
        assert row["predicted"] == ("strings" if above else "integers")
        sure = max(row["probabilities"].values()) >= rule["min_probability"]
        assert row["out_of_scope"] == (not sure)
    status, out, err = cli("predict", run, run / "predictions.jsonl")
    assert status == 0, err
    for row, entry in zip(rows, map(json.loads, out.splitlines()), strict=True):
        assert entry["out_of_scope"] == row["out_of_scope"]
        assert entry["label"] == (None if row["out_of_scope"] else row["predicted"])
        assert entry["score"] == max(entry["probabilities"].values())
    status, out, err = cli("evaluate", run, run / "predictions.jsonl", "require=coverage>=0")
    assert status == 0, err
    report = json.loads(out)
    assert report["coverage"] == sum(not row["out_of_scope"] for row in rows) / len(rows)
    metrics = json.loads((run / "summary.json").read_text("utf-8"))["metrics"]
    assert report["confusion"] == metrics["confusion"]
    assert report["accepted_accuracy"] == metrics["accepted_accuracy"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["decide.min_precision=0.9"], "decide.min_precision needs decide.positive: 'integers' or"),
        (["decide.positive=string", "decide.min_recall=0.9"], "choose one of 'integers' and"),
        (["decide.positive=strings"], "needs decide.cost, decide.min_precision or"),
        (["decide.positive=strings", "decide.cost={fp: 1}"], "give fp and fn"),
        (["decide.cost={strings: {integer: 5}}"], "no training row has the label 'integer'"),
        (["decide.cost={fp: 1, fn: few}"], "fn is no cost of 0 or more"),
        (["decide.cost={fp: 1, fn: 2}", "decide.min_recall=1"], "keep one of them"),
        (["decide.cost={fp: {integers: 1}, fn: 1}"], "not both"),
    ],
)
def test_rules_that_do_not_fit_are_refused_before_training(
    cli, labelled_file, tiny_run, words, said
):
    status, _, err = cli("finetune-classify", labelled_file, f"base={tiny_run}", *words)
    assert (status, said in err) == (2, True), err


def test_costs_by_label_are_a_matrix_in_the_order_of_the_labels():
    config = DecideConfig(cost={"b": {"a": 5, "c": 0.5}})
    deciding.check_decision(config, ["a", "b", "c"])
    found = deciding.found_decision(config, ["a", "b", "c"], np.eye(3), np.arange(3))
    assert found.costs == [[0, 1, 1], [5, 0, 0.5], [1, 1, 0]]


def test_labels_that_are_no_text_in_a_config():
    config = DecideConfig(positive="True", cost={"fp": 1, "fn": 2})
    assert deciding.named_as_labels(config, ["false", "true"]).positive == "true"
    assert deciding.named_as_labels(config, ["False", "True"]).positive == "True"
    config = deciding.named_as_labels(DecideConfig(cost={1: {0: 5}}), ["0", "1"])
    assert config.cost == {"1": {"0": 5}}
    with pytest.raises(UserError, match="costs by label need none"):
        DecideConfig(positive="a", cost={"a": {"b": 5}})

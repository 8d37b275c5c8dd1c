"""What is found on the validation rows is in the checkpoint, and predict and the figures agree."""

import json

import pytest
import torch

from llmstages.config.groups import MethodConfig
from llmstages.stages import deciding, finetune_classify
from llmstages.train.checkpoint import load_checkpoint, read_tensors


def test_a_temperature_is_divided_into_the_head_once(cli, tmp_path, classify_config, monkeypatch):
    monkeypatch.setattr(deciding, "MIN_ROWS", 1)
    monkeypatch.setattr(deciding, "fitted_temperature", lambda *_: 0.25)
    config = classify_config(tmp_path, method=MethodConfig(name="lora"))
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
    # Killed before its summary, the run finds the same and does not divide again.
    (run / "summary.json").unlink()
    finetune_classify.run(config)
    again = read_tensors(run / "best" / "model.safetensors")["score.weight"]
    assert torch.allclose(again, score, rtol=1e-6)
    assert json.loads((run / "summary.json").read_text("utf-8"))["metrics"] == summary["metrics"]

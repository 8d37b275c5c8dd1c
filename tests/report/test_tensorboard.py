"""Event files hold what metrics.jsonl holds, once, also when a run was cut off and resumed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmstages.config.groups import ReportConfig
from llmstages.errors import UserError
from llmstages.report.metrics import Curves, read_entries
from llmstages.report.tensorboard import EventFiles
from llmstages.stages import pretrain
from llmstages.train.run import Run

ASKED = ReportConfig(curves=False, tensorboard=True)


def assert_equal_events(run_dir: Path) -> None:
    """TensorBoard reads every figure of metrics.jsonl, at its step, and nothing else."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs TensorBoard"
    ).EventAccumulator(str(run_dir / "report" / "tensorboard"))
    accumulator.Reload()
    curves = Curves.of(read_entries(run_dir / "metrics.jsonl"))
    expected = curves.training | curves.validation
    assert set(accumulator.Tags()["scalars"]) == expected.keys()
    for name, curve in expected.items():
        events = accumulator.Scalars(name)
        assert [event.step for event in events] == curve.steps.tolist()
        values = [event.value for event in events]
        assert values == pytest.approx(curve.values.tolist(), rel=1e-6)


def test_a_run(tmp_path: Path, pretrain_config: Callable[..., Any]) -> None:
    pytest.importorskip("tensorboard")
    pretrain.run(pretrain_config(tmp_path, report=ASKED))
    assert_equal_events(tmp_path / "pretrain")
    pretrain.run(pretrain_config(tmp_path, report=ASKED, steps=1, overwrite=True))
    assert_equal_events(tmp_path / "pretrain")


@pytest.mark.parametrize("before", [ASKED, ReportConfig(curves=False)], ids=["from 1", "later"])
def test_a_resumed_run(
    tmp_path: Path,
    pretrain_config: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    before: ReportConfig,
) -> None:
    pytest.importorskip("tensorboard")
    record = Run.record

    def killed(run: Run, entry: dict[str, Any]) -> None:
        record(run, entry)
        if entry["step"] == 7:  # the newest checkpoint is of step 6
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "record", killed)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain.run(pretrain_config(tmp_path, report=before))
    run_dir = tmp_path / "pretrain"
    assert read_entries(run_dir / "metrics.jsonl")[-1]["step"] == 7
    pretrain.run(pretrain_config(tmp_path, report=ASKED))
    steps = [e["step"] for e in read_entries(run_dir / "metrics.jsonl") if "event" not in e]
    assert steps == list(range(1, 9))
    assert_equal_events(run_dir)


def test_names_and_steps(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    entries = [
        {"step": 1, "loss": 2.5, "note": "x"},
        {"step": 1, "event": "evaluation", "val_bits_per_byte/novels": 1.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    files = EventFiles(tmp_path / "report" / "tensorboard", entries)
    files.close()
    assert_equal_events(tmp_path)


def test_not_installed(
    tmp_path: Path, pretrain_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError) as refused:
        pretrain.run(pretrain_config(tmp_path, report=ASKED))
    assert str(refused.value) == (
        "report.tensorboard=true needs TensorBoard: install it with "
        "pip install 'llmstages[tensorboard]'"
    )
    assert not (tmp_path / "pretrain").exists()

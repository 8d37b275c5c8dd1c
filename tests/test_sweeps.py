"""Sweeps: what the jobs came to, with Hydra's own launcher and sweeper and with its plugins."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmstages.cli import main
from llmstages.errors import UserError

Stage = Callable[[Callable[[Any], float]], None]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    """stage(run) stands in for the training stages, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def stand_in(run: Callable[[Any], float]) -> None:
        for name in ("pretrain", "finetune_classify"):
            module = ModuleType(name)
            module.run = run  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, f"llmstages.stages.{name}", module)

    return stand_in


def cells(shown: str) -> list[list[str]]:
    """Rows of the table of a sweep, without its head."""
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in shown.splitlines()
        if line.startswith("│")
    ]


def test_the_table_has_the_best_first_and_failures_last(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: Any) -> float:
        if config.seed == 1:
            raise UserError("not this seed")
        return 10.0 - config.seed

    stage(run)
    assert main(["pretrain", "-m", "seed=1,2,3", "name=x", "steps=5"]) == 2
    shown = capsys.readouterr()
    assert cells(shown.out) == [
        ["2", "seed=3", "7", "runs/x/2"],
        ["1", "seed=2", "8", "runs/x/1"],
        ["0", "seed=1", "", "failed: not this seed"],
    ]
    assert "best: seed=3 (runs/x/2)\n" in shown.err
    assert "Traceback" not in shown.err
    assert main(["finetune-classify", "my.csv", "-m", "seed=2,3"]) == 0  # more is better here
    assert [row[3] for row in cells(capsys.readouterr().out)] == [
        "runs/my-classify/0",
        "runs/my-classify/1",
    ]


@pytest.mark.filterwarnings("ignore")  # the sweeper's and Optuna's own
def test_optuna(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    stage(lambda config: (config.optim.lr - 0.005) ** 2)
    sweep = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3"]
    sweep += ["hydra.sweeper.sampler.seed=0", "optim.lr=interval(0.0, 0.01)"]
    sweep += ["hydra.sweeper.study_name=kept", "hydra.sweeper.storage=sqlite:///search.db"]
    assert main(["pretrain", *sweep]) == 0
    shown = capsys.readouterr()
    rows = cells(shown.out)
    assert len(rows) == 3
    rates = [float(row[1].removeprefix("optim.lr=")) for row in rows]
    assert rates == sorted(rates, key=lambda rate: abs(rate - 0.005))
    assert main(["finetune-classify", "my.csv", *sweep]) == 2  # it would look for the worst
    assert "hydra.sweeper.direction=maximize" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_a_figure_that_is_not_finite_is_a_failure(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    results = iter((math.nan, 1.0))
    stage(lambda config: next(results))
    sweep = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "seed=range(1, 9)"]
    assert main(["pretrain", *sweep, "hydra.sweeper.max_failure_rate=1"]) == 0
    assert [row[2:] for row in cells(capsys.readouterr().out)] == [
        ["1", "runs/pretrain/1"],
        ["", "failed: FloatingPointError:"],
        ["", "val_bits_per_byte is nan"],
    ]


def test_help_on_a_sweep(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage(lambda config: 1 / 0)
    assert main(["pretrain", "-m", "seed=1,2", "steps=7", "--help"]) == 0
    shown = capsys.readouterr().out
    assert main(["pretrain", "steps=7", "--help"]) == 0
    assert shown == capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_other_processes(
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.chdir(tmp_path)
    settings = ["model=nano", "model.hidden_size=32", "model.num_layers=1", "steps=1"]
    settings += ["model.context_length=32", "batch_tokens=64", "evaluate.max_tokens=200"]
    settings += ["device=cpu", "compile='off'", "report.curves=false", "evaluate.num_samples=0"]
    command = ["pretrain", str(tiny_corpus), *settings, "name=x", "-m", "optim.lr=0.001,-1"]
    # Jobs that are done are not done again, so the second launcher finds the first one's.
    for launcher in ("joblib", "submitit_local"):
        assert main([*command, f"hydra/launcher={launcher}"]) == 2
        shown = capfd.readouterr()
        best, failed = cells(shown.out)[:2]
        assert (best[0], best[1], best[3]) == ("0", "optim.lr=0.001", "runs/x/0")
        assert failed[:2] == ["1", "optim.lr=-1"]
        assert "must be" in failed[3]
        assert "Traceback" not in shown.err
    assert (tmp_path / "runs" / "x" / "0" / "summary.json").is_file()

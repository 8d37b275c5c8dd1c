"""Pictures of a run's metrics: of any number of steps, whatever the file's end looks like."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmstages.config.groups import ReportConfig
from llmstages.report.curves import draw_curves, loss_figure, optimizer_figure, validation_panels
from llmstages.report.metrics import Curves, read_entries

Entry = dict[str, Any]


def step_entry(step: int) -> Entry:
    return {
        "step": step,
        "loss": 2 + 8 / step,
        "lr": 0.01,
        "grad_norm": 0.5,
        "tokens": 100 * step,
        "tokens_per_second": 1000.0,
        "seconds": 0.1 * step,
    }


def write(run_dir: Path, entries: list[Entry], end: str = "") -> None:
    text = "".join(json.dumps(entry) + "\n" for entry in entries) + end
    (run_dir / "metrics.jsonl").write_text(text, encoding="utf-8")


def evaluation(step: int, **metrics: float) -> Entry:
    return {"step": step, "event": "evaluation", **metrics}


def size(path: Path) -> tuple[int, int]:
    """Pixels across and down of a PNG."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_entries_of_a_torn_file(tmp_path: Path) -> None:
    assert read_entries(tmp_path / "metrics.jsonl") == []
    write(tmp_path, [step_entry(1), step_entry(2)], end='{"step": 3, "lo')
    assert read_entries(tmp_path / "metrics.jsonl") == [step_entry(1), step_entry(2)]


def test_curves_are_in_the_order_of_steps_and_hold_numbers_only() -> None:
    entries = [step_entry(2), step_entry(1), {**step_entry(3), "loss": float("nan")}]
    entries += [evaluation(2, val_loss=5.0), evaluation(2, val_loss=4.0)]
    curves = Curves.of(entries)
    assert curves.training["loss"].steps.tolist() == [1, 2]
    assert curves.training["loss"].values.tolist() == [10, 6]
    assert curves.training["tokens"].at(curves.validation["val_loss"].steps).tolist() == [200]
    assert curves.validation.keys() == {"val_loss"}
    assert curves.validation["val_loss"].values.tolist() == [4]


def test_sources_stand_with_the_metric_of_all() -> None:
    names = ["val_loss", "val_bits_per_byte", "val_bits_per_byte/novels", "val_macro_f1"]
    curves = Curves.of([evaluation(1, **dict.fromkeys(names, 1.0))])
    panels = validation_panels(curves.validation)
    assert {name: list(lines) for name, lines in panels.items()} == {
        "val_bits_per_byte": ["all", "novels"],
        "val_macro_f1": ["all"],
    }


def test_what_the_figures_show() -> None:
    entries = [step_entry(step) for step in range(1, 2001)]
    entries += [
        evaluation(step, **{"val_loss": 3.0, "val_bits_per_byte": 1.0, "val_bits_per_byte/a": 2.0})
        for step in (1000, 2000)
    ]
    curves = Curves.of(entries)
    figure = loss_figure(curves, "x (pretrain)")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in shown] == ["tokens", "time since the start, s", "tokens"]
    assert [axes.get_ylabel() for axes in shown] == [
        "loss, nats a target",
        "loss, nats a target",
        "validation, bits a byte",
    ]
    raw, smooth, validation = shown[0].lines
    assert raw.get_alpha() < 1
    assert smooth.get_label() == "training"
    assert list(validation.get_xdata()) == [100_000, 200_000]
    assert list(validation.get_ydata()) == [3, 3]
    low, high = shown[0].get_ylim()
    assert low < 2.01
    assert 3 < high < 4  # the first steps, at up to 10, fall in from above
    optimizer = optimizer_figure(curves, "x").axes
    names = ["learning rate", "gradient norm", "tokens/s"]
    assert [axes.get_ylabel() for axes in optimizer] == names
    assert {axes.get_xlabel() for axes in optimizer} == {"optimizer steps"}


@pytest.mark.parametrize("num_steps", [1, 2, 20, 3000])
def test_pictures_of_any_number_of_steps(tmp_path: Path, num_steps: int) -> None:
    entries = [step_entry(step) for step in range(1, num_steps + 1)]
    write(tmp_path, [*entries, evaluation(num_steps, val_loss=3.0)], end='{"st')
    title = "a $name$ 名 (pretrain)"  # no formula, and in no font that matplotlib brings
    pictures = draw_curves(tmp_path, title)
    assert [path.name for path in pictures] == ["loss.png", "optimizer.png"]
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "loss.png",
        "optimizer.png",
    ]
    for path in pictures:
        width, height = size(path)
        assert width == 1210
        assert height > 400


def test_more_metrics_make_a_taller_picture(tmp_path: Path) -> None:
    write(tmp_path, [step_entry(1), evaluation(1, val_loss=3.0)])
    before = size(draw_curves(tmp_path, "x")[0])
    write(tmp_path, [step_entry(1), evaluation(1, val_loss=3.0, val_accuracy=0.5)])
    assert size(draw_curves(tmp_path, "x")[0]) > before


@pytest.mark.parametrize("entries", [[], [evaluation(1, val_loss=2.0)]])
def test_nothing_is_drawn_without_a_step(tmp_path: Path, entries: list[Entry]) -> None:
    write(tmp_path, entries)
    assert draw_curves(tmp_path, "x") == []
    assert not (tmp_path / "report").exists()


def test_a_step_that_recorded_its_loss_alone(tmp_path: Path) -> None:
    write(tmp_path, [{"step": step, "loss": 1.0} for step in range(1, 5)])
    assert len(draw_curves(tmp_path, "x")) == 2


@pytest.mark.parametrize("run", ["tiny_run", "instruct_run", "classifier_run"])
def test_every_training_stage_draws(run: str, request: pytest.FixtureRequest) -> None:
    directory: Path = request.getfixturevalue(run)
    pictures = sorted((directory / "report").iterdir())
    names = [path.name for path in pictures]
    if run == "classifier_run":
        assert [names.pop(0), names.pop()] == ["confusion.png", "reliability.png"]
    assert names == ["loss.png", "optimizer.png"]
    assert all(size(path)[0] == 1210 for path in pictures if path.name in names)


def test_a_picture_that_fails_ends_no_run(
    tmp_path: Path,
    pretrain_config: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from llmstages.report import observers
    from llmstages.stages import pretrain

    def fail(run_dir: Path, title: str) -> None:
        assert (run_dir.name, title) == ("0", "pretrain/0 (pretrain)")
        raise OSError("disk full")

    monkeypatch.setattr(observers, "draw_curves", fail)
    pretrain.run(pretrain_config(tmp_path, steps=1, name_suffix="0", report=ReportConfig()))
    assert (tmp_path / "pretrain" / "0" / "summary.json").is_file()
    assert "warning: no Pictures: OSError: disk full" in capfd.readouterr().err


def test_an_interrupted_run_is_drawn(
    tmp_path: Path, pretrain_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmstages.stages import pretrain
    from llmstages.train.run import Run

    record = Run.record

    def stop(run: Run, entry: Entry) -> None:
        record(run, entry)
        if entry["step"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "record", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(pretrain_config(tmp_path, report=ReportConfig()))
    assert (tmp_path / "pretrain" / "report" / "loss.png").is_file()


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, llmstages.train.run; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_what_chance_comes_to_is_dotted_beside_an_ability() -> None:
    entries = [step_entry(step) for step in range(1, 5)]
    for step, right in ((2, 0.5), (4, 0.75)):
        figures = {"val_loss": 3.0, "val_acc/lions": right, "val_acc_chance/lions": 0.25}
        entries.append(evaluation(step, **figures))
    ability, chance = loss_figure(Curves.of(entries), "run").axes[2].lines
    assert list(ability.get_xdata()) == list(chance.get_xdata()) == [200, 400]  # tokens
    assert (list(ability.get_ydata()), list(chance.get_ydata())) == ([0.5, 0.75], [0.25, 0.25])
    assert (chance.get_linestyle(), chance.get_color()) == (":", ability.get_color())

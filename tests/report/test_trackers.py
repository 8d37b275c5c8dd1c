"""Trackers hold what metrics.jsonl holds, once, also when a run was cut off and resumed."""

import json
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmstages.config.compose import from_file
from llmstages.errors import UserError
from llmstages.report.metrics import Curves, read_entries, scalars
from llmstages.report.tensorboard import EventFiles
from llmstages.report.trackers import KINDS, TrackedRun, check_trackers
from llmstages.stages import pretrain
from llmstages.train.run import Run, foreign_names

NOT_ASKED: dict[str, Any] = {}
ASKED = {"logger": "tensorboard"}


def summary_figures(run_dir: Path) -> dict[str, float]:
    """Numbers of the summary's metrics."""
    path = run_dir / "summary.json"
    metrics = json.loads(path.read_text())["metrics"] if path.exists() else {}
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def assert_equal_events(run_dir: Path) -> None:
    """TensorBoard reads every figure of metrics.jsonl, at its step, and nothing else."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs TensorBoard"
    ).EventAccumulator(str(run_dir / "report" / "tensorboard"))
    accumulator.Reload()
    curves = Curves.of(read_entries(run_dir / "metrics.jsonl"))
    expected = curves.training | curves.validation
    tags = accumulator.Tags()["scalars"]
    assert {tag for tag in tags if not tag.startswith("summary/")} == expected.keys()
    for name, value in summary_figures(run_dir).items():
        (event,) = accumulator.Scalars(f"summary/{name}")
        assert event.value == pytest.approx(value)
    for name, curve in expected.items():
        events = accumulator.Scalars(name)
        assert [event.step for event in events] == curve.steps.tolist()
        values = [event.value for event in events]
        assert values == pytest.approx(curve.values.tolist(), rel=1e-6)


def test_a_run(tmp_path: Path, pretrain_config: Callable[..., Any]) -> None:
    pytest.importorskip("tensorboard")
    pretrain.run(pretrain_config(tmp_path, **ASKED))
    assert_equal_events(tmp_path / "pretrain")
    pretrain.run(pretrain_config(tmp_path, **ASKED, steps=1, overwrite=True))
    assert_equal_events(tmp_path / "pretrain")


@pytest.mark.parametrize("before", [ASKED, NOT_ASKED], ids=["from 1", "later"])
def test_a_resumed_run(
    tmp_path: Path,
    pretrain_config: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, Any],
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
            pretrain.run(pretrain_config(tmp_path, **before))
    run_dir = tmp_path / "pretrain"
    assert read_entries(run_dir / "metrics.jsonl")[-1]["step"] == 7
    pretrain.run(pretrain_config(tmp_path, **ASKED))
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
    files = EventFiles(TrackedRun(tmp_path, "run", "pretrain", {}), None, entries)
    files.finish({}, "finished")
    assert_equal_events(tmp_path)


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, whole = path.read_bytes(), 7, b""
    while position < len(data):
        if (left := 32768 - position % 32768) < 7:  # no header fits into the rest of a block
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # all of a record, or its last part
            yield Record.FromString(whole)
            whole = b""


Part = tuple[str, list[dict[str, Any]], dict[str, Any], int]
"""Of an offline directory: run id, rows of the history, summary, exit status."""


def wandb_parts(run_dir: Path) -> list[Part]:
    """All of a run that has ended: W&B's own process writes on for a while."""
    end = time.monotonic() + 30
    while -1 in [status for *_, status in parts_so_far(run_dir)]:
        assert time.monotonic() < end, parts_so_far(run_dir)
        time.sleep(0.05)
    return parts_so_far(run_dir)


def parts_so_far(run_dir: Path) -> list[Part]:
    """What stands in the files."""

    def values(items: Any) -> dict[str, Any]:
        return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}

    parts = []
    for path in sorted((run_dir / "report" / "wandb").glob("offline-run-*/*.wandb")):
        run_id, rows, summary, status = "", [], {}, -1
        for record in wandb_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run_id = record.run.run_id
            elif kind == "history":
                rows.append({"step": record.history.step.num, **values(record.history.item)})
            elif kind == "summary":
                summary |= values(record.summary.update)
            elif kind == "exit":
                status = record.exit.exit_code
        parts.append((run_id, rows, summary, status))
    return parts


def by_step(rows: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Figures by step; those of W&B's own left out."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        step = found.setdefault(row["step"], {})
        for name, value in row.items():
            if not name.startswith("_") and name != "step":
                assert step.setdefault(name, value) == value
    return found


def test_wandb_offline_killed_and_resumed(
    tmp_path: Path, pretrain_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(pretrain_config(tmp_path, logger="wandb", stop_after=6, name="a"))
        bits = pretrain.run(pretrain_config(tmp_path, logger="wandb", name="a"))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
    first, second = wandb_parts(tmp_path / "a")
    assert first[0] == second[0] != ""
    entries = read_entries(tmp_path / "a" / "metrics.jsonl")
    recorded = by_step([{"step": e["step"], **scalars(e)} for e in entries])
    assert by_step([*first[1], *second[1]]) == recorded
    assert list(recorded) == list(range(1, 9))
    assert (first[2]["summary/status"], first[3]) == ("interrupted", 1)
    assert (second[2]["summary/status"], second[3]) == ("finished", 0)
    assert second[2]["summary/val_bits_per_byte"] == bits
    files = (tmp_path / "a" / "report" / "wandb").glob("offline-run-*/files/*")
    assert not list(files)  # such as the packages installed
    assert not foreign_names(tmp_path / "a")  # overwrite=true may delete all that W&B wrote


def test_wandb_online_gets_an_evaluation_that_was_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    logged = []
    online = SimpleNamespace(
        id="x",
        starting_step=5,
        settings=SimpleNamespace(_offline=False),
        log=lambda figures, step: logged.append((figures, step)),
    )
    monkeypatch.setattr(wandb, "init", lambda **settings: online)
    tracked = TrackedRun(tmp_path, "a", "pretrain", {}, evaluated={2})
    earlier = [{"step": 2, "event": "evaluation", "val_loss": 3.0}, {"step": 4, "loss": 2.0}]
    run = import_module("llmstages.report.wandb_run").start(tracked, "x", earlier)
    run.record({"step": 4, "event": "evaluation", "val_loss": 2.5})
    run.record({"step": 5, "loss": 1.0})
    assert logged == [({"val_loss": 2.5}, 5), ({"loss": 1.0}, 5)]


def test_trackio_killed_and_resumed(
    tmp_path: Path, pretrain_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = pytest.importorskip("trackio.sqlite_storage", reason="needs Trackio")
    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio")
    record = Run.record

    def interrupted(run: Run, entry: dict[str, Any]) -> None:
        record(run, entry)
        if entry["step"] == 4:  # its evaluation is cut off, and made up by the second process
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(pretrain_config(tmp_path, logger="trackio"))
    entries = read_entries(tmp_path / "pretrain" / "metrics.jsonl")
    assert [entry["step"] for entry in entries if "event" not in entry] == [1, 2, 3, 4]
    assert not [entry for entry in entries if "event" in entry]
    bits = pretrain.run(pretrain_config(tmp_path, logger="trackio"))
    (name,) = storage.SQLiteStorage.get_runs("llmstages")
    rows = storage.SQLiteStorage.get_logs("llmstages", name)
    summary = [row for row in rows if "summary/status" in row]
    entries = read_entries(tmp_path / "pretrain" / "metrics.jsonl")
    recorded = by_step([{"step": e["step"], **scalars(e)} for e in entries])
    logged = [
        {key: value for key, value in row.items() if key != "timestamp"}
        for row in rows
        if row not in summary
    ]
    assert by_step(logged) == recorded
    assert [row["summary/status"] for row in summary] == ["interrupted", "finished"]
    assert summary[-1]["summary/val_bits_per_byte"] == bits
    assert storage.SQLiteStorage.get_run_config("llmstages", name)["optim"]["name"] == "muon"


def test_interrupted_after_the_training(
    tmp_path: Path, pretrain_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")

    def interrupted(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "write_summary", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(pretrain_config(tmp_path, logger="wandb", steps=1))
    ((*_, summary, status),) = wandb_parts(tmp_path / "pretrain")
    assert (summary["summary/status"], status) == ("interrupted", 1)


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_two_runs_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(kind)
    monkeypatch.setenv("WANDB_MODE", "offline")
    storage = pytest.importorskip("trackio.sqlite_storage", reason="needs Trackio")
    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio")
    module = import_module(f"llmstages.report.{KINDS[kind].module}")
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        runs.append(module.start(TrackedRun(tmp_path / name, name, "pretrain", {}), None, []))
    for step, run in enumerate(runs):  # the first ends while the second is open
        run.record({"step": step, "loss": 2.0})
        run.finish({}, "finished")
    if kind == "wandb":
        rows = {name: wandb_parts(tmp_path / name)[0][1] for name in "ab"}
    else:
        rows = {run.id[0]: storage.SQLiteStorage.get_logs("llmstages", run.id) for run in runs}
    losses = {name: [row["step"] for row in rows[name] if "loss" in row] for name in rows}
    assert losses == {"a": [0], "b": [1]}


def test_one_that_fails_is_left_out(
    tmp_path: Path,
    pretrain_config: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorboard")

    def full(files: EventFiles, entry: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventFiles, "record", full)
    pretrain.run(pretrain_config(tmp_path, **ASKED))
    said = capsys.readouterr().err
    assert said.count("TensorBoard") == 1
    assert "no more TensorBoard: OSError: [Errno 28] No space left on device" in said
    assert (tmp_path / "pretrain" / "summary.json").is_file()


def test_nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="WANDB_MODE=offline"):
        check_trackers(["wandb"])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WANDB_API_KEY", "short", "40"),
        ("WANDB_MODE", "onlin", "choose one of online"),
        ("WANDB_DISABLED", "true", "WANDB_MODE=disabled"),
    ],
)
def test_what_wandb_would_not_do(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb").teardown()  # it keeps the environment of the first look
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=told):
        check_trackers(["wandb"])


def test_settings_of_an_older_run(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("report: {curves: true, tensorboard: true}\n")
    assert from_file("pretrain", path).logger == ["tensorboard"]


def test_not_installed(
    tmp_path: Path, pretrain_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError) as refused:
        pretrain.run(pretrain_config(tmp_path, **ASKED))
    assert str(refused.value) == (
        "logger=tensorboard needs TensorBoard: install it with pip install 'llmstages[tracking]'"
    )
    assert not (tmp_path / "pretrain").exists()

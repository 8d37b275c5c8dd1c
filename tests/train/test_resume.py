"""The same seed gives the same run to the last bit, in one go or in pieces."""

import json
import math
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmstages.config.groups import (
    BudgetConfig,
    CheckpointConfig,
    EvaluateConfig,
    MethodConfig,
    OptimConfig,
    ReplayConfig,
)
from llmstages.errors import UserError
from llmstages.evaluate import held_out
from llmstages.stages import finetune_classify, finetune_instruct, pretrain
from llmstages.stages.lineage.links import check_lineage
from llmstages.stages.predict import scores_of
from llmstages.train import checkpoint, loop
from llmstages.train.loop import LOWEST_LOSS, Goal, Loop
from llmstages.train.records import read_sealed, write_sealed
from llmstages.train.run import Run

STAGES = {
    "pretrain": pretrain,
    "instruct": finetune_instruct,
    "classify": finetune_classify,
}


def flip(path):
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class Killed(BaseException):
    """The end of the process, as far as the code can see."""


def losses(run_dir):
    """Training losses and gradient norms by step, and the metrics of evaluations."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    timeless = [
        {key: value for key, value in entry.items() if "second" not in key} for entry in entries
    ]
    assert [entry["step"] for entry in timeless] == sorted(entry["step"] for entry in timeless)
    return timeless


def results(run_dir):
    """All that must be the same: metrics on the way, final metrics, weights and optimizer."""
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    weights = load_file(run_dir / "last" / "model.safetensors")
    state = load_file(run_dir / "last" / "trainer" / "state.safetensors")
    tensors = {name: tensor.numpy().tobytes() for name, tensor in sorted((weights | state).items())}
    best = str((run_dir / "best").readlink())
    kept = ("metrics", "metrics_before", "tokens", "words", "steps")
    return losses(run_dir), {key: summary[key] for key in kept}, tensors, best


@pytest.fixture
def configs(pretrain_config, instruct_config, classify_config):
    return {"pretrain": pretrain_config, "instruct": instruct_config, "classify": classify_config}


@pytest.fixture
def run_killed(monkeypatch):
    """run_killed(stage, config, ...): run, and end the process at some moment."""

    def at(target, name, function, stage, config):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, function)
            with pytest.raises(Killed):
                stage.run(config)

    def run(stage, config, *, after_step=None, in_save=None, at_call=None):
        """After so many steps, before any save; in a save; or when a function is called."""
        done = [0]
        whole_step, whole_write = Loop.step, checkpoint.write_sealed

        def step(loop):
            entry = whole_step(loop)
            done[0] += 1
            if done[0] == after_step:
                raise Killed
            return entry

        def write_sealed(path, contents):
            done[0] += 1
            if done[0] == in_save:
                path.write_text('{"torn', encoding="utf-8")
                raise Killed
            whole_write(path, contents)

        def killed(*args, **kwargs):
            raise Killed

        if after_step is not None:
            at(Loop, "step", step, stage, config)
        elif in_save is not None:
            at(checkpoint, "write_sealed", write_sealed, stage, config)
        else:
            at(*at_call, killed, stage, config)

    return run


def test_same_seed_twice_is_the_same_to_the_last_bit(tiny_run, tmp_path, pretrain_config):
    pretrain.run(pretrain_config(tmp_path))
    assert results(tmp_path / "pretrain") == results(tiny_run)
    pretrain.run(pretrain_config(tmp_path, name="other", seed=1))
    assert losses(tmp_path / "other") != losses(tiny_run)


@pytest.mark.parametrize("stage", ["pretrain", "instruct", "classify"])
@pytest.mark.parametrize("killed_after", [1, 3, 4, 5])
def test_killed_and_restarted_equals_uninterrupted(
    stage, killed_after, tmp_path, configs, request, run_killed, capfd
):
    shared = {"pretrain": "tiny_run", "instruct": "instruct_run", "classify": "classifier_run"}
    whole = request.getfixturevalue(shared[stage])
    settings = {"baselines": True} if stage == "classify" else {}
    config = configs[stage](tmp_path, **settings)
    run_killed(STAGES[stage], config, after_step=killed_after)
    run_dir = tmp_path / whole.name
    assert not (run_dir / "summary.json").exists()
    STAGES[stage].run(config)
    assert ("continuing at step" in capfd.readouterr().err) == (killed_after > 2)
    assert results(run_dir) == results(whole)


@pytest.mark.parametrize("stage", ["instruct", "classify"])
@pytest.mark.parametrize(
    "method",
    [
        MethodConfig(name="lora", rank=4, targets=["query", "embedding"]),
        MethodConfig(name="lora", rank=4, decomposed=True),
        MethodConfig(name="last", last_blocks=1),
    ],
    ids=["lora", "dora", "last"],
)
def test_where_few_weights_are_trained(stage, method, tmp_path, configs, run_killed):
    whole = configs[stage](tmp_path, name="whole", method=method)
    STAGES[stage].run(whole)
    pieces = configs[stage](tmp_path, name="pieces", method=method)
    run_killed(STAGES[stage], pieces, after_step=5)
    STAGES[stage].run(pieces)
    assert results(tmp_path / "pieces") == results(tmp_path / "whole")


def test_where_corpus_text_is_replayed(tmp_path, instruct_config, run_killed):
    whole = instruct_config(tmp_path, name="whole", replay=ReplayConfig(share=0.3))
    finetune_instruct.run(whole)
    pieces = instruct_config(tmp_path, name="pieces", replay=ReplayConfig(share=0.3))
    run_killed(finetune_instruct, pieces, after_step=5)
    finetune_instruct.run(pieces)
    assert results(tmp_path / "pieces") == results(tmp_path / "whole")
    links = list(check_lineage(tmp_path / "pieces"))  # the base's corpus, as its own and replayed
    assert [link.what for link in links].count("corpus manifest") == 2


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "llmstages.json", "trainer/state.safetensors"]
)
def test_a_damaged_checkpoint_is_passed_over(
    name, tmp_path, tiny_run, pretrain_config, run_killed, capfd
):
    config = pretrain_config(tmp_path)
    run_killed(pretrain, config, after_step=7)
    run_dir = tmp_path / "pretrain"
    assert (run_dir / "last").readlink().name == "step-000006"
    flip(run_dir / "checkpoints" / "step-000006" / name)
    pretrain.run(config)
    err = capfd.readouterr().err
    assert "continuing at step 4 of 8" in err
    assert re.search(
        "step-000006.*(the checkpoint is not used|incomplete checkpoint, skipped)", err
    )
    assert results(run_dir) == results(tiny_run)


def test_when_every_checkpoint_is_damaged(tmp_path, pretrain_config, run_killed):
    config = pretrain_config(tmp_path)
    run_killed(pretrain, config, after_step=7)
    run_dir = tmp_path / "pretrain"
    for path in run_dir.glob("checkpoints/*/trainer/state.safetensors"):
        flip(path)
    before = sorted(path.name for path in run_dir.rglob("*"))
    with pytest.raises(UserError, match="every checkpoint is damaged: overwrite=true"):
        pretrain.run(config)
    assert sorted(path.name for path in run_dir.rglob("*")) == before
    flip(run_dir / "plan.json")
    with pytest.raises(UserError, match=r"plan\.json: (damaged|not a complete record)"):
        pretrain.run(config)


def test_without_its_plan_a_run_is_not_thrown_away(tmp_path, pretrain_config, run_killed):
    config = pretrain_config(tmp_path)
    run_killed(pretrain, config, after_step=7)
    run_dir = tmp_path / "pretrain"
    (run_dir / "plan.json").unlink()
    with pytest.raises(UserError, match=r"checkpoints but no plan\.json.*base=.*step-000006"):
        pretrain.run(config)
    assert (run_dir / "checkpoints" / "step-000006").is_dir()


def test_killed_while_a_checkpoint_takes_the_place_of_another(
    tmp_path, tiny_run, pretrain_config, run_killed
):
    config = pretrain_config(tmp_path)
    run_killed(pretrain, config, after_step=7)
    directory = tmp_path / "pretrain" / "checkpoints" / "step-000006"
    directory.rename(directory.with_name("step-000006.old"))
    pretrain.run(config)
    assert results(tmp_path / "pretrain") == results(tiny_run)
    assert not list((tmp_path / "pretrain" / "checkpoints").glob("*.old"))


def test_a_disk_that_is_full_leaves_what_was_saved(
    tmp_path, tiny_run, pretrain_config, monkeypatch
):
    """The limit on the size of files stands for the disk: it fails at the second save."""
    config = pretrain_config(tmp_path)
    written = checkpoint.save_file
    saves = []

    def save_file(*arguments, **settings):
        saves.append(1)
        limit = 50_000 if len(saves) > 2 else resource.RLIM_INFINITY  # two files a checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        written(*arguments, **settings)

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", save_file)
        try:
            with pytest.raises(OSError, match=r"step-000004 could not be written.*too large"):
                pretrain.run(config)
        finally:
            limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    directory = tmp_path / "pretrain" / "checkpoints"
    assert [path.name for path in directory.iterdir()] == ["step-000002"]
    pretrain.run(config)
    assert results(tmp_path / "pretrain") == results(tiny_run)


def test_no_room_is_said_before_the_first_step(tmp_path, pretrain_config, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr("llmstages.disk.shutil.disk_usage", lambda path: free)
    with pytest.raises(UserError, match=r"4 checkpoints of 346 kB may stand there.* 1 MB are free"):
        pretrain.run(pretrain_config(tmp_path))
    assert not (tmp_path / "pretrain").exists()


@pytest.fixture
def disk():
    """disk(options): a disk of its own mounted on a directory, or mounted again; root alone may.

    Not in pytest's folder, which could not be cleared if a process that was killed left it mounted.
    """
    place = Path(tempfile.mkdtemp(prefix="llmstages-disk-"))

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no disk can be mounted: that needs root")
        return place

    yield mount
    while subprocess.run(["umount", "--lazy", str(place)], capture_output=True).returncode == 0:
        pass
    place.rmdir()


def fill(path):
    """Take all room of a disk but a little, in which lines of metrics can still be written."""
    path.write_bytes(bytes(shutil.disk_usage(path.parent).free - 40_000))


@pytest.mark.parametrize(
    "told", ["step-000006 could not be written.*No space left on device", "Read-only file system"]
)
def test_a_disk_that_fills_or_fails(disk, told, tiny_run, pretrain_config, monkeypatch):
    """It happens after the fifth step; the checkpoint of the fourth is whole, and goes on."""
    runs_dir = disk("size=5m")
    step, done = Loop.step, []

    def broken_step(loop):
        done.append(1)
        if len(done) == 5:
            loop.writer.wait()
            if "Read-only" in told:
                disk("remount,ro,size=5m")
            else:
                fill(runs_dir / "other")
        return step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", broken_step)
        patch.setattr(Run, "lock", lambda run: None)  # an open file would keep the disk writable
        with pytest.raises(OSError, match=told):
            pretrain.run(pretrain_config(runs_dir))
    checkpoints = sorted(path.name for path in (runs_dir / "pretrain" / "checkpoints").iterdir())
    assert checkpoints[-1] == "step-000004"
    (runs_dir / "other").unlink(missing_ok=True) if "space" in told else disk("remount,rw,size=5m")
    pretrain.run(pretrain_config(runs_dir))
    assert results(runs_dir / "pretrain") == results(tiny_run)


def test_a_disk_that_cannot_be_written(disk, pretrain_config):
    runs_dir = disk("size=1m,ro")
    with pytest.raises(UserError, match=r"cannot be written .* set runs_dir= to another place"):
        pretrain.run(pretrain_config(runs_dir))


@pytest.mark.parametrize("saves", [1, 2, 4])
def test_killed_while_saving(saves, tmp_path, tiny_run, pretrain_config, run_killed):
    config = pretrain_config(tmp_path)
    run_killed(pretrain, config, in_save=saves)
    torn = sorted((tmp_path / "pretrain" / "checkpoints").glob("*.tmp"))
    assert len(torn) == 1
    pretrain.run(config)
    assert results(tmp_path / "pretrain") == results(tiny_run)
    assert not list((tmp_path / "pretrain" / "checkpoints").glob("*.tmp"))


def test_killed_before_the_summary(tmp_path, tiny_run, pretrain_config, run_killed):
    run_killed(pretrain, pretrain_config(tmp_path), at_call=(pretrain, "write_summary"))
    pretrain.run(pretrain_config(tmp_path))
    assert results(tmp_path / "pretrain") == results(tiny_run)


def test_killed_before_the_link_to_the_best(tmp_path, tiny_run, pretrain_config, run_killed):
    config = pretrain_config(tmp_path, checkpoint=CheckpointConfig(every_steps=100))
    run_killed(pretrain, config, at_call=(Run, "link"))
    assert not (tmp_path / "pretrain" / "best").exists()
    pretrain.run(pretrain_config(tmp_path))
    assert results(tmp_path / "pretrain") == results(tiny_run)


def test_a_torn_checkpoint_is_skipped_for_the_one_before(
    tmp_path, tiny_run, pretrain_config, run_killed, capfd
):
    config = pretrain_config(tmp_path)
    run_killed(pretrain, config, after_step=7)
    (tmp_path / "pretrain" / "checkpoints" / "step-000006" / "llmstages.json").unlink()
    pretrain.run(config)
    err = capfd.readouterr().err
    assert "step-000006: incomplete checkpoint, skipped" in err.replace("\n", "")
    assert "continuing at step 4 of 8" in err
    assert results(tmp_path / "pretrain") == results(tiny_run)


def test_a_torn_line_of_metrics_is_dropped(tmp_path, tiny_run, pretrain_config, run_killed):
    run_killed(pretrain, pretrain_config(tmp_path), after_step=5)
    with (tmp_path / "pretrain" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "los')
    pretrain.run(pretrain_config(tmp_path))
    assert results(tmp_path / "pretrain") == results(tiny_run)


def test_an_unfinished_run_with_other_settings_is_refused(tmp_path, pretrain_config, run_killed):
    run_killed(pretrain, pretrain_config(tmp_path), after_step=3)
    with pytest.raises(ValueError, match=r"an unfinished run .*seed was 0, is 1"):
        pretrain.run(pretrain_config(tmp_path, seed=1))


def test_another_machine_is_said(tmp_path, pretrain_config, run_killed, capfd):
    run_killed(pretrain, pretrain_config(tmp_path), after_step=3)
    plan_path = tmp_path / "pretrain" / "plan.json"
    plan = read_sealed(plan_path)
    plan["machine"]["torch"] = "2.0.0"
    write_sealed(plan_path, plan)
    pretrain.run(pretrain_config(tmp_path))
    err = " ".join(capfd.readouterr().err.split())
    assert f"goes on with machine.torch {torch.__version__} (was 2.0.0)" in err


@pytest.fixture
def command(tiny_corpus, tmp_path):
    """The command line of a run of 40 steps, and its directory."""

    def make(name):
        return [
            sys.executable,
            "-m",
            "llmstages",
            "pretrain",
            str(tiny_corpus),
            f"runs_dir={tmp_path}",
            f"name={name}",
            "model=nano",
            "model.num_layers=2",
            "model.hidden_size=64",
            "model.context_length=64",
            "batch_tokens=1024",
            "steps=40",
            "device=cpu",
            "dtype=float32",
            "compile='off'",
            "checkpoint.every_steps=5",
            "evaluate.every_steps=20",
            "evaluate.max_tokens=500",
            "evaluate.num_samples=0",
        ], tmp_path / name

    return make


def start(command, run_dir, lines):
    """Start a run and wait until `metrics.jsonl` has so many lines."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(process, run_dir, lines)
    return process


def wait_for(process, run_dir, lines):
    """Until `metrics.jsonl` of a run has so many lines."""
    path = run_dir / "metrics.jsonl"
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"the run did not get to step {lines}: {process.communicate()[1]}")


def test_signals(command, cli):
    """SIGKILL at some moment, then SIGTERM, then to the end: as if nothing had been.

    So it is where a second process comes to the run, which is told of the first.
    """
    words, run_dir = command("pieces")
    process = start(words, run_dir, 3)
    process.send_signal(signal.SIGSTOP)
    status, _, err = cli(*words[3:])
    process.send_signal(signal.SIGCONT)
    assert status == 2
    assert "another process is at this run: wait for it" in err
    wait_for(process, run_dir, 8)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)

    process = start(words, run_dir, 20)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "checkpoint saved" in err
    assert "Traceback" not in err
    steps = [entry["step"] for entry in losses(run_dir)]
    assert (run_dir / "checkpoints" / f"step-{steps[-1]:06d}" / "llmstages.json").is_file()

    for name in ("pieces", "whole"):
        status, _, err = cli(*command(name)[0][3:])
        assert status == 0, err
    assert results(run_dir) == results(command("whole")[1])


LOOKING = EvaluateConfig(every_steps=4, max_tokens=2000, num_samples=1)


@pytest.fixture(scope="module")
def run_with_samples(tmp_path_factory, pretrain_config):
    """A finished run that showed samples: read only."""
    runs_dir = tmp_path_factory.mktemp("samples")
    pretrain.run(pretrain_config(runs_dir, evaluate=LOOKING))
    return runs_dir / "pretrain"


@pytest.mark.parametrize("moment", ["first step", "micro-batch", "evaluation", "samples"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_at_some_moment(
    moment, number, tmp_path, run_with_samples, pretrain_config, monkeypatch
):
    """The run stops there, has lost at most the step under way, and goes on as if nothing was."""
    config = pretrain_config(tmp_path, name="pieces", evaluate=LOOKING)
    calls = []

    def signalled(whole, at):
        def call(*arguments, **settings):
            calls.append(moment)
            if len(calls) == at:
                signal.raise_signal(number)
            return whole(*arguments, **settings)

        return call

    with monkeypatch.context() as patch:
        if moment == "samples":
            patch.setattr(pretrain, "generate", signalled(pretrain.generate, 1))
        elif moment == "evaluation":  # the first is before training; there are two sources
            patch.setattr(held_out, "likelihood", signalled(held_out.likelihood, 3))
        else:  # two micro-batches a step
            at = 1 if moment == "first step" else 11
            losses_of = pretrain.pretraining_loss
            patch.setattr(pretrain, "pretraining_loss", lambda z: signalled(losses_of(z), at))
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(config)
    saved = sorted(path.name for path in (tmp_path / "pieces" / "checkpoints").iterdir())
    if moment == "first step":
        assert not saved
    else:
        assert saved[-1] == f"step-{losses(tmp_path / 'pieces')[-1]['step']:06d}"
    pretrain.run(config)
    assert results(tmp_path / "pieces") == results(run_with_samples)


def test_time_budget(tmp_path, pretrain_config):
    import llmstages

    llmstages.take_start_seconds()  # the first stage of a process counts from the process's start
    begin = time.monotonic()
    looking = EvaluateConfig(max_tokens=500, num_samples=0)
    pretrain.run(pretrain_config(tmp_path, budget=BudgetConfig(seconds=3), evaluate=looking))
    spent = time.monotonic() - begin
    summary = json.loads((tmp_path / "pretrain" / "summary.json").read_text(encoding="utf-8"))
    assert 1 < spent < 5
    assert summary["steps"] > 10
    assert summary["seconds"] == pytest.approx(spent, abs=0.5)
    assert summary["validation_tokens"] >= 500
    assert "had room for" not in (tmp_path / "pretrain" / "log.txt").read_text("utf-8")


def test_a_time_budget_that_is_eaten_before_the_first_step_is_said(
    tmp_path, pretrain_config, monkeypatch
):
    monkeypatch.setattr(loop, "FEW_STEPS", 10**9)
    looking = EvaluateConfig(max_tokens=500, num_samples=0)
    pretrain.run(pretrain_config(tmp_path, budget=BudgetConfig(seconds=1), evaluate=looking))
    text = (tmp_path / "pretrain" / "log.txt").read_text("utf-8")
    steps = json.loads((tmp_path / "pretrain" / "summary.json").read_text("utf-8"))["steps"]
    assert f"warning: the time budget had room for {steps} steps: the first was done after" in text


def test_a_machine_that_slows_down(tmp_path, pretrain_config, monkeypatch, capfd):
    """Steps are lowered once, and the progress bar knows."""
    step = Loop.step

    def slow_step(loop):
        time.sleep(0.1)
        entry = step(loop)
        loop.progress.training_seconds += 0.1
        return entry

    monkeypatch.setattr(Loop, "step", slow_step)
    looking = EvaluateConfig(max_tokens=500, num_samples=0)
    pretrain.run(pretrain_config(tmp_path, budget=BudgetConfig(seconds=3), evaluate=looking))
    plan = json.loads((tmp_path / "pretrain" / "plan.json").read_text(encoding="utf-8"))
    done, steps = plan["changed"][-1]
    assert done < steps < plan["steps"]
    assert f"{steps}/{steps} steps" in capfd.readouterr().err
    before = losses(tmp_path / "pretrain")
    assert before[-1]["step"] == steps

    # Cut off at its first checkpoint it goes the same way again, however fast the machine is now.
    monkeypatch.setattr(Loop, "step", step)
    directory = tmp_path / "pretrain"
    (directory / "summary.json").unlink()
    first, *others = sorted((directory / "checkpoints").iterdir())
    assert others
    for later in others:
        shutil.rmtree(later)
    pretrain.run(pretrain_config(tmp_path, budget=BudgetConfig(seconds=3), evaluate=looking))
    assert f"continuing at step {int(first.name[5:])} of {steps}" in capfd.readouterr().err
    assert losses(directory) == before
    entries = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    times = [entry["seconds"] for entry in entries]
    assert times == sorted(times)


def test_an_evaluation_that_gives_no_number_ends_the_run(tmp_path, pretrain_config, monkeypatch):
    measured, calls = pretrain.held_out_metrics, []

    def metrics(*arguments, **settings):
        calls.append(1)
        return measured(*arguments, **settings) | ({"val_loss": math.nan} if len(calls) > 2 else {})

    monkeypatch.setattr(pretrain, "held_out_metrics", metrics)
    with pytest.raises(FloatingPointError, match="after step 8 val_loss is nan"):
        pretrain.run(pretrain_config(tmp_path))
    run_dir = tmp_path / "pretrain"
    assert [path.name for path in sorted((run_dir / "checkpoints").iterdir())][-1] == "step-000006"
    assert "NaN" not in (run_dir / "metrics.jsonl").read_text()
    assert not (run_dir / "summary.json").exists()


# 2 blocks of 32 x 8 x 12 for attention, 3 x 32 x 64 for SwiGLU, 64 + 16 for norms; the last norm;
# 512 embeddings, which are the output matrix too; attention over 64 tokens.
TINY_FLOPS_PER_TOKEN = 6 * (2 * (3072 + 6144 + 80) + 32 + 512 * 32) + 12 * 2 * 32 * 64


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"budget": BudgetConfig(tokens=512 * 3)}, 3),
        ({"budget": BudgetConfig(tokens=1)}, 1),
        ({"budget": BudgetConfig(flops=3 * 512 * TINY_FLOPS_PER_TOKEN)}, 3),
        ({"steps": 5}, 5),
    ],
)
def test_length_of_pretraining(tmp_path, pretrain_config, settings, steps):
    pretrain.run(pretrain_config(tmp_path, **settings))
    summary = json.loads((tmp_path / "pretrain" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["steps"], summary["tokens"]) == (steps, 512 * steps)


def test_of_equals_the_lower_loss_is_better():
    goal = Goal("macro_f1", lower_is_better=False)
    best = (0.9, 0.5)
    better = [(0.91, 0.7), (0.9, 0.4)]
    assert [goal.improves(new, best) for new in better] == [True, True]
    assert [goal.improves(new, best) for new in [(0.89, 0.1), (0.9, 0.6), best]] == [False] * 3
    assert goal.improves((0.0, 2.0), (None, None))
    assert LOWEST_LOSS.improves((0.4, 0.4), best)
    assert not LOWEST_LOSS.improves((0.9, 0.9), best)


def test_what_does_not_get_better_ends_early(tmp_path, classify_config, run_killed):
    """Killed and continued it ends at the same step; what is reported is the best checkpoint."""

    def config(name):
        return classify_config(
            tmp_path,
            name=name,
            patience=2,
            steps=12,
            optim=OptimConfig(lr=0.3),
            evaluate=EvaluateConfig(every_steps=1),
            sampling="balanced",
        )

    finetune_classify.run(config("whole"))
    run = tmp_path / "whole"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    looks = [entry for entry in losses(run) if "val_loss" in entry]
    ranks = [(-entry["val_macro_f1"], entry["val_loss"]) for entry in looks]
    best = ranks.index(min(ranks))
    assert summary["steps"] == len(ranks) == best + 3 < 12
    assert (run / "best").readlink().name == f"step-{best + 1:06d}"
    state = json.loads((run / "last" / "trainer" / "state.json").read_text(encoding="utf-8"))
    assert state["progress"]["best_metric"] == looks[best]["val_macro_f1"]
    loaded = checkpoint.load_checkpoint(run / "best")
    rows = [
        json.loads(line) for line in (run / "predictions.jsonl").read_text("utf-8").splitlines()
    ]
    found = scores_of(loaded, [r["text"] for r in rows], 4, torch.device("cpu"), torch.float32)
    for row, scores in zip(rows, found, strict=True):
        assert scores == pytest.approx(row["probabilities"], abs=1e-5)
    for name, after in (("early", 2), ("late", best + 3)):
        run_killed(finetune_classify, config(name), after_step=after)
        finetune_classify.run(config(name))
        assert results(tmp_path / name) == results(run)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 6), (2.5, 15), (0.01, 1)])
def test_epochs_of_a_classifier(tmp_path, classify_config, epochs, steps):
    # 48 training rows in batches of 8
    finetune_classify.run(classify_config(tmp_path, epochs=epochs))
    path = tmp_path / "lines-classify" / "summary.json"
    assert json.loads(path.read_text(encoding="utf-8"))["steps"] == steps


def test_what_dropout_leaves_out_depends_on_seed_and_step_alone(
    tiny_run, tmp_path, pretrain_config, run_killed
):
    pretrain.run(pretrain_config(tmp_path, name="whole", dropout=0.3))
    config = pretrain_config(tmp_path, name="pieces", dropout=0.3)
    run_killed(pretrain, config, after_step=5)
    torch.manual_seed(123)
    pretrain.run(config)
    assert results(tmp_path / "pieces") == results(tmp_path / "whole")
    assert losses(tmp_path / "whole") != losses(tiny_run)
    again = pretrain_config(tmp_path, name="again", dropout=0.3, activation_checkpointing="on")
    pretrain.run(again)
    assert losses(tmp_path / "again") == losses(tmp_path / "whole")

"""Two processes train the same model as one."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmstages.data.batch import IGNORED, Batch
from llmstages.train import parallel

KILLED_AFTER = Path(__file__).with_name("killed_after.py")
IN_TURN = Path(__file__).with_name("in_turn.py")


@pytest.fixture
def words(tiny_corpus, tmp_path):
    """The command line of a run of 20 steps, with a last micro-batch of one row."""

    def of(name, *more):
        settings = {
            "name": name,
            "runs_dir": tmp_path,
            "steps": 20,
            "model": "nano",
            "model.num_layers": 2,
            "model.hidden_size": 32,
            "model.num_heads": 4,
            "model.num_kv_heads": 2,
            "model.head_dim": 8,
            "model.intermediate_size": 64,
            "model.context_length": 64,
            "batch_tokens": 9 * 64,
            "micro_batch_tokens": 256,
            "dtype": "float32",
            "device": "cpu",
            "compile": "'off'",
            "evaluate.every_steps": 10,
            "evaluate.max_tokens": 2000,
            "evaluate.num_samples": 1,
            "checkpoint.every_steps": 5,
            "report.curves": "false",
        }
        return ["pretrain", str(tiny_corpus), *(f"{k}={v}" for k, v in settings.items()), *more]

    return of


def torchrun(*command):
    """Two processes; their exit status and what they said."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "--nproc-per-node=2", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stderr


def entries(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def assert_like(run_dir, other, tolerance):
    """Equal order of data, losses, evaluations, weights and optimizer, up to rounding."""
    pairs = list(zip(entries(run_dir), entries(other), strict=True))
    assert len(pairs) >= 22
    for one, two in pairs:
        assert one["step"] == two["step"]
        for key in ("loss", "grad_norm", "val_loss", "val_bits_per_byte"):
            assert one.get(key) == pytest.approx(two.get(key), abs=tolerance), one
    for name in ("model.safetensors", "trainer/state.safetensors"):
        here, there = load_file(run_dir / "last" / name), load_file(other / "last" / name)
        assert here.keys() == there.keys()
        for key in here:
            torch.testing.assert_close(here[key], there[key], atol=tolerance, rtol=0)
    files = [
        sorted(path.relative_to(run).as_posix() for path in (run / "last").resolve().rglob("*"))
        for run in (run_dir.resolve(), other.resolve())
    ]
    assert files[0] == files[1]


def test_two_processes_are_like_one(words, tmp_path, cli, tiny_run, labelled_file, instruct_file):
    """Whole and sharded, every stage; adapters, mixed precision, blocks computed again.

    All in one torchrun, whose start costs seconds.
    """
    tuning = [f"base={tiny_run}", f"runs_dir={tmp_path}", "dtype=float32", "device=cpu", "steps=4"]
    tuning += ["compile='off'", "report.curves=false", "evaluate.every_steps=2"]
    lora = ["method=lora", "method.rank=4", "method.targets=[up,embedding]"]
    dora = ["method=lora", "method.rank=4", "method.decomposed=true"]
    pairs = ["finetune-instruct", str(instruct_file), *tuning, "evaluate.num_generations=2"]
    pairs += ["max_cut_share=0.5"]
    pairs += ["max_new_tokens=2", "evaluate.num_samples=0", "batch_tokens=256"]
    rows = ["finetune-classify", str(labelled_file), *tuning, *dora, "baselines=false"]
    rows += ["pooling=mean", "sampling=balanced", "patience=5"]
    liked = tmp_path / "liked.jsonl"
    told = [json.loads(line) for line in instruct_file.read_text("utf-8").splitlines()]
    liked.write_text(
        "".join(
            json.dumps(
                {"prompt": row["prompt"], "chosen": row["completion"], "rejected": row["prompt"]}
            )
            + "\n"
            for row in told
        ),
        encoding="utf-8",
    )
    # A rate at which preferences are learnt within these steps, and a last micro-batch of one pair.
    dpo = ["finetune-instruct", str(liked), *pairs[2:], "method=dpo", "optim.lr=0.003"]
    dpo += ["micro_batch_tokens=128"]
    mixed = ["dtype=bfloat16", "steps=4", "evaluate.every_steps=2"]
    again = "activation_checkpointing='on'"
    runs = {
        "ddp": (words("ddp"), ["parallel=ddp"]),
        "fsdp": (words("fsdp"), ["parallel=fsdp", again]),
        "pairs": ([*pairs, *lora], ["parallel=fsdp"]),
        "rows": (rows, ["parallel=fsdp"]),
        "dpo": (dpo, ["parallel=fsdp"]),
        "dpo-ddp": (dpo, ["parallel=ddp"]),
        "mixed": (words("mixed", *mixed), ["parallel=fsdp", again]),
    }
    commands = tmp_path / "commands.json"
    orders = [[*command, f"name={key}-two", *more] for key, (command, more) in runs.items()]
    orders.append(words("no", "base=nowhere"))
    commands.write_text(json.dumps(orders), encoding="utf-8")
    status, err = torchrun(str(IN_TURN), str(commands))
    assert err.count("best checkpoint") == len(runs), err
    assert status != 0
    assert err.count("error: nowhere: no such checkpoint") == 1  # a mistake is said once
    assert not (tmp_path / "no").exists()

    (tmp_path / "ddp-one").symlink_to(tmp_path / "fsdp-one")
    (tmp_path / "dpo-ddp-one").symlink_to(tmp_path / "dpo-one")
    for key in ("fsdp", "pairs", "rows", "dpo", "mixed"):
        status, _, err = cli(*runs[key][0], f"name={key}-one")
        assert status == 0, err
    for key in ("ddp", "fsdp"):
        assert_like(tmp_path / f"{key}-two", tmp_path / f"{key}-one", 1e-3)
    tolerances = {"pairs": 1e-3, "rows": 1e-3, "dpo": 1e-3, "dpo-ddp": 1e-3, "mixed": 0.02}
    for key, tolerance in tolerances.items():
        one, two = (entries(tmp_path / f"{key}-{name}") for name in ("one", "two"))
        assert len(one) == 6
        for first, second in zip(one, two, strict=True):
            for measured in ("loss", "val_loss"):
                expected = pytest.approx(first.get(measured), abs=tolerance)
                assert second.get(measured) == expected, (key, first)
    val_losses = [entry["val_loss"] for entry in entries(tmp_path / "dpo-one") if "event" in entry]
    assert val_losses[-1] < 0.9 * math.log(2)
    for key in runs:
        plan = json.loads((tmp_path / f"{key}-two" / "plan.json").read_text(encoding="utf-8"))
        assert plan["machine"]["processes"] == 2


@pytest.mark.slow
def test_from_one_process_to_two_and_back(words, tmp_path, cli):
    status, _, err = cli(*words("whole"))
    assert status == 0, err
    command = words("pieces", "parallel=fsdp")
    status, _, err = cli(*command, "stop_after=7")
    assert status == 130
    status, err = torchrun(str(KILLED_AFTER), "13", *command)
    assert status != 0
    assert "continuing at step 7 of 20" in err
    assert "the run goes on with" in err
    assert "the order of the data is the same" in err
    status, _, err = cli(*command)
    assert status == 0, err
    assert "continuing at step 10 of 20" in err
    assert_like(tmp_path / "pieces", tmp_path / "whole", 1e-3)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_every_row_is_in_one_process(rows, monkeypatch):
    tokens = torch.arange(rows * 3).view(rows, 3)
    batch = Batch(
        tokens=tokens,
        targets=tokens + 1,
        position_ids=None,
        document_ids=tokens,
        weights=torch.ones(rows, 3),
        document_refs=tuple(f"row {row}" for row in range(rows)),
        num_real_tokens=rows * 3,
    )
    monkeypatch.setattr(parallel, "size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        shares.append(parallel.own_rows(batch))
    assert all(len(share.tokens) > 0 for share in shares)
    counted = torch.cat([share.targets[share.weights > 0] for share in shares])
    assert sorted(counted.tolist()) == sorted(batch.targets.flatten().tolist())
    assert sorted(ref for share in shares for ref in share.document_refs) == list(
        batch.document_refs
    )
    if rows == 1:
        assert (shares[1].targets == IGNORED).all()


STORE, OTHER = "llmstages-a", "llmstages-b"
ADDRESSES = {STORE: "10.231.77.1", OTHER: "10.231.77.2"}
RENDEZVOUS = "join_timeout=60,last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=3"


def ip(*command, check=True):
    return subprocess.run(["ip", *command], check=check, capture_output=True, text=True)


def pids(namespace):
    return [int(pid) for pid in ip("netns", "pids", namespace, check=False).stdout.split()]


def kill_all(namespace):
    for pid in pids(namespace):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def hosts():
    """Two hosts, as network namespaces with a cable between; skipped where none can be made."""
    if shutil.which("ip") is None or ip("netns", "add", STORE, check=False).returncode:
        pytest.skip("no network namespaces: they need root, and the command ip")
    try:
        ip("netns", "add", OTHER)
        ends = [*("ip", "link", "add", "veth0", "netns", STORE), *("type", "veth", "peer")]
        ip(*ends[1:], "name", "veth0", "netns", OTHER)
        for name, address in ADDRESSES.items():
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")
        yield
    finally:
        for name in ADDRESSES:
            kill_all(name)
            ip("netns", "del", name, check=False)


def agent(namespace, command, log):
    """torchrun on one host."""
    variables = ("GLOO_SOCKET_IFNAME=veth0", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")
    launcher = [
        *("ip", "netns", "exec", namespace, "env", *variables, "OMP_NUM_THREADS=1"),
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1"),
        *("--max-restarts=3", "--monitor-interval=0.5", "--rdzv-id=run", "--rdzv-backend=c10d"),
        *(f"--rdzv-endpoint={ADDRESSES[STORE]}:29555", f"--local-addr={ADDRESSES[namespace]}"),
        f"--rdzv-conf={RENDEZVOUS},is_host={int(namespace == STORE)}",
    ]
    return subprocess.Popen([*launcher, "-m", "llmstages", *command], stdout=log, stderr=log)


@pytest.mark.slow
def test_the_job_outlives_a_host(hosts, words, tmp_path, cli):
    """One of two hosts is killed; the other goes on from the last checkpoint."""
    status, _, err = cli(*words("whole", "steps=150"))
    assert status == 0, err
    run, log_path = tmp_path / "pieces", tmp_path / "log"
    with log_path.open("w") as log:
        agents = {name: agent(name, words("pieces", "steps=150"), log) for name in ADDRESSES}
        deadline = time.monotonic() + 90
        while not (run / "last").exists() or (run / "metrics.jsonl").read_bytes().count(b"\n") < 30:
            assert time.monotonic() < deadline, log_path.read_text()
            assert agents[STORE].poll() is None, log_path.read_text()
            time.sleep(0.05)
        kill_all(OTHER)
        agents[OTHER].wait(timeout=10)
        assert not (run / "summary.json").exists()
        assert agents[STORE].wait(timeout=90) == 0, log_path.read_text()
    told = log_path.read_text()
    assert "the run goes on with machine.processes 1 (was 2)" in " ".join(told.split())
    # Rounding grows over hundreds of steps, but each step is there once, and in its place.
    for one, two in zip(entries(run), entries(tmp_path / "whole"), strict=True):
        assert one["step"] == two["step"]
        assert one.get("loss") == pytest.approx(two.get("loss"), abs=0.01), one

"""The GPU's command without a GPU: every job's command, failures, and a run with tiny models."""

import json
import sys

import pytest


@pytest.mark.slow
def test_a_dry_run(checkout, broken_checkout, tmp_path, monkeypatch, capsys):
    import bench_gpu

    path = tmp_path / "gpu.json"
    kept = {"large": {"results": ["of an earlier call"]}}
    path.write_text(json.dumps(kept), encoding="utf-8")
    words = ["--dry-run", "--parts", "speed,large", "--json", str(path)]
    words += ["--nanogpt", str(checkout), "--nanochat", str(broken_checkout)]
    jobs = bench_gpu.jobs_of

    def with_a_failure(arguments, out):
        speed, _ = jobs(arguments, out)
        code = "import sys; sys.exit('out of memory')"
        return [speed, bench_gpu.Job("large", "large", [sys.executable, "-c", code], 60)]

    monkeypatch.setattr(bench_gpu, "jobs_of", with_a_failure)
    monkeypatch.setenv("LLMSTAGES_COMMIT", "0123abc")
    bench_gpu.main(words)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["large"] == kept["large"]  # a failure does not take the place of figures
    assert "large: status 1: out of memory" in capsys.readouterr().out
    speed = record["speed"]
    assert speed["dry_run"] is True
    assert speed["commit"] == "0123abc"
    assert speed["machine"]["device"] == "cpu"
    assert str(tmp_path) not in json.dumps(record)
    ours, peer, broken = speed["results"]
    assert (ours["who"], peer["who"], broken["who"]) == ("llmstages", "nanoGPT", "nanochat")
    assert ours["batch_tokens"] == peer["batch_tokens"] == 64
    assert peer["parameters"] == 64 * 32 + 32 * 32
    ratio = ours["rounds"][0] * ours["flops_per_token"]
    ratio /= peer["rounds"][0] * peer["flops_per_token"]
    assert peer["ours_over_peer_flops"]["median"] == pytest.approx(ratio)
    assert "no such kernel" in broken["error"]


def test_the_jobs_of_a_gpu(tmp_path):
    import bench_gpu

    words = ["--corpus", str(tmp_path), "--nanochat", "chat", "--nanogpt", "gpt", "--fp8"]
    jobs = {job.name: job for job in bench_gpu.jobs_of(bench_gpu.parse(words), tmp_path)}
    assert set(jobs) == {"speed", "large", "memory", "speed-fp8", "large-fp8", "resume", "learn"}
    assert jobs["speed"].command.count("--peer") == 2
    assert {"medium", "large", "xl", "2048"} <= set(jobs["large"].command)
    assert jobs["memory"].command[jobs["memory"].command.index("--memory-gb") + 1] == "24"
    assert jobs["learn"].seconds < bench_gpu.TOTAL_SECONDS + 30
    assert jobs["learn"].least_seconds > 2 * 240
    only = bench_gpu.jobs_of(bench_gpu.parse(["--parts", "speed"]), tmp_path)
    assert [job.name for job in only] == ["speed"]


def test_a_job_without_time_is_not_begun(tmp_path):
    import bench_gpu

    job = bench_gpu.Job("learn", "learn", ["no such program"], 570, 510)
    assert "not begun" in bench_gpu.run_job(job, 100.0, tmp_path, {})["error"]


def test_a_job_that_takes_too_long_is_stopped(tmp_path):
    import bench_gpu

    code = "import time; print('working', flush=True); time.sleep(60)"
    job = bench_gpu.Job("speed", "speed", [sys.executable, "-c", code], 1.5)
    error = bench_gpu.run_job(job, 100.0, tmp_path, {})["error"]
    assert error.startswith("stopped after 2 s")


def test_missing_packages(tmp_path, monkeypatch):
    import bench_gpu

    monkeypatch.setattr(bench_gpu, "PACKAGES", {"json": "json", "no_such_package": "nothing"})
    with pytest.raises(SystemExit, match="has no wheel of it: run `make gpu-wheels"):
        bench_gpu.install_missing(tmp_path, tmp_path)

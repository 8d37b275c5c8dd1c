"""Run directories: continued, left alone, replaced on request, never another's files deleted."""

import json
import math

import pytest

from llmstages.config.groups import EvaluateConfig, OptimConfig
from llmstages.errors import UserError
from llmstages.stages import pretrain


def contents(directory):
    return {
        p.relative_to(directory).as_posix(): p.read_bytes()
        for p in sorted(directory.rglob("*"))
        if p.is_file() and not p.is_symlink()
    }


def test_what_a_run_holds(tiny_run):
    assert {p.name for p in tiny_run.iterdir()} == {
        "lock",
        "config.yaml",
        "plan.json",
        "metrics.jsonl",
        "log.txt",
        "report",
        "checkpoints",
        "best",
        "last",
        "summary.json",
    }
    for link in ("best", "last"):
        assert (tiny_run / link).is_symlink()
        assert str((tiny_run / link).readlink()) == "checkpoints/step-000008"
    kept = sorted(p.name for p in (tiny_run / "checkpoints").iterdir())
    assert kept == ["step-000006", "step-000008"]  # the newest two


def test_summary(tiny_run):
    summary = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    assert summary["format_version"] == 1
    assert (summary["stage"], summary["status"]) == ("pretrain", "finished")
    assert (summary["steps"], summary["tokens"]) == (8, 8 * 512)
    by_source = {f"val_bits_per_byte/{source}" for source in ("texts", "topics")}
    assert summary["metrics"].keys() == {"val_loss", "val_bits_per_byte", *by_source}
    assert summary["metrics_before"].keys() == summary["metrics"].keys()
    assert summary["metrics"]["val_loss"] < summary["metrics_before"]["val_loss"]
    assert summary["headline"] == "val_bits_per_byte"
    assert summary["mfu"] is None
    assert summary["seconds"] > 0
    assert 0 < summary["words"] < summary["tokens"]
    assert summary["tokens_per_second"] > 0
    assert summary["peak_memory_bytes"] > 1_000_000
    assert summary["machine"]["device"] == "cpu"


def test_summary_of_a_classifier(classifier_run):
    summary = json.loads((classifier_run / "summary.json").read_text(encoding="utf-8"))
    assert summary["stage"] == "finetune-classify"
    assert {"accuracy", "macro_f1", "log_loss"} <= summary["metrics"].keys()
    assert {"accuracy", "macro_f1"} <= summary["metrics_before"].keys()
    assert summary["metrics"]["intervals"].keys() >= {"accuracy", "macro_f1", "ece"}
    assert summary["baselines"].keys() == {"majority", "tfidf"}
    assert summary["baselines"]["majority"]["accuracy"] == pytest.approx(0.5, abs=0.2)
    assert summary["examples"] == {"train": 48, "validation": 6, "test": 6}


def test_summary_of_a_specialist(instruct_run):
    summary = json.loads((instruct_run / "summary.json").read_text(encoding="utf-8"))
    keys = {"val_loss", "perplexity", "exact_match", "chrf", "bleu", "stopped_share"}
    keys |= {"rouge_1", "rouge_2", "rouge_l"}
    before, after = summary["metrics_before"], summary["metrics"]
    assert (
        before.keys()
        == after.keys()
        == keys | {*("intervals", "base_bits_per_byte", "bleu_signature")}
    )
    assert "|tok:13a|" in after["bleu_signature"]
    for metrics in (before, after):
        assert metrics["intervals"].keys() == keys
        assert metrics["perplexity"] == pytest.approx(math.exp(metrics["val_loss"]))
        for name, ends in metrics["intervals"].items():
            if ends is None:  # of a model that knows nothing all answers may be alike
                assert name not in ("exact_match", "stopped_share", "val_loss")
            else:
                assert ends[0] <= metrics[name] <= ends[1], name
                assert ends[0] < ends[1], name
    assert after["val_loss"] < before["val_loss"]
    better = summary["improvement_percent"]
    assert better.keys() == keys | {"base_bits_per_byte"}
    assert better["val_loss"] == pytest.approx(100 * (1 - after["val_loss"] / before["val_loss"]))
    assert all(value is None for name, value in better.items() if before[name] == 0)


def test_answers_before_and_after_are_kept(instruct_run, instruct_file):
    pairs = [json.loads(line) for line in instruct_file.read_text("utf-8").splitlines()]
    lines = (instruct_run / "answers.jsonl").read_text("utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert len(answers) == 4  # evaluate.num_generations
    asked = {pair["prompt"]: pair["completion"] for pair in pairs}
    for answer in answers:
        assert answer.keys() == {"question", "reference", "before", "after"}
        assert asked[answer["question"]] == answer["reference"]
    plan = json.loads((instruct_run / "plan.json").read_text("utf-8"))
    assert plan["answers_before"] == [answer["before"] for answer in answers]


def test_metrics_and_plan(tiny_run):
    lines = (tiny_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    steps = [entry for entry in entries if "event" not in entry]
    assert [entry["step"] for entry in steps] == list(range(1, 9))
    assert all(
        entry.keys()
        == {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "seconds"}
        for entry in steps
    )
    assert [entry["tokens"] for entry in steps] == [512 * step for step in range(1, 9)]
    evaluations = [entry for entry in entries if entry.get("event") == "evaluation"]
    assert [entry["step"] for entry in evaluations] == [4, 8]
    assert {"val_loss", "val_bits_per_byte", "tokens", "seconds"} <= evaluations[0].keys()
    plan = json.loads((tiny_run / "plan.json").read_text(encoding="utf-8"))
    assert (plan["steps"], plan["stage"], plan["format_version"]) == (8, "pretrain", 1)
    assert (plan["rows_per_step"], plan["rows_per_micro_batch"]) == (8, 4)
    assert plan["dtype"] == "torch.float32"
    assert plan["settings"]["inputs"].keys() == {"corpus", "weights", "tokenizer", "base"}


def test_a_finished_run_is_not_done_again(run_copy, pretrain_config, capfd):
    before = contents(run_copy)
    headline = pretrain.run(pretrain_config(run_copy.parent))
    assert contents(run_copy) == before
    assert headline == json.loads(before["summary.json"])["metrics"]["val_bits_per_byte"]
    assert "already finished with the same settings (overwrite=true" in capfd.readouterr().err


def test_how_often_one_looks_is_no_setting(run_copy, pretrain_config):
    looking = EvaluateConfig(every_steps=3, max_tokens=50, num_samples=1)
    before = contents(run_copy)
    pretrain.run(pretrain_config(run_copy.parent, evaluate=looking, device="auto"))
    assert contents(run_copy) == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 7}, "seed was 0, is 7"),
        ({"steps": 9}, "steps was 8, is 9"),
        ({"optim": OptimConfig(lr=0.5)}, "optim.lr was None, is 0.5"),
    ],
)
def test_other_settings_are_refused_with_the_key(run_copy, pretrain_config, settings, said):
    before = contents(run_copy)
    with pytest.raises(UserError) as refused:
        pretrain.run(pretrain_config(run_copy.parent, **settings))
    message = str(refused.value)
    assert said in message
    assert "name=" in message
    assert "overwrite=true" in message
    assert "\n" not in message
    assert contents(run_copy) == before


def test_overwrite_replaces_a_finished_run(run_copy, pretrain_config):
    pretrain.run(pretrain_config(run_copy.parent, steps=2, overwrite=True))
    summary = json.loads((run_copy / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 2
    assert [p.name for p in (run_copy / "checkpoints").iterdir()] == ["step-000002"]


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "checkpoints/my_model.pt", "report/my.png", "report/tensorboard/notes.txt"),
        *("random_weights", "random_weights/notes.txt", "random_weights/checkpoints/my_model.pt"),
    ],
)
@pytest.mark.parametrize("overwrite", [True, False])
def test_what_no_run_wrote_is_never_deleted(tmp_path, pretrain_config, name, overwrite):
    path = tmp_path / "pretrain" / name
    path.parent.mkdir(parents=True)
    path.write_text("precious", encoding="utf-8")
    with pytest.raises(UserError, match=path.name):
        pretrain.run(pretrain_config(tmp_path, overwrite=overwrite))
    assert contents(tmp_path) == {f"pretrain/{name}": b"precious"}


def test_a_note_in_a_finished_run_survives_overwrite(run_copy, pretrain_config):
    (run_copy / "notes.txt").write_text("precious", encoding="utf-8")
    before = contents(run_copy)
    with pytest.raises(UserError, match=r"notes\.txt"):
        pretrain.run(pretrain_config(run_copy.parent, steps=2, overwrite=True))
    assert contents(run_copy) == before


def test_an_empty_directory_is_used_and_a_file_is_not(tmp_path, pretrain_config):
    (tmp_path / "empty").mkdir()
    pretrain.run(pretrain_config(tmp_path, name="empty", steps=1))
    assert (tmp_path / "empty" / "summary.json").is_file()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="a file stands where the run goes"):
        pretrain.run(pretrain_config(tmp_path, name="file", steps=1))


def test_jobs_of_a_sweep_have_directories_of_their_own(tmp_path, pretrain_config):
    for job in ("0", "1"):
        config = pretrain_config(tmp_path, name="sweep", name_suffix=job, steps=1, seed=int(job))
        pretrain.run(config)
    assert {p.name for p in (tmp_path / "sweep").iterdir()} == {"0", "1"}

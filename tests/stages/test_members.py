"""The same training several times: other seeds on one split, or other test rows."""

import json
from pathlib import Path

import pytest

from llmstages.errors import UserError
from llmstages.stages import finetune_classify
from llmstages.stages.classifying.members import spread, t_quantile
from llmstages.train.checkpoint import resolve_checkpoint


def summary_of(directory):
    return json.loads((directory / "summary.json").read_text(encoding="utf-8"))


def lines_of_test(directory):
    lines = (directory / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted(json.loads(line)["line"] for line in lines)


def losses(directory):
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def test_seeds(tmp_path, classify_config, monkeypatch, look):
    """Each on the same test rows, in another order, and once."""
    config = classify_config(tmp_path, seeds=2, seed=3, steps=3, baselines=True)
    headline = finetune_classify.run(config)
    directory = tmp_path / "lines-classify"
    members = [directory / "seed-3", directory / "seed-4"]
    assert lines_of_test(members[0]) == lines_of_test(members[1])
    assert losses(members[0]) != losses(members[1])
    summary = summary_of(directory)
    for figure in ("accuracy", "macro_f1", "log_loss"):
        values = [summary_of(member)["metrics"][figure] for member in members]
        assert summary["spread"][figure] == spread(values)
    assert summary["metrics"]["macro_f1"] == headline
    first = summary_of(members[0])
    assert summary["baselines"]["tfidf"]["macro_f1"] == first["baselines"]["tfidf"]["macro_f1"]
    assert summary["baselines"]["probe"]["accuracy"] == first["metrics_before"]["accuracy"]
    assert not summary_of(members[1])["baselines"]
    with pytest.raises(UserError, match=r"it holds runs: name one of them, .*seed-3"):
        resolve_checkpoint(str(directory))
    with monkeypatch.context() as patch:
        patch.setattr(finetune_classify, "fine_tune", None)
        assert finetune_classify.run(config) == headline
    assert summary_of(directory) == summary
    shown = look(directory)
    assert f"│ mean │ {summary['metrics']['accuracy']:.4g} │" in shown
    assert "│ seed-4 │" in shown
    config.seeds = 1
    with pytest.raises(UserError, match="holds seed-3"):
        finetune_classify.run(config)


def test_several_trainings_as_one_classifier(tmp_path, classify_config, cli):
    """The mean of their probabilities."""
    config = classify_config(tmp_path, seeds=2, steps=3)
    finetune_classify.run(config)
    directory = tmp_path / "lines-classify"
    members = [directory / "seed-0", directory / "seed-1"]
    data = str(config.data)
    status, out, err = cli("predict", directory, data)
    assert status == 0, err
    rows = [json.loads(line)["probabilities"] for line in out.splitlines()]
    own = []
    for member in members:
        status, out, err = cli("predict", member, data)
        assert status == 0, err
        own.append([json.loads(line)["probabilities"] for line in out.splitlines()])
    for row, one, other in zip(rows, *own, strict=True):
        assert row == {label: pytest.approx((one[label] + other[label]) / 2) for label in row}
    status, out, err = cli("evaluate", directory, data)
    assert status == 0, err
    report = json.loads(out)
    labels = [json.loads(line)["label"] for line in Path(data).read_text("utf-8").splitlines()]
    right = [max(row, key=row.get) == label for row, label in zip(rows, labels, strict=True)]
    assert (report["trainings"], report["accuracy"]) == (2, sum(right) / len(right))
    status, out, err = cli("predict", directory, data, "head=x")
    assert (status, out) == (2, "")
    assert "holds several trainings, head=x is of one" in err


def test_folds(tmp_path, classify_config):
    """Every row is a test row of one fold, and the fold can be done by itself."""
    finetune_classify.run(classify_config(tmp_path, folds=3, steps=1))
    directory = tmp_path / "lines-classify"
    tested = [line for n in range(3) for line in lines_of_test(directory / f"fold-{n}")]
    assert sorted(tested) == list(range(1, 61))
    alone = classify_config(tmp_path, folds=3, fold=1, steps=1, name="alone")
    finetune_classify.run(alone)
    assert summary_of(tmp_path / "alone")["metrics"] == summary_of(directory / "fold-1")["metrics"]
    alone.name, alone.fold = "alone", None
    with pytest.raises(UserError, match="holds a run of one training"):
        finetune_classify.run(alone)


def test_spread():
    """By hand: the mean of 1, 2, 6 is 3, their variance 7, t with 2 degrees of freedom 4.303."""
    found = spread([1.0, 2.0, 6.0])
    assert (found["mean"], found["standard_deviation"]) == (3.0, pytest.approx(7**0.5))
    assert found["interval"] == pytest.approx(
        [3 - 4.303 * (7 / 3) ** 0.5, 3 + 4.303 * (7 / 3) ** 0.5]
    )


def test_the_quantile_of_any_number_of_trainings():
    quantile = pytest.importorskip("scipy.special").stdtrit
    for freedom in range(1, 1000):
        assert t_quantile(freedom) == pytest.approx(quantile(freedom, 0.975), abs=1e-3)

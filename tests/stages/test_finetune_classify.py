"""Classification: the same probabilities whatever stands beside a text in its batch."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmstages.config.groups import CheckpointConfig, MethodConfig
from llmstages.data.examples import labelled_windows, make_batch
from llmstages.errors import UserError
from llmstages.stages import finetune_classify
from llmstages.stages.classifying.baselines import show_comparison
from llmstages.stages.classifying.probabilities import features, probabilities
from llmstages.stages.lineage.prove import prove
from llmstages.stages.predict import scores_of
from llmstages.stages.shared.setup import Machine
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.heads import head_path, with_head
from llmstages.train.losses import label_probabilities
from llmstages.train.scoring import per_text

TEXTS = [
    "",
    "a",
    "lists",
    "Integer literals are",
    "word " * 40,
    "안녕 🙂",
    "0x1F" * 99,
]


@pytest.fixture(params=["last", "mean"])
def loaded(request, classifier_run):
    checkpoint = load_checkpoint(classifier_run)
    checkpoint.model.config = replace(checkpoint.model.config, pooling=request.param)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # probabilities far from each other, so that differences would show
        for parameter in checkpoint.model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2, generator=generator)
    checkpoint.model.eval()
    return checkpoint


@pytest.fixture
def texts(loaded):
    """The windows of each text; the last two have several."""
    tokenizer = loaded.tokenizer
    found = [labelled_windows(tokenizer.encode(t), tokenizer.end_id, 0, 64, "") for t in TEXTS]
    assert [len(windows) > 1 for windows in found] == [False] * 4 + [True, False, True]
    return found


def test_probabilities_do_not_depend_on_the_batch_and_are_those_of_predict(loaded, texts):
    """In float32 to 1e-5; in bfloat16 labels, where the two likeliest are not close."""
    model = loaded.model
    with torch.no_grad():
        alone = np.stack(
            [
                torch.cat([label_probabilities(model, make_batch([[w]])) for w in windows])
                .double()
                .mean(0)
                for windows in texts
            ]
        )
        padded = label_probabilities(model, make_batch([[w[0]] for w in texts], 64))
    assert alone[:, 0].std() > 0.05
    short = [index for index, windows in enumerate(texts) if len(windows) == 1]
    np.testing.assert_allclose(padded[short].numpy(), alone[short], atol=1e-5)
    cpu = torch.device("cpu")
    for limit in (1, 100, 10_000):
        found = probabilities(model, texts, Machine(cpu, torch.float32, limit))
        np.testing.assert_allclose(found, alone, atol=1e-5)
        found = probabilities(model, texts[::-1], Machine(cpu, torch.float32, limit))
        np.testing.assert_allclose(found[::-1], alone, atol=1e-5)
    predicted = scores_of(loaded, TEXTS, 3, cpu, torch.float32)
    np.testing.assert_allclose([[*p.values()] for p in predicted], alone, atol=1e-5)
    one_by_one = np.concatenate(
        [
            per_text(model, [t], device=cpu, dtype=torch.bfloat16, micro_batch_tokens=1)
            for t in texts
        ]
    )
    for limit in (100, 10_000):
        found = per_text(model, texts, device=cpu, dtype=torch.bfloat16, micro_batch_tokens=limit)
        clear = np.abs(one_by_one[:, 0] - one_by_one[:, 1]) > 0.01
        assert clear.sum() > 3
        assert (found.argmax(1) == one_by_one.argmax(1))[clear].all()


def test_batches_side_by_side_give_the_same(loaded, texts):
    machine = Machine(torch.device("cpu"), torch.float32, 40)
    alone = probabilities(loaded.model, texts, machine)
    threads = torch.get_num_threads()
    computed_in = set()

    def compute(model, batch):
        computed_in.add(threading.get_ident())
        return label_probabilities(model, batch)

    try:
        torch.set_num_threads(3)
        found = per_text(loaded.model, texts, compute, device=machine.device, micro_batch_tokens=40)
        np.testing.assert_allclose(found, alone, atol=1e-6)
        assert threading.get_ident() not in computed_in
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_features_are_what_the_head_reads_in_order(loaded, texts, text_state):
    machine = Machine(torch.device("cpu"), torch.float32, 100)
    found = features(loaded.model, texts, machine)
    for row, windows in zip(found, texts, strict=True):
        with torch.inference_mode():
            each = [text_state(loaded.model, w.tokens).numpy() for w in windows]
        np.testing.assert_allclose(row, np.mean(each, axis=0), atol=1e-5)


def test_labels_are_sorted_and_in_the_checkpoint(classifier_run):
    config = json.loads((classifier_run / "best" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "integers", "1": "strings"}
    assert config["architectures"] == ["Qwen3ForSequenceClassification"]


def test_the_mean_of_a_texts_tokens(tmp_path, classify_config, labelled_file):
    """What is trained, reported and predicted is one thing, and not what transformers would do."""
    finetune_classify.run(classify_config(tmp_path, pooling="mean"))
    run = tmp_path / "lines-classify"
    assert "architectures" not in json.loads((run / "best" / "config.json").read_text("utf-8"))
    loaded = load_checkpoint(run)
    assert loaded.info.classifier["pooling"] == loaded.model.config.pooling == "mean"
    rows = [
        json.loads(line) for line in (run / "predictions.jsonl").read_text("utf-8").split("\n")[:-1]
    ]

    def predicted():
        cpu = torch.device("cpu")
        found = scores_of(loaded, [row["text"] for row in rows], 4, cpu, torch.float32)
        return np.array([[*scores.values()] for scores in found])

    reported = np.array([[*row["probabilities"].values()] for row in rows])
    np.testing.assert_allclose(predicted(), reported, atol=1e-5)
    loaded.model.config = replace(loaded.model.config, pooling="last")
    assert np.abs(predicted() - reported).max() > 1e-3


def test_given_validation_and_test_files(tmp_path, classify_config, labelled_file):
    lines = labelled_file.read_text(encoding="utf-8").splitlines(keepends=True)
    for name, part in {"train": lines[4:-4], "validation": lines[:4], "test": lines[-4:]}.items():
        extra = '{"text": "more", "label": "strings"}\n{"text": "less", "label": "integers"}\n'
        (tmp_path / f"{name}.jsonl").write_text("".join(part) + extra, encoding="utf-8")
    finetune_classify.run(
        classify_config(
            tmp_path,
            data=str(tmp_path / "train.jsonl"),
            validation_data=str(tmp_path / "validation.jsonl"),
            test_data=str(tmp_path / "test.jsonl"),
            steps=1,
        )
    )
    # The two extra rows stand in all three files, and row 24 is row 0 but for its number: training
    # must not see them.
    summary = json.loads((tmp_path / "train-classify" / "summary.json").read_text(encoding="utf-8"))
    assert summary["examples"] == {"train": 51, "validation": 6, "test": 6}


def test_test_rows_of_one_label_measure_its_recall(tmp_path, classify_config, capsys):
    test = tmp_path / "test.csv"
    test.write_text("text,label\nall of one,strings\nlabel,strings\n", encoding="utf-8")
    finetune_classify.run(classify_config(tmp_path, test_data=str(test), steps=1))
    metrics = json.loads((tmp_path / "lines-classify" / "summary.json").read_text("utf-8"))
    recall = {row["label"]: row["recall"] for row in metrics["metrics"]["per_class"]}
    assert recall["strings"] == metrics["metrics"]["accuracy"]
    assert metrics["metrics"]["roc_auc"] is None
    assert "no example has the label integers: no ROC-AUC and PR-AUC" in capsys.readouterr().err


def test_every_test_row_is_kept_with_its_prediction(classifier_run, labelled_file):
    source = [json.loads(line) for line in labelled_file.read_text("utf-8").splitlines()]
    lines = (classifier_run / "predictions.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    summary = json.loads((classifier_run / "summary.json").read_text("utf-8"))
    assert len(rows) == summary["metrics"]["num_examples"] == 6
    for row in rows:
        original = source[row["line"] - 1]
        assert (row["text"], row["label"]) == (original["text"], original["label"])
        assert row["file"] == str(labelled_file)
        assert row["predicted"] == max(row["probabilities"], key=row["probabilities"].get)
    right = sum(row["predicted"] == row["label"] for row in rows)
    assert right / 6 == summary["metrics"]["accuracy"]


def test_a_second_head_beside_a_classifier(tmp_path, classifier_run, classify_config, cli):
    """What predict says with it is what its own run reported; the first head stays the default."""
    run = Path(shutil.copytree(classifier_run, tmp_path / "first", symlinks=True))
    settings = {"base": str(run), "method": MethodConfig(name="head"), "head": "other-1"}
    settings["checkpoint"] = CheckpointConfig(every_steps=1)
    config = classify_config(tmp_path, pooling="mean", steps=2, **settings)
    finetune_classify.run(config)
    own = tmp_path / "lines-classify"
    rows = [
        json.loads(line) for line in (own / "predictions.jsonl").read_text("utf-8").splitlines()
    ]
    other = with_head(load_checkpoint(run), "other-1")
    cpu = torch.device("cpu")
    found = scores_of(other, [row["text"] for row in rows], 4, cpu, torch.float32)
    for row, scores in zip(rows, found, strict=True):
        assert scores == pytest.approx(row["probabilities"], abs=1e-5)
    status, out, _ = cli("predict", run, rows[0]["text"], "head=other-1")
    assert status == 0
    assert json.loads(out)["probabilities"] == pytest.approx(rows[0]["probabilities"], abs=1e-5)
    _, first, _ = cli("predict", run, rows[0]["text"])
    assert first == cli("predict", classifier_run, rows[0]["text"])[1] != out
    assert cli("predict", run, "a", "head=none")[2].count("no head none: it has other-1") == 1
    config.name = "again"
    with pytest.raises(UserError, match="is there already"):
        finetune_classify.run(config)
    # Proving it writes nothing; continued, it writes its own head again, and no other's.
    head = head_path(run / "best", "other-1")
    inode = head.stat().st_ino
    prove(own, 20)
    assert head.stat().st_ino == inode
    (own / "summary.json").unlink()
    config.name = None
    finetune_classify.run(config)
    assert head.stat().st_ino != inode
    (own / "summary.json").unlink()
    head.write_bytes(b"another's")
    with pytest.raises(UserError, match="not of this run"):
        finetune_classify.run(config)
    assert head.read_bytes() == b"another's"
    head.unlink()
    finetune_classify.run(config)
    shutil.copytree((run / "best" / "heads"), tmp_path / "lines-classify" / "best" / "heads")
    weights = (own / "best" / "model.safetensors").read_bytes()
    assert weights != (run / "best" / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="trained on other weights"):
        with_head(load_checkpoint(own), "other-1")


@pytest.mark.parametrize(("tfidf", "told"), [(0.8, True), (0.7, False), (None, False)])
def test_a_better_baseline_is_said(capsys, tfidf, told):
    figures = {"accuracy": 0.9, "macro_f1": 0.75}
    baselines = {} if tfidf is None else {"tfidf": figures | {"macro_f1": tfidf}}
    show_comparison(SimpleNamespace(figures=figures), baselines)
    out = " ".join(capsys.readouterr().err.split())
    assert ("is better on these rows: macro F1 0.8 beside 0.75" in out) == told


def test_the_same_training_from_random_weights_is_a_baseline(
    tmp_path, classify_config, monkeypatch
):
    config = classify_config(
        tmp_path, baselines=["majority", "random_weights"], logger="tensorboard"
    )
    finetune_classify.run(config)
    run = tmp_path / "lines-classify"
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert summary["baselines"].keys() == {"majority", "random_weights"}
    assert summary["metrics_before"] == {}
    assert (run / "report" / "trackers.json").exists()
    assert not (run / "random_weights" / "report" / "trackers.json").exists()
    own, other = (
        [json.loads(line) for line in (directory / "metrics.jsonl").read_text("utf-8").splitlines()]
        for directory in (run, run / "random_weights")
    )
    # The same batches at the same rates, from other weights; both start from an even guess.
    assert [(e["step"], e.get("lr"), e["tokens"]) for e in own] == [
        (e["step"], e.get("lr"), e["tokens"]) for e in other
    ]
    assert own[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert other[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert own[-1]["val_loss"] != other[-1]["val_loss"]
    with monkeypatch.context() as patch:  # nor when the run is proved
        patch.setattr(finetune_classify, "random_model", None)
        prove(run, 20)
    # Found again, and not trained again, by a run that was killed before its summary.
    written = (run / "random_weights" / "summary.json").stat().st_mtime_ns
    (run / "summary.json").unlink()
    finetune_classify.run(config)
    again = json.loads((run / "summary.json").read_text("utf-8"))
    assert again["baselines"] == summary["baselines"]
    assert (run / "random_weights" / "summary.json").stat().st_mtime_ns == written

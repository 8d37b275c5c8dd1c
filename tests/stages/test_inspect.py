"""`inspect` says what a path holds, changes nothing and interprets nothing."""

import json

import pytest

from llmstages.config.uses import InspectConfig
from llmstages.data.corpus import Corpus
from llmstages.errors import CheckFailed, UserError
from llmstages.stages import inspect
from llmstages.train.checkpoint import file_hash


def test_corpus(tiny_corpus, look):
    before = {p: p.stat().st_mtime_ns for p in tiny_corpus.rglob("*")}
    shown = look(tiny_corpus, num_examples=1)
    corpus = Corpus.open(tiny_corpus)
    assert f"│ manifest │ {corpus.manifest_hash} │" in shown
    assert "│ vocabulary │ 512 │" in shown
    assert "│ texts │ files │ │ 0.25" in shown
    counts = corpus.counts("train")
    assert f"│ all │ {counts.documents:,} │ {counts.words:,} │" in shown
    (read, *_) = (source.extracted for source in corpus.manifest.sources)
    assert f"│ read │ {read.documents:,} │ {read.words:,} │" in shown
    first = next(corpus.documents("train"))
    assert first.id in shown
    assert " ".join(first.text[:200].split()) in shown
    assert {p: p.stat().st_mtime_ns for p in tiny_corpus.rglob("*")} == before


def test_document_of_a_corpus(tiny_corpus, look):
    corpus = Corpus.open(tiny_corpus)
    *_, kept = corpus.documents("validation")
    shown = look(tiny_corpus, id=kept.id)
    assert "│ split │ validation │" in shown
    assert " ".join(kept.text.split()[-5:]) in shown
    with pytest.raises(UserError, match="no document, kept or dropped, has the id nothing"):
        look(tiny_corpus, id="nothing")


def test_dropped_document_of_a_corpus(tiny_corpus, look):
    dropped = next(Corpus.open(tiny_corpus).dropped())
    shown = look(tiny_corpus, id=dropped.id)
    assert f"│ dropped by │ {dropped.rule} │" in shown
    assert f"│ source │ {dropped.source} │" in shown


def test_run(classifier_run, look):
    shown = look(classifier_run)
    summary = json.loads((classifier_run / "summary.json").read_text())
    assert "│ stage │ finetune-classify │" in shown
    assert "│ status │ finished │" in shown
    assert "┃ metric ┃ before ┃ after ┃ majority ┃ tfidf ┃" in shown
    assert f"{summary['metrics']['macro_f1']:.4g}" in shown
    assert "rows: true label, columns: predicted" in shown
    assert "step-000006" in shown
    assert "label_column: null" in shown  # config.yaml
    assert "│ curves │ " in shown
    assert "/report/optimizer.png" in shown.replace(" │ │ │ ", "")


def test_unfinished_run(run_copy, look):
    (run_copy / "summary.json").unlink()
    shown = look(run_copy)
    assert "│ status │ not finished │" in shown
    assert "│ steps │ 8 so far │" in shown


def test_checkpoint(classifier_run, look):
    shown = look(classifier_run / "best")
    assert "│ class │ Qwen3ForSequenceClassification │" in shown
    assert "│ labels │ 2: integers, strings │" in shown
    assert "│ stage │ finetune-classify │" in shown
    assert "match their sha256" in shown
    assert "│ made from parent │ " in shown


def test_parameters_of_a_checkpoint(tiny_run, look):
    from llmstages.model.counts import num_parameters
    from llmstages.train.checkpoint import load_checkpoint

    expected = num_parameters(load_checkpoint(tiny_run).model.config)
    assert f"│ parameters │ {expected:,} │" in look(tiny_run / "best")


def test_damaged_checkpoint(run_copy, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    weights = run_copy / "best" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckFailed, match=r"model\.safetensors: damaged"):
        inspect.run(InspectConfig(path=str(run_copy / "best")))
    shown = " ".join(capsys.readouterr().out.split())
    assert "model.safetensors: damaged" in shown
    assert file_hash(weights) not in shown


def test_foreign_checkpoint(run_copy, look):
    best = (run_copy / "best").resolve()
    foreign = best.rename(run_copy.parent / "foreign")
    (foreign / "llmstages.json").unlink()
    assert "another program (no llmstages.json)" in look(foreign)


@pytest.mark.parametrize("settings", [{}, {"id": "x"}])
def test_what_cannot_be_inspected(tmp_path, settings):
    (tmp_path / "empty").mkdir()
    for path in (None, tmp_path / "empty", tmp_path / "emptyy"):
        with pytest.raises(UserError):
            inspect.run(InspectConfig(path=None if path is None else str(path), **settings))

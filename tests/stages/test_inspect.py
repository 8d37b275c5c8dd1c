"""`inspect` says what a path holds, changes nothing and interprets nothing."""

import json
import subprocess
import sys

import pytest

from llmstages.config.stages import InspectConfig
from llmstages.data.corpus import Corpus
from llmstages.errors import UserError
from llmstages.stages import inspect
from llmstages.train.checkpoint import file_hash


@pytest.fixture
def look(monkeypatch, capsys):
    """look(path, **settings) -> what is printed, lines joined to one space."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(path, **settings):
        inspect.run(InspectConfig(path=str(path), **settings))
        return " ".join(capsys.readouterr().out.split())

    return call


def test_labelled_file(tmp_path, look):
    path = tmp_path / "x.csv"
    path.write_bytes("text;label\nà [red]b[/red] [/];ham\nc;spam\nC ;ham\n;ham\n".encode("latin-1"))
    shown = look(path)
    for expected in (
        "│ encoding │ latin-1 │",
        "│ delimiter │ ; │",
        "│ rows │ 4 │",
        "│ for │ finetune-classify",
        "│ ham │ 3 │ 75.0% │",
        "│ spam │ 1 │ 25.0% │",
        "│ rows that repeat a text │ 1 │",
        "│ texts with different labels │ 1 │",
        "│ empty texts │ 1 │",
        "line 2: ham à [red]b[/red] [/]",
    ):
        assert expected in shown


def test_conversations(tmp_path, look):
    path = tmp_path / "x.jsonl"
    rows = [
        {"prompt": "Say [bold]", "completion": "a b c"},
        {"prompt": "say  [bold]", "completion": "d"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "x"}]))
    shown = look(path, num_examples=1)
    assert "│ words in answers │ 4 │" in shown
    assert "│ rows that repeat a prompt │ 1 │" in shown
    assert "line 1 user: Say [bold] assistant: a b c" in shown
    assert "line 2" not in shown


def test_conversations_as_a_base_reads_them(tmp_path, look, tiny_run):
    long = " ".join(f"word{n} speaks" for n in range(12))
    path = tmp_path / "x.jsonl"
    rows = [
        {"prompt": "Say", "completion": "so", "system": "Be brief."},
        {"prompt": long, "completion": "so"},
        {"prompt": f"{long} again", "completion": "so"},
        {"prompt": "Long", "completion": "because " * 60},
        {"prompt": "Nothing", "completion": " "},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = look(path, base=str(tiny_run), num_examples=4)
    for expected in (
        "1 rows set aside",
        "│ 'completion' is empty: there is no answer to learn │ 1 │",
        "│ prompts that nearly repeat another │ 1 │",
        "│ with a system prompt │ 1 │",
        "│ empty answers │ 1 │",
        "│ context, tokens │ 64 │",
        "│ answers end in │ <|im_end|> │",
        "marks: ⟦learnt⟧, ⟨cut: cut by the context⟩",
        "<|im_start|>system Be brief.<|im_end|> <|im_start|>user Say<|im_end|> "
        "<|im_start|>assistant ⟦so<|im_end|>⟧",
        "packed rows of 64 tokens",
        "line 1 [",
    ):
        assert expected in shown, expected
    assert shown.count("⟨cut: ") >= 2
    with pytest.raises(UserError, match="no such checkpoint or run"):
        look(path, base=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is for a file of conversations"):
        look(tiny_run, base=str(tiny_run))


def test_the_usual_base_is_used_where_it_is(tmp_path, look, tiny_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "Say", "completion": "so"}\n')
    assert "user: Say assistant: so" in look(path)
    (tmp_path / "runs" / "pretrain").mkdir(parents=True)
    shown = look(path)
    assert "shown as text only, since runs/pretrain cannot be used" in shown
    assert "user: Say assistant: so" in shown
    (tmp_path / "runs" / "pretrain").rmdir()
    (tmp_path / "runs" / "pretrain").symlink_to(tiny_run)
    assert "assistant ⟦so<|im_end|>⟧" in look(path)


def test_bad_rows_and_other_files(tmp_path, look):
    path = tmp_path / "x.jsonl"
    path.write_text('{"foo": "[/]", "bar": 1}\n{"foo"\n')
    shown = look(path)
    assert "│ bad rows │ 1 │" in shown
    assert "│ first bad row │ line 2: broken JSON" in shown
    assert "neither text and label nor prompt and answer" in shown
    assert 'row on line 1 {"foo": "[/]", "bar": 1}' in shown


def test_one_label_only(tmp_path, look):
    path = tmp_path / "x.csv"
    path.write_text("text,label\na,ham\nb,ham\n")
    assert "not usable for training" in look(path)


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


def test_damaged_checkpoint(run_copy, look):
    weights = run_copy / "best" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    shown = look(run_copy / "best")
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


def test_a_data_file_needs_no_torch(tmp_path):
    (tmp_path / "x.csv").write_text("text,label\na,b\nc,d\n")
    code = (
        "import sys; from llmstages.stages import inspect; "
        "from llmstages.config.stages import InspectConfig; "
        "inspect.run(InspectConfig(path='x.csv')); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

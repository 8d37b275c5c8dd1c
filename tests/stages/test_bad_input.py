"""A user's mistake: exit 2, one line that names the file and the remedy, nothing left behind."""

import gzip
import json

import pytest

ROW = '{"text": "a", "label": "x"}\n'
BOTH = '{"text": "a", "label": "x", "prompt": "a", "completion": "x"}\n'
PAIR = '{"prompt": "a", "completion": "x"}\n'


@pytest.fixture
def refused(cli, tmp_path):
    """refused(*words) -> the one line on standard error; nothing on disk has changed."""

    def call(*words, after_work=False):
        before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
        status, out, err = cli(*words)
        lines = [line for line in err.splitlines() if line.strip()]
        assert status == 2, err
        assert out == ""
        if after_work:  # its progress bars stand above the error
            lines = lines[-1:]
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before
        return lines[0]

    return call


@pytest.mark.parametrize("stage", ["finetune-classify", "finetune-instruct"])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "empty"),
        ("broken.jsonl", (BOTH + BOTH + '{"text": \n').encode(), "broken.jsonl:3: "),
        ("broken.jsonl", (BOTH + BOTH + "}\n" + BOTH).encode(), "broken.jsonl:3: "),
        ("columns.csv", b"body,kind\nhello,ham\nbye,spam\n", "columns.csv"),
        ("packed.jsonl.gz", gzip.compress(b"not a row\n"), "packed.jsonl.gz:1: "),
        ("model.jsonl.gz", b"no gzip file", "model.jsonl.gz"),
    ],
)
def test_labelled_files(refused, tmp_path, tiny_run, stage, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    line = refused(stage, path, f"base={tiny_run}")
    assert str(path) in line
    assert said in line


def test_one_label_only(refused, tmp_path, tiny_run):
    path = tmp_path / "one.jsonl"
    path.write_text(ROW * 30, encoding="utf-8")
    line = refused("finetune-classify", path, f"base={tiny_run}")
    assert str(path) in line
    assert "x" in line
    assert "label" in line


def test_too_few_rows(refused, tmp_path, tiny_run):
    path = tmp_path / "few.jsonl"
    path.write_text(PAIR, encoding="utf-8")
    assert str(path) in refused("finetune-instruct", path, f"base={tiny_run}")


def test_a_held_out_label_that_is_not_trained(refused, tmp_path, labelled_file, tiny_run):
    path = tmp_path / "held_out.jsonl"
    path.write_text('{"text": "b", "label": "strings"}\n' + ROW, encoding="utf-8")
    line = refused(
        "finetune-classify", labelled_file, f"validation_data={path}", f"base={tiny_run}"
    )
    assert f"{path}:2: label 'x' does not occur in the training rows" in line


@pytest.mark.parametrize("key", ["data", "validation_data", "test_data"])
def test_files_that_are_not_there(refused, tmp_path, labelled_file, tiny_run, key):
    words = {"data": labelled_file, "base": tiny_run, key: tmp_path / "nowhere.jsonl"}
    line = refused("finetune-classify", *[f"{k}={v}" for k, v in words.items()])
    assert "nowhere.jsonl" in line


@pytest.mark.parametrize("stage", ["finetune-classify", "finetune-instruct"])
def test_bases(refused, tmp_path, labelled_file, instruct_file, stage):
    data = labelled_file if stage == "finetune-classify" else instruct_file
    assert "runs/pretrain: no such checkpoint or run" in refused(stage, data)
    line = refused(stage, data, f"base={tmp_path / 'nowhere'}")
    assert f"{tmp_path / 'nowhere'}: no such checkpoint or run" in line
    pickle = tmp_path / "model.pt"
    pickle.write_bytes(b"\x80\x04.")
    assert f"{pickle}: a file" in refused(stage, data, f"base={pickle}")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    (foreign / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    line = refused(stage, data, f"base={foreign}")
    assert f"{foreign}: " in line
    assert "pytorch_model.bin is a pickle" in line
    (foreign / "model.safetensors").write_bytes(b"")
    (foreign / "config.json").write_text('{"model_type": "mamba"}', encoding="utf-8")
    assert "model_type 'mamba' is not supported" in refused(stage, data, f"base={foreign}")


def test_a_classifier_is_no_base_for_answers(refused, instruct_file, classifier_run):
    line = refused("finetune-instruct", instruct_file, f"base={classifier_run}")
    assert "a classifier; this stage needs a language model" in line


def test_a_damaged_base(refused, run_copy, labelled_file):
    path = (run_copy / "best").resolve() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert f"{path}: damaged" in refused("finetune-classify", labelled_file, f"base={run_copy}")


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_corpora(refused, tmp_path, where):
    line = refused("pretrain", tmp_path / where)
    assert str(tmp_path) in line
    assert "llmstages collect" in line


def test_default_corpus_that_is_not_there(refused):
    assert "corpora/python: no such corpus directory" in refused("pretrain")


def test_a_file_is_no_corpus(refused, tmp_path):
    (tmp_path / "text.txt").write_text("some text", encoding="utf-8")
    assert "text.txt" in refused("pretrain", tmp_path / "text.txt")


def test_a_corpus_smaller_than_two_contexts(refused, tiny_corpus):
    line = refused("pretrain", tiny_corpus, "model.context_length=200000")
    assert str(tiny_corpus) in line
    assert "do not fill two contexts of 200000" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=huge"], "huge"),
        (["model=smal"], "did you mean small?"),
        (["steps=3", "epochs=1"], "steps=3 and epochs=1"),
        (["budget.seconds=3", "budget.tokens=100"], "budget.seconds=3"),
        (["stepz=3"], "did you mean steps?"),
        (["+stepz=3"], "steps"),
        (["steps=few"], "steps"),
        (["steps=0"], "steps=0 must be at least 1"),
        (["device=gpu"], "device=gpu"),
        (["model.num_heads=3", "model.num_kv_heads=2"], "multiple"),
    ],
)
def test_settings(refused, tiny_corpus, words, said):
    assert said in refused("pretrain", tiny_corpus, *words)


def test_collecting_too_little(refused, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("twenty words " * 10, encoding="utf-8")
    assert f"{path}: 20 words are too few" in refused("collect", path, after_work=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in refused("collect", empty)


def test_generate_and_predict_refuse_the_wrong_checkpoint(
    refused, tiny_run, classifier_run, labelled_file
):
    assert "use llmstages predict" in refused("generate", classifier_run, "Hello")
    assert "use llmstages generate" in refused("predict", tiny_run, labelled_file)
    assert "no such checkpoint or run" in refused("generate", "nowhere", "Hello")
    assert "prompt" in refused("generate", tiny_run)
    assert "nowhere.jsonl" in refused("predict", classifier_run, "nowhere.jsonl")


def test_predict_writes_nothing_for_a_broken_file(refused, tmp_path, classifier_run):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": "good"}) + "\n{broken\n", encoding="utf-8")
    line = refused("predict", classifier_run, path, f"output={tmp_path / 'out.jsonl'}")
    assert f"{path}:2: " in line
    line = refused("predict", classifier_run, path, f"output={tmp_path / 'no' / 'out.jsonl'}")
    assert "does not exist" in line

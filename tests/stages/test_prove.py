"""A run is proved by doing some of its steps again, and a changed one is found out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from llmstages.errors import CheckFailed, UserError
from llmstages.stages.lineage.links import MISSING, check_lineage
from llmstages.stages.lineage.prove import prove
from llmstages.train.checkpoint import file_hash


@pytest.fixture
def copy(request, tmp_path):
    """copy(fixture): a run of the session, to change."""

    def make(name):
        run = request.getfixturevalue(name)
        return shutil.copytree(run, tmp_path / run.name, symlinks=True)

    return make


@pytest.mark.parametrize("name", ["tiny_run", "instruct_run", "classifier_run"])
def test_an_honest_run_is_proved(name, copy, capsys):
    run = copy(name)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    prove(run, 20)
    out = capsys.readouterr().out
    assert "equal to the last bit" in out
    assert "steps done again" in out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_command(copy, cli):
    run = copy("tiny_run")
    status, out, err = cli("inspect", run, "prove=true", "prove_steps=1")
    assert status == 0, err
    assert "7 to 7" in out
    change_loss(run)
    status, _, err = cli("inspect", run, "prove=true", "prove_steps=1")
    assert status == 1
    assert "step 7: loss was 1.5, is 5." in err


def change_loss(run):
    path = run / "metrics.jsonl"
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for entry in entries:
        if entry["step"] == 7:
            entry["loss"] = 1.5
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def test_a_changed_file_is_found(copy):
    run = copy("tiny_run")
    path = run / "checkpoints" / "step-000008" / "trainer" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckFailed, match=r"not proved: .*damaged"):
        prove(run, 20)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def whole_chain(copy, tiny_corpus, tmp_path):
    """A classifier, its base and the corpus of that, all to be changed."""
    base, run = copy("tiny_run"), copy("classifier_run")
    corpus = Path(shutil.copytree(tiny_corpus, tmp_path / "corpus"))
    for directory, key, place in ((base, "data", corpus), (run, "base", base)):
        path = directory / "config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump({**config, key: str(place)}), encoding="utf-8")
    return run, base, corpus


def test_the_chain_goes_back_to_the_documents(whole_chain):
    run, base, corpus = whole_chain
    links = list(check_lineage(run))
    assert [link.what for link in links] == [
        *("tokenizer", "labelled rows", "base model", "tokenizer", "corpus manifest"),
        *("documents of texts", "documents of topics", "list of tokens", *["tokens"] * 4),
    ]
    assert all(len(link.sha256) == 64 for link in links)
    # A base that has gone on since, whose checkpoint was dropped, is not called another.
    kept = (base / "best").resolve()
    others = [path for path in (base / "checkpoints").iterdir() if path != kept]
    (base / "best").unlink()
    (base / "best").symlink_to(others[0])
    assert len(list(check_lineage(run))) == len(links)
    shutil.rmtree(kept)
    assert ("base model", MISSING) in [(link.what, link.sha256) for link in check_lineage(run)]
    shutil.rmtree(corpus)
    assert [(link.what, link.sha256) for link in check_lineage(run)][-1] == ("corpus", MISSING)
    shutil.rmtree(base)
    assert [(link.what, link.sha256) for link in check_lineage(run)][-1] == ("base model", MISSING)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("base/best/model.safetensors", "model.safetensors: damaged"),
        (
            "corpus/documents/train/topics-*.parquet",
            "not what was recorded .documents of topics",
        ),
        ("corpus/tokens/*/train-texts.bin", "not what was recorded .tokens"),
        ("corpus/tokens/*/index.json", "not what was recorded .list of tokens"),
        ("base/checkpoints/step-000008/llmstages.json", "not proved: .*(damaged|no complete)"),
        ("corpus/manifest.json", "corpus manifest"),
    ],
)
def test_a_changed_link_is_found(place, told, whole_chain):
    run, base, corpus = whole_chain
    folder, _, pattern = place.partition("/")
    # Other tests may have put the corpus into the ids of other tokenizers.
    kept = {link.where.parent for link in check_lineage(run) if link.what == "tokens"}
    found = {"base": base, "corpus": corpus}[folder].glob(pattern)
    path = next(path for path in found if "tokens" not in place or path.parent in kept)
    if path.name == "manifest.json":
        path.write_text(path.read_text(encoding="utf-8").replace('"tiny"', '"other"'), "utf-8")
    elif path.name == "index.json":  # the file of ids and its hash, both another
        other = path.with_name("train-texts.bin")
        ids = np.fromfile(other, "<u2")
        ids[5] += 1
        ids.tofile(other)
        index = json.loads(path.read_text(encoding="utf-8"))
        for shard in index["shards"]:
            if (shard["split"], shard["source"]) == ("train", "texts"):
                shard["sha256"] = file_hash(other)
        path.write_text(json.dumps(index), encoding="utf-8")
    elif path.name == "llmstages.json":  # of every checkpoint
        for each in path.parent.parent.glob("*/llmstages.json"):
            each.write_text("{}", encoding="utf-8")
    elif path.suffix == ".parquet":  # a text is another, in a file that is sound
        rows = pq.read_table(path, partitioning=None)
        texts = [text.upper() for text in rows["text"].to_pylist()]
        column = pa.array(texts, rows.schema.field("text").type)
        pq.write_table(rows.set_column(1, "text", column), path)
    else:
        flip(path)
    with pytest.raises(CheckFailed, match=told):
        list(check_lineage(run))


def test_settings_and_inputs_that_are_others_are_refused(copy, tmp_path):
    run = copy("tiny_run")
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**config, "seed": 5}), encoding="utf-8")
    with pytest.raises(CheckFailed, match=r"config\.yaml or an input.*\(seed was 0, is 5\)"):
        prove(run, 20)
    path.write_text(yaml.safe_dump({**config, "data": str(tmp_path / "gone")}), encoding="utf-8")
    with pytest.raises(UserError, match="gone"):
        prove(run, 20)


def test_only_a_run_can_be_proved(tiny_corpus, tiny_run, cli):
    status, _, err = cli("inspect", tiny_run / "best" / ".", "prove=true")
    assert status == 2
    assert "is for the directory of a run" in err


def test_a_changed_summary_is_found(copy):
    run = copy("tiny_run")
    path = run / "summary.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"val_loss": ', '"val_loss": 1', 1), encoding="utf-8")
    with pytest.raises(CheckFailed, match=r"summary\.json: damaged"):
        prove(run, 20)

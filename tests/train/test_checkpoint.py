"""Checkpoints on disk: complete or not there, damage is found, nothing else is taken for one."""

import json
import pickle
import struct

import pytest

from llmstages.errors import UserError
from llmstages.train.checkpoint import (
    complete_checkpoints,
    file_hash,
    load_checkpoint,
    read_info,
    resolve_checkpoint,
    save_checkpoint,
    verify_files,
)
from llmstages.train.records import read_sealed, write_sealed


def test_what_a_checkpoint_holds(tiny_run, tiny_corpus):
    best = (tiny_run / "best").resolve()
    names = {p.relative_to(best).as_posix() for p in best.rglob("*") if p.is_file()}
    # Whoever may read one may read all: safetensors alone would leave its files to their owner.
    assert len({path.stat().st_mode for path in best.rglob("*") if path.is_file()}) == 1
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "llmstages.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "trainer/state.json",
        "trainer/state.safetensors",
    }
    info = read_info(best)
    assert (info.format_version, info.stage, info.step) == (1, "pretrain", 8)
    assert info.tokens_seen == 8 * 512
    assert {"val_loss", "val_bits_per_byte", "val_bits_per_byte/texts"} <= info.metrics.keys()
    assert info.files == {n: file_hash(best / n) for n in names - {"llmstages.json", "README.md"}}
    assert info.lineage.tokenizer == load_checkpoint(tiny_run).tokenizer.hash
    assert info.lineage.parent is None
    from llmstages.data.corpus import Corpus

    assert info.lineage.corpus_manifest == Corpus.open(tiny_corpus).manifest_hash


def test_lineage_names_the_parent(tiny_run, classifier_run, instruct_run, labelled_file):
    parent, corpus = load_checkpoint(tiny_run), read_info(tiny_run / "best").lineage
    for run in (classifier_run, instruct_run):
        lineage = read_info(run / "best").lineage
        assert lineage.parent == parent.hash == file_hash(parent.directory / "model.safetensors")
        assert lineage.corpus_manifest == corpus.corpus_manifest
        assert lineage.tokenizer == corpus.tokenizer
    assert read_info(classifier_run / "best").lineage.data == file_hash(labelled_file)
    assert read_info(classifier_run / "best").classifier == {
        "pooling": "last",
        "task": "single_label",
        "windows": "mean",
        "text_columns": ["text"],
    }


def test_only_what_answers_stops_at_an_answers_end(tiny_run, classifier_run, instruct_run):
    tokenizer = load_checkpoint(tiny_run).tokenizer
    written = [
        json.loads((run / "best" / "generation_config.json").read_text())
        for run in (tiny_run, classifier_run, instruct_run)
    ]
    ends = [[tokenizer.end_id]] * 2 + [[tokenizer.end_id, tokenizer.turn_end_id]]
    assert written == [{"eos_token_id": end, "pad_token_id": tokenizer.pad_id} for end in ends]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "trainer/state.safetensors"]
)
def test_a_flipped_byte_is_found(run_copy, name):
    path = (run_copy / "best").resolve() / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if name.startswith("trainer/"):
        load_checkpoint(run_copy)  # a copy may leave out what only resuming needs
        with pytest.raises(UserError, match="damaged"):
            verify_files(path.parents[1], read_info(path.parents[1]), trainer=True)
        return
    with pytest.raises(UserError, match="damaged") as refused:
        load_checkpoint(run_copy)
    assert str(refused.value).startswith(f"{path}: ")
    assert str(refused.value).endswith("step-000006 is sound: name that")
    path.unlink()
    with pytest.raises(UserError, match="missing from the checkpoint"):
        load_checkpoint(run_copy)


def test_a_run_means_its_best_checkpoint(tiny_run):
    assert resolve_checkpoint(str(tiny_run)) == (tiny_run / "best").resolve()
    assert resolve_checkpoint(str(tiny_run / "best")) == tiny_run / "best"


def test_torn_checkpoints_are_skipped_with_a_warning(run_copy, capfd):
    directory = run_copy / "checkpoints"
    (directory / "step-000008" / "llmstages.json").unlink()
    (directory / "step-000010.tmp").mkdir()
    (directory / "step-000009").mkdir()
    (directory / "step-000009" / "llmstages.json").write_text('{"format_ver', encoding="utf-8")
    names = [path.name for path in complete_checkpoints(run_copy)]
    assert names == ["step-000006"]
    err = capfd.readouterr().err
    assert err.count("incomplete checkpoint, skipped") == 2
    assert "step-000010.tmp" not in err
    assert load_checkpoint(run_copy).directory.name == "step-000006"
    # Torn, it is never taken for the directory of another program.
    with pytest.raises(UserError, match="incomplete checkpoint"):
        load_checkpoint(directory / "step-000008")


def test_checkpoints_are_in_the_order_of_their_steps(run_copy):
    directory = run_copy / "checkpoints"
    (directory / "step-000006").rename(directory / "step-1000000")
    assert [path.name for path in complete_checkpoints(run_copy)] == ["step-000008", "step-1000000"]


def test_a_run_without_a_checkpoint(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="no complete checkpoint yet"):
        load_checkpoint(tmp_path / "run")


def test_pickles_are_never_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    file = tmp_path / "model.pt"
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"model\.pt: a file.*never opened"):
        load_checkpoint(file)
    directory = tmp_path / "foreign"
    directory.mkdir()
    (directory / "config.json").write_text("{}", encoding="utf-8")
    (directory / "pytorch_model.bin").write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"foreign: .*pytorch_model\.bin is a pickle"):
        load_checkpoint(directory)
    (directory / "model.safetensors").write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"foreign/config\.json"):
        load_checkpoint(directory)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("own_output", [False, True])
def test_what_else_a_file_of_weights_may_be(tmp_path, own_output):
    file = tmp_path / "stories.bin"
    numbers = 8 * 4 * (1 + own_output) + 2 * (4 + 16 + 8 + 8 + 16 + 4 + 3 * 4 * 6) + 4 + 16 * 2
    header = struct.pack("<7i", 4, 6, 2, 2, 1, -8 if own_output else 8, 16)
    for content, kind in (
        (header + bytes(4 * numbers), "is a model of llama2.c: scripts/import_llama2c.py"),
        (header + bytes(4 * numbers + 4), "is not safetensors"),
        (b"", "is not safetensors"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"stories.bin {kind}"):
            load_checkpoint(file)
        with pytest.raises(UserError, match=f"stories.bin {kind}"):
            load_checkpoint(tmp_path)


def test_weights_that_are_no_safetensors_file(run_copy):
    directory = (run_copy / "best").resolve()
    (directory / "llmstages.json").unlink()
    moved = directory.rename(run_copy.parent / "foreign")
    (moved / "model.safetensors").write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable safetensors file"):
        load_checkpoint(moved)


def test_a_wrong_path_suggests_the_nearest(tiny_run):
    with pytest.raises(UserError, match=r"no such checkpoint or run: did you mean .*pretrain\?"):
        load_checkpoint(tiny_run.parent / "pretrian")


def test_another_format_version_is_refused(run_copy):
    path = (run_copy / "best").resolve() / "llmstages.json"
    write_sealed(path, {**read_sealed(path), "format_version": 99})
    with pytest.raises(UserError, match="format 99, this version reads 1"):
        load_checkpoint((run_copy / "best").resolve())


def test_a_failed_save_leaves_the_earlier_checkpoint(run_copy, monkeypatch):
    loaded = load_checkpoint(run_copy)
    before = read_info(loaded.directory)

    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("llmstages.train.checkpoint.write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(loaded.directory, loaded.model, loaded.tokenizer, before)
    assert read_info(loaded.directory) == before
    load_checkpoint(loaded.directory)

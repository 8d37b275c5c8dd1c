"""Checkpoints and runs that say what cannot be: refused before memory is taken, never half used."""

import json
import shutil
import struct
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmstages.data.json_files import as_type
from llmstages.errors import UserError
from llmstages.model.transformer import TransformerConfig
from llmstages.train import checkpoint
from llmstages.train.checkpoint import file_hash, load_checkpoint, read_info
from llmstages.train.records import read_sealed, write_sealed


@pytest.fixture
def foreign(tiny_run, tmp_path):  # type: ignore[no-untyped-def]
    """A checkpoint as another program would write it, to damage."""
    directory = tmp_path / "foreign"
    shutil.copytree((tiny_run / "best").resolve(), directory)
    (directory / "llmstages.json").unlink()
    shutil.rmtree(directory / "trainer")
    return directory


def change(path: Path, **values: Any) -> None:
    contents = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(contents | values), encoding="utf-8")


def seal_again(directory: Path) -> None:
    """What somebody does who wants a damage not to be seen."""
    contents = read_sealed(directory / "llmstages.json")
    contents["files"] = {name: file_hash(directory / name) for name in contents["files"]}
    write_sealed(directory / "llmstages.json", contents)


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 10**12},
        {"hidden_size": 10**6, "intermediate_size": 10**6},
        {"vocab_size": 10**12},
        {"max_position_embeddings": 10**12},
        {"num_attention_heads": 10**9, "num_key_value_heads": 10**9},
        {"problem_type": "x", "id2label": {str(n): str(n) for n in range(100_000)}},
    ],
)
def test_a_model_too_large_is_not_allocated(
    foreign: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    def allocate(config: object) -> None:
        raise AssertionError("memory is taken")

    monkeypatch.setattr(checkpoint, "Transformer", allocate)
    change(foreign / "config.json", **values)
    with pytest.raises(UserError, match=r"config\.json: "):
        load_checkpoint(foreign)


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": ["qwen3"]},
        {"rope_parameters": 3},
        {"architectures": 3},
        {"num_attention_heads": 0},
        {"num_hidden_layers": -1},
        {"hidden_size": float("inf")},
        {"head_dim": 7},
        {"rope_theta": float("nan")},
        {"num_key_value_heads": 3},
        {"problem_type": "x", "id2label": ["a", "b"]},
        {"problem_type": "x", "id2label": {"0": "a", "7": "b"}},
        {"problem_type": "x", "id2label": {"0": "a", "1": "a"}},
        {"problem_type": "x", "id2label": {"0": "a", "1": None}},
    ],
)
def test_a_config_of_wrong_values(foreign: Path, values: dict[str, Any]) -> None:
    change(foreign / "config.json", **values)
    with pytest.raises(UserError, match=r"config\.json: "):
        load_checkpoint(foreign)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b"[" * 100_000, b"9" * 5000, b"\xff\xfe{", b'{"a": 1']
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_json_that_is_none(foreign: Path, name: str, content: bytes) -> None:
    (foreign / "tokenizer.model").unlink()
    (foreign / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load_checkpoint(foreign)


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b"not json",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
    ],
)
@pytest.mark.parametrize("length", [None, 2**63 - 1, 2**40])
def test_headers_of_weights(foreign: Path, header: bytes, length: int | None) -> None:
    data = struct.pack("<Q", len(header) if length is None else length) + header + bytes(200_000)
    (foreign / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors: "):
        load_checkpoint(foreign)


def test_weights_that_are_no_numbers_to_compute_with(foreign: Path) -> None:
    weights = load_file(foreign / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = torch.ones(weights[name].shape, dtype=torch.int32)
    save_file(weights, foreign / "model.safetensors")
    with pytest.raises(UserError, match=f"{name} holds no floating-point numbers"):
        load_checkpoint(foreign)


def test_a_tokenizer_with_more_ids_than_the_model(foreign: Path) -> None:
    config = json.loads((foreign / "config.json").read_text())
    name = "model.embed_tokens.weight"
    weights = load_file(foreign / "model.safetensors")
    weights[name] = weights[name][:-1].contiguous()
    save_file(weights, foreign / "model.safetensors")
    change(foreign / "config.json", vocab_size=config["vocab_size"] - 1)
    with pytest.raises(UserError, match=r"config\.json: vocab_size 511, but the tokenizer"):
        load_checkpoint(foreign)


def test_a_tokenizer_with_nothing_to_pad_with(foreign: Path) -> None:
    (foreign / "tokenizer.model").unlink()
    only = {"id": 0, "content": "<end>", "special": True, "single_word": False, "lstrip": False}
    content = {
        "version": "1.0",
        "added_tokens": [only | {"rstrip": False, "normalized": False}],
        "model": {"type": "WordLevel", "vocab": {"<end>": 0}, "unk_token": "<end>"},
    }
    (foreign / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    change(foreign / "tokenizer_config.json", eos_token="<end>")
    with pytest.raises(UserError, match="pad"):
        load_checkpoint(foreign)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model"])
@pytest.mark.parametrize("what", ["directory", "link"])
def test_no_file_where_one_should_be(foreign: Path, name: str, what: str) -> None:
    (foreign / name).unlink()
    if what == "link":
        (foreign / name).symlink_to("nowhere")
    else:
        (foreign / name).mkdir()
    if name == "tokenizer.model":  # then its tokenizer.json is read
        load_checkpoint(foreign)
        return
    with pytest.raises(UserError, match=f"it has no {name}"):
        load_checkpoint(foreign)


@pytest.mark.parametrize(
    "values",
    [{"metrics": []}, {"files": []}, {"step": "1"}, {"lineage": {"x": 1}}, {"tokens_seen": None}],
)
def test_a_sealed_record_of_wrong_types(run_copy: Path, values: dict[str, Any]) -> None:
    directory = (run_copy / "best").resolve()
    path = directory / "llmstages.json"
    write_sealed(path, read_sealed(path) | values)
    with pytest.raises(UserError, match="not a complete checkpoint"):
        read_info(directory)


def damage_state(directory: Path, name: str) -> None:
    """One of the ways in which the state of a trainer may be wrong."""
    json_path, tensors_path = (
        directory / "trainer" / f"state.{k}" for k in ("json", "safetensors")
    )
    tensors = load_file(tensors_path)
    first = sorted(tensors)[0]
    if name == "no progress":
        json_path.write_text("{}")
    elif name == "progress of texts":
        change(json_path, progress={"step": "6"})
    elif name == "deep":
        json_path.write_text("[" * 100_000)
    elif name == "garbage":
        tensors_path.write_bytes(b"\x80\x04garbage")
    elif name == "missing state":
        save_file({k: v for k, v in tensors.items() if k != first}, tensors_path)
    elif name == "unknown state":
        save_file(tensors | {"x/y": torch.zeros(1)}, tensors_path)
    else:
        save_file(tensors | {first: torch.zeros(3, 3, 3)}, tensors_path)


@pytest.mark.parametrize(
    "damage",
    [
        *("no progress", "progress of texts", "deep", "garbage"),
        *("missing state", "unknown state", "wrong shape"),
    ],
)
def test_the_state_of_a_trainer(run_copy: Path, pretrain_config: Any, damage: str) -> None:
    from llmstages.stages import pretrain

    (run_copy / "summary.json").unlink()
    last = sorted((run_copy / "checkpoints").iterdir())[-1]
    damage_state(last, damage)
    seal_again(last)
    with pytest.raises(UserError, match=rf"{last}/trainer/state\.(json|safetensors): "):
        pretrain.run(pretrain_config(run_copy.parent))


@pytest.mark.parametrize(
    "values", [{"settings": 3}, {"lr": "x"}, {"model_shape": {}}, {"steps": None}, {"stage": []}]
)
def test_a_plan_of_wrong_types(run_copy: Path, pretrain_config: Any, values: Any) -> None:
    from llmstages.stages import pretrain

    (run_copy / "summary.json").unlink()
    write_sealed(run_copy / "plan.json", read_sealed(run_copy / "plan.json") | values)
    with pytest.raises(UserError, match=r"plan\.json: not a plan"):
        pretrain.run(pretrain_config(run_copy.parent))


def test_a_plan_older_than_a_switch_and_one_with_layers(
    run_copy: Path, pretrain_config: Any
) -> None:
    from llmstages.stages import pretrain

    (run_copy / "summary.json").unlink()
    plan = read_sealed(run_copy / "plan.json")
    del plan["model_shape"]["norm_offset"]
    write_sealed(run_copy / "plan.json", plan)
    pretrain.run(pretrain_config(run_copy.parent))
    shape = replace(TransformerConfig(*[8] * 8), windowed_layers=(0, 2))
    assert as_type(TransformerConfig, json.loads(json.dumps(asdict(shape))), "shape") == shape


def test_a_plan_of_another_shape(run_copy: Path, pretrain_config: Any) -> None:
    from llmstages.stages import pretrain

    (run_copy / "summary.json").unlink()
    plan = read_sealed(run_copy / "plan.json")
    plan["model_shape"]["num_layers"] = 10**12
    write_sealed(run_copy / "plan.json", plan)
    with pytest.raises(UserError, match="model_shape is not that of"):
        pretrain.run(pretrain_config(run_copy.parent))


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "{}", '{"metrics": 1, "headline": []}'])
def test_a_summary_that_is_none(run_copy: Path, pretrain_config: Any, content: str) -> None:
    from llmstages.stages import pretrain

    (run_copy / "summary.json").write_text(content)
    with pytest.raises(UserError, match=r"summary\.json: "):
        pretrain.run(pretrain_config(run_copy.parent))


def test_only_training_is_proved(run_copy: Path, cli: Any) -> None:
    write_sealed(run_copy / "plan.json", read_sealed(run_copy / "plan.json") | {"stage": "inspect"})
    status, _, err = cli("inspect", run_copy, "prove=true")
    assert status == 2
    assert "'inspect' is no training stage" in err

"""Classifiers as ONNX graphs, run by onnxruntime."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from llmstages.errors import UserError
from llmstages.export.onnx_classifier import write_onnx
from llmstages.model.layouts import make_config
from llmstages.model.transformer import RopeScaling, Transformer
from llmstages.stages import export
from llmstages.train.checkpoint import load_checkpoint

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
SHAPE: dict[str, Any] = {
    "num_layers": 3,
    "hidden_size": 16,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "context_length": 32,
    "vocab_size": 40,
    "num_labels": 3,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"pooling": "mean"},
    "nanochat": {},
    "llama": {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 16), "output_bias": True},
    "mistral": {"window": 3},
    "qwen2": {"multi_label": True},
    "smollm3": {"unrotated_layers": (1,)},
    "olmo2": {"pooling": "mean", "multi_label": True},
    "phi3": {"rotary_share": 0.5},
    "gemma3_text": {
        "window": 4,
        "windowed_layers": (0, 2),
        "local_rope_theta": 1e3,
        "query_scalar": 12.0,
    },
    "gpt2": {"num_kv_heads": 4},
}


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("layout", FAMILIES)
def test_every_family(layout: str, tmp_path: Path) -> None:
    """Of batches of any length, also of one token, padded with anything."""
    config = make_config(layout, **{**SHAPE, **FAMILIES[layout]})
    model, generator = Transformer(config).eval(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5 if parameter.dim() == 1 else 0.0, 0.3, generator=generator)
    write_onnx(tmp_path / "m.onnx", model, ["a", "b", "c"])
    made = session(tmp_path / "m.onnx")
    for lengths in ([1], [9, 1, 4], [32, 31]):
        ids = torch.randint(40, (len(lengths), max(lengths)), generator=generator)
        mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
        (found,) = made.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.long().numpy()})
        with torch.no_grad():
            ends = torch.tensor(lengths)[:, None] - 1
            logits = model.logits(model(ids, ends=ends)[:, 0])
            expected = logits.sigmoid() if config.multi_label else logits.softmax(-1)
        assert found.std() > 0.02
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def test_an_exported_run_predicts_alike(
    cli: Callable[..., tuple[int, str, str]], classifier_run: Path, tmp_path: Path
) -> None:
    texts = ["An integer is a number.", "x", "A string literal is text between quotes " * 2, ""]
    rows = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "texts.jsonl").write_text("".join(rows))
    status, _, err = cli("export", classifier_run, "output=made")
    assert status == 0, err
    status, out, err = cli("predict", classifier_run, "texts.jsonl")
    assert status == 0, err
    expected = [json.loads(line)["probabilities"] for line in out.splitlines()]
    tokenizer = Tokenizer.from_file("made/tokenizer.json")
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(texts)
    assert "ONNX Runtime reads `model.onnx`" in Path("made/README.md").read_text()
    made = session(Path("made/model.onnx"))
    (found,) = made.run(
        None,
        {
            "input_ids": np.array([encoding.ids for encoding in encodings]),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings]),
        },
    )
    labels = json.loads(made.get_modelmeta().custom_metadata_map["labels"])
    assert labels == list(expected[0])
    np.testing.assert_allclose(found, [list(row.values()) for row in expected], atol=1e-5)


def test_a_language_model_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format=onnx is for classifiers"):
        export.export_onnx(tmp_path, load_checkpoint(tiny_run))
    assert not list(tmp_path.iterdir())

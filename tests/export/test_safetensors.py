"""Hugging Face directories in other types, opened by transformers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmstages.config.groups import MethodConfig, OptimConfig
from llmstages.config.stages import FinetuneInstructConfig
from llmstages.config.uses import ExportConfig
from llmstages.errors import UserError
from llmstages.stages import export, finetune_instruct
from llmstages.train.checkpoint import best_of_run, load_checkpoint


@pytest.mark.parametrize(
    ("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_transformers_opens_an_export(
    dtype: str, kind: torch.dtype, classifier_run: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    directory = tmp_path / "made"
    export.run(ExportConfig(str(classifier_run), "safetensors", dtype=dtype, output=str(directory)))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(directory)
    assert theirs.dtype == kind
    checkpoint = load_checkpoint(classifier_run)
    assert list(theirs.config.label2id) == checkpoint.labels
    text = "An integer is a number."
    ids = transformers.AutoTokenizer.from_pretrained(directory)(text, return_tensors="pt")
    assert ids["input_ids"].tolist() == [[*checkpoint.tokenizer.encode(text), 1]]
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter.copy_(parameter.to(kind))
        ours = checkpoint.model.logits(checkpoint.model(ids["input_ids"])[:, -1])
        found = theirs.float()(**ids).logits
    torch.testing.assert_close(found, ours, atol=1e-5, rtol=1e-4)
    assert load_checkpoint(directory).labels == checkpoint.labels
    assert (directory / "README.md").read_text() == (checkpoint.directory / "README.md").read_text()


def test_adapters_are_merged(
    instruct_config: Callable[..., FinetuneInstructConfig], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    settings = {"method": MethodConfig(name="lora"), "steps": 2, "optim": OptimConfig(lr=0.1)}
    config = instruct_config(tmp_path, name="adapted", **settings)
    finetune_instruct.run(config)
    run, directory = tmp_path / "adapted", tmp_path / "made"
    export.run(ExportConfig(str(run), "safetensors", dtype="fp32", output=str(directory)))
    assert not list(directory.glob("adapter*"))
    ids = torch.arange(5, 25)[None]
    theirs, base = (
        transformers.AutoModelForCausalLM.from_pretrained(path)(ids).logits
        for path in (directory, best_of_run(Path(config.base)))
    )
    model = load_checkpoint(run).model
    torch.testing.assert_close(theirs, model.logits(model(ids)), atol=1e-4, rtol=1e-4)
    assert (theirs - base).abs().max() > 0.01


def test_numbers_that_half_precision_has_not(run_copy: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(run_copy)
    with torch.no_grad():
        checkpoint.model.blocks[0].attention.query.weight[0, 0] = 1e5
    with pytest.raises(UserError, match=r"attention.query.weight has larger numbers than 65504"):
        export.export_safetensors(tmp_path, checkpoint, "fp16")

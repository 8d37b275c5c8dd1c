"""Stages on a directory that another program wrote: continued, tuned, and the same family after."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from llmstages.config.groups import EvaluateConfig, ModelConfig
from llmstages.config.uses import ExportConfig
from llmstages.stages import export, finetune_instruct, pretrain
from llmstages.text.chat import stop_ids
from llmstages.train.checkpoint import load_checkpoint


@pytest.fixture
def gemma(tmp_path):
    """A tiny Gemma 3 whose texts begin with a token, with bytes as its vocabulary."""
    transformers = pytest.importorskip("transformers")
    directory = tmp_path / "gemma"
    config = transformers.Gemma3TextConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        eos_token_id=256,
        pad_token_id=257,
        bos_token_id=258,
    )
    torch.manual_seed(0)
    transformers.Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<eos>", "<pad>", "<bos>"])
    made.post_processor = processors.TemplateProcessing("<bos> $A", "<bos> $A $B", [("<bos>", 258)])
    made.save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(names))
    return directory


def test_a_foreign_base_is_continued_and_then_tuned(
    gemma, tmp_path, pretrain_config, instruct_config
):
    before = load_checkpoint(gemma)
    export.run(ExportConfig(str(gemma), "safetensors", output=str(tmp_path / "first")))
    card = (tmp_path / "first" / "README.md").read_text()
    assert "of a model that another program trained." in card
    assert f"| base | `gemma` |\n| sha256 of the parent | `{before.hash}` |" in card
    (tmp_path / "first" / "README.md").write_text("---\nlicense: mit\n---\nTheirs.\n")
    card = export.card_beside(load_checkpoint(tmp_path / "first"), "gguf", ["So."])
    assert card == "---\nlicense: mit\n---\nTheirs.\n\n## Use\n\nSo.\n"
    config = pretrain_config(tmp_path, base=str(gemma), model=ModelConfig(), steps=3)
    pretrain.run(config)
    continued = load_checkpoint(tmp_path / "pretrain")
    assert continued.model.config == before.model.config
    assert continued.tokenizer.hash == before.tokenizer.hash
    assert continued.info.lineage.parent == before.hash
    card = (tmp_path / "pretrain" / "best" / "README.md").read_text()
    assert "| continued from | `gemma` |" in card
    losses = [
        entry["val_loss"]
        for line in (tmp_path / "pretrain" / "metrics.jsonl").read_text().splitlines()
        if "val_loss" in (entry := json.loads(line))
    ]
    assert losses[-1] < 5.5
    finetune_instruct.run(instruct_config(tmp_path, base=str(tmp_path / "pretrain"), steps=2))
    tuned = tmp_path / "pairs-instruct" / "best"
    assert json.loads((tuned / "config.json").read_text())["model_type"] == "gemma3_text"
    assert load_checkpoint(tuned).tokenizer.begin_ids == (258,)


def test_every_end_that_the_model_names_stops_it_and_all_else_it_says_is_kept(
    gemma, tmp_path, instruct_config
):
    said = {"eos_token_id": [256, 97, 98, 999], "bos_token_id": 258, "top_k": 7, "pad_token_id": 1}
    (gemma / "generation_config.json").write_text(json.dumps({**said, "_from_model_config": True}))
    assert stop_ids(load_checkpoint(gemma).tokenizer) == [256, 97, 98]
    losses_alone = EvaluateConfig(num_samples=0, num_generations=0)
    config = instruct_config(tmp_path, base=str(gemma), steps=1, evaluate=losses_alone)
    finetune_instruct.run(config)
    metrics = json.loads((config.run_dir / "summary.json").read_text())["metrics"]
    assert "val_loss" in metrics
    assert "exact_match" not in metrics
    run, exported = tmp_path / "pairs-instruct" / "best", tmp_path / "exported"
    export.run(ExportConfig(str(run), "safetensors", output=str(exported)))
    for folder in (run, exported):
        written = json.loads((folder / "generation_config.json").read_text())
        assert written == {**said, "eos_token_id": [256, 97, 98], "pad_token_id": 257}
        assert json.loads((folder / "config.json").read_text())["eos_token_id"] == [256, 97, 98]

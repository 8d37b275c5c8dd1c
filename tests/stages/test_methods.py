"""Which weights each method trains, and what its checkpoints hold."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llmstages.config.groups import BLOCK_MATRICES, MethodConfig
from llmstages.errors import UserError
from llmstages.model.counts import trained_flops_share
from llmstages.model.layouts import make_config
from llmstages.model.transformer import Transformer
from llmstages.stages import finetune_classify, finetune_instruct
from llmstages.stages.shared.methods import choose_weights, lora_targets
from llmstages.stages.shared.setup import choose_machine
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.records import read_sealed, write_sealed

SHAPE = {
    "vocab_size": 50,
    "num_layers": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "context_length": 16,
}

LORA = {
    "lora": MethodConfig(name="lora", rank=4, alpha=8.0),
    "rslora": MethodConfig(name="lora", rank=4, alpha=4.0, rank_stabilised=True, targets=["up"]),
    "dora": MethodConfig(name="lora", rank=4, alpha=8.0, decomposed=True),
}


# PEFT asks transformers for an attribute by its former name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("kind", list(LORA))
@pytest.mark.parametrize("stage", ["instruct", "classify"])
def test_peft_loads_the_adapter_with_the_same_logits(
    stage, kind, tmp_path, tiny_run, instruct_config, classify_config
):
    from peft import PeftModel

    if stage == "instruct":
        config = instruct_config(tmp_path, name="tuned", method=LORA[kind])
        finetune_instruct.run(config)
        base = AutoModelForCausalLM.from_pretrained(tiny_run / "best")
    else:
        config = classify_config(tmp_path, name="tuned", method=LORA[kind])
        finetune_classify.run(config)
        base = AutoModelForSequenceClassification.from_pretrained(
            tiny_run / "best", num_labels=2, pad_token_id=1
        )
    best = tmp_path / "tuned" / "best"
    mine = load_checkpoint(best).model.eval()
    tokens = torch.arange(5, 45).view(2, 20)
    with torch.no_grad():
        hidden = mine(tokens)
        logits = mine.logits(hidden if stage == "instruct" else hidden[:, -1])
        theirs = PeftModel.from_pretrained(base, best / "adapter").eval()
        torch.testing.assert_close(theirs(tokens).logits, logits, rtol=0, atol=2e-5)
        if kind != "lora":  # with an embedding; one that is the output matrix too PEFT merges twice
            merged = theirs.merge_and_unload()(tokens).logits
            torch.testing.assert_close(merged, logits, rtol=0, atol=2e-5)
    described = json.loads((best / "adapter" / "adapter_config.json").read_text())
    assert ("embed_tokens" in described["target_modules"]) == (kind == "lora")
    assert described["base_model_name_or_path"] == str((tiny_run / "best").resolve())
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= set(
        json.loads((best / "llmstages.json").read_text())["files"]
    )


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        (MethodConfig(name="last", last_blocks=1), {"model.layers.1.", "model.norm.", "score."}),
        (MethodConfig(name="head"), {"score."}),
    ],
)
def test_other_weights_stay_as_they_were(method, changed, tmp_path, tiny_run, classify_config):
    finetune_classify.run(classify_config(tmp_path, name="tuned", method=method))
    before = load_file(tiny_run / "best" / "model.safetensors")
    after = load_file(tmp_path / "tuned" / "last" / "model.safetensors")
    for name, tensor in after.items():
        same = name in before and torch.equal(tensor, before[name])
        assert same != name.startswith(tuple(changed)), name


def test_the_embedding_is_adapted_where_it_is_a_third_of_the_model():
    for vocab_size, has_embedding in ((300, True), (200, False)):  # 38 % and 29 % of all
        config = make_config("qwen3", **{**SHAPE, "vocab_size": vocab_size})
        assert ("embedding" in lora_targets(MethodConfig(), config)) == has_embedding
        assert "embedding" not in lora_targets(MethodConfig(name="lora", decomposed=True), config)
        assert lora_targets(MethodConfig(name="lora", targets=["embedding"]), config) == (
            "embedding",
        )


def test_a_head_is_a_classifiers(instruct_config, tmp_path):
    with pytest.raises(ValueError, match="method=head trains a classifier's head"):
        instruct_config(tmp_path, method=MethodConfig(name="head"))
    with pytest.raises(ValueError, match=r"method\.targets.*did you mean"):
        MethodConfig(targets=["querry"])
    with pytest.raises(
        ValueError, match=r"method\.decomposed=true goes with the matrices of the b"
    ):
        MethodConfig(targets=["embedding"], decomposed=True)


def test_methods_that_a_base_cannot_have(tmp_path, instruct_config, classify_config):
    config = classify_config(tmp_path, method=MethodConfig(name="last", last_blocks=3))
    with pytest.raises(UserError, match=r"method\.last_blocks=3: the base has 2 blocks"):
        finetune_classify.run(config)
    model = Transformer(make_config("nanochat", **SHAPE))
    config = instruct_config(tmp_path, method=MethodConfig(name="lora", targets=["gate"]))
    with pytest.raises(UserError, match=r"method\.targets=.*no such matrix"):
        choose_weights(model, config, choose_machine(config))
    config = instruct_config(tmp_path, method=MethodConfig(name="lora", rank=33))
    with pytest.raises(UserError, match=r"method\.rank=33: .* a side of 32"):
        choose_weights(model, config, choose_machine(config))


@pytest.mark.parametrize(
    ("method", "share"),
    [
        (MethodConfig(), 1.0),
        (MethodConfig(name="last", last_blocks=1), (1 + 1 / 2 + 1 / 2) / 3),
        (MethodConfig(name="head"), 1 / 3),
        (MethodConfig(name="lora", targets=["embedding"]), 2 / 3),
    ],
)
def test_flops_of_what_is_trained(method, share, classify_config, tmp_path):
    config = classify_config(tmp_path, method=method)
    model = Transformer(make_config("qwen3", num_labels=2, **SHAPE))
    choose_weights(model, config, choose_machine(config))
    assert trained_flops_share(model) == pytest.approx(share)


def test_a_base_whose_settings_were_changed_is_another(tmp_path, run_copy, instruct_config):
    config = instruct_config(tmp_path, base=str(run_copy / "best"), stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        finetune_instruct.run(config)
    best = (run_copy / "best").resolve()
    changed = json.loads((best / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**changed, "rope_theta": 20_000.0})
    (best / "config.json").write_text(text, encoding="utf-8")
    (best / "llmstages.json").rename(tmp_path / "elsewhere")  # as a foreign model
    copied = Path(shutil.copytree(best, tmp_path / "foreign"))
    with pytest.raises(UserError, match=r"inputs\.base_config was .*, is "):
        finetune_instruct.run(instruct_config(tmp_path, base=str(copied)))


def test_a_run_that_an_older_version_began_goes_on(tmp_path, instruct_config):
    with pytest.raises(KeyboardInterrupt):
        finetune_instruct.run(instruct_config(tmp_path, stop_after=3))
    path = tmp_path / "pairs-instruct" / "plan.json"
    plan = read_sealed(path)
    del plan["settings"]["method"], plan["settings"]["inputs"]["base_config"]
    write_sealed(path, plan)
    other = instruct_config(tmp_path, method=MethodConfig(name="last"))
    with pytest.raises(UserError, match=r"method\.name was full, is last"):
        finetune_instruct.run(other)
    finetune_instruct.run(instruct_config(tmp_path))
    assert (tmp_path / "pairs-instruct" / "summary.json").is_file()


def test_adapters_of_an_older_version_stay_where_they_were(tmp_path, instruct_config):
    """Then the default was all matrices of the blocks, and written down as such."""
    old = MethodConfig(name="lora", targets=list(BLOCK_MATRICES))
    with pytest.raises(KeyboardInterrupt):
        finetune_instruct.run(instruct_config(tmp_path, method=old, stop_after=3))
    finetune_instruct.run(instruct_config(tmp_path, method=MethodConfig(name="lora")))
    plan = read_sealed(tmp_path / "pairs-instruct" / "plan.json")
    assert plan["settings"]["method"]["targets"] == list(BLOCK_MATRICES)
    assert (tmp_path / "pairs-instruct" / "summary.json").is_file()

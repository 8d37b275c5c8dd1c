"""Which weights each method trains, and what its checkpoints hold."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llmstages.config.groups import MethodConfig
from llmstages.stages import finetune_classify, finetune_instruct
from llmstages.train.checkpoint import load_checkpoint

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
        merged = theirs.merge_and_unload()(tokens).logits
        torch.testing.assert_close(merged, logits, rtol=0, atol=2e-5)
    described = json.loads((best / "adapter" / "adapter_config.json").read_text())
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


def test_a_head_is_a_classifiers(instruct_config, tmp_path):
    with pytest.raises(ValueError, match="method=head trains a classifier's head"):
        instruct_config(tmp_path, method=MethodConfig(name="head"))
    with pytest.raises(ValueError, match=r"method\.targets.*did you mean"):
        MethodConfig(targets=["querry"])

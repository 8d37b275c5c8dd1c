"""Fine-tuning beside 4 bits, from the command's settings to the checkpoint."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from llmstages.config.groups import MethodConfig, OptimConfig
from llmstages.model.counts import trained_flops_share
from llmstages.stages import finetune_instruct
from llmstages.stages.shared.methods import choose_weights
from llmstages.stages.shared.setup import choose_machine
from llmstages.train.checkpoint import load_checkpoint

METHOD = MethodConfig(name="lora", quantised=True, rank=4, alpha=8.0)


def losses(run_dir: Path) -> list[float]:
    lines = (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry[name] for entry in entries for name in ("loss", "val_loss") if name in entry]


# PEFT asks transformers for an attribute by its former name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_it_learns_goes_on_where_it_was_and_keeps_what_it_learnt(
    tmp_path, tiny_run, instruct_config
):
    pytest.importorskip("bitsandbytes")
    optim = OptimConfig(name="muon", lr=0.02)
    settings = {"method": METHOD, "optim": optim, "steps": 6}
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    config = instruct_config(tmp_path, name="whole", **settings)
    finetune_instruct.run(config)
    with pytest.raises(KeyboardInterrupt):
        finetune_instruct.run(instruct_config(tmp_path, name="pieces", stop_after=3, **settings))
    finetune_instruct.run(instruct_config(tmp_path, name="pieces", **settings))
    summary = json.loads((whole / "summary.json").read_text("utf-8"))
    assert summary["metrics"]["val_loss"] < summary["metrics_before"]["val_loss"] - 0.05
    assert losses(pieces) == losses(whole)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        one, two = (load_file(run_dir / "last" / name) for run_dir in (whole, pieces))
        assert all(torch.equal(one[key], two[key]) for key in one)

    # What was trained is the base in 4 bits and the adapter; other libraries put it together anew.
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(
        tiny_run / "best", quantization_config=four_bits, dtype=torch.float32, device_map="cpu"
    )
    # In evaluation it would compute in bfloat16 on some processors.
    theirs = PeftModel.from_pretrained(base, whole / "best" / "adapter").train()
    model = load_checkpoint(whole).model.eval()
    tokens = torch.arange(5, 45).view(2, 20)
    with torch.no_grad():
        merged = model.logits(model(tokens))
        torch.testing.assert_close(theirs(tokens).logits, merged, rtol=0, atol=2e-5)


def test_it_costs_what_unquantised_adapters_cost(tiny_run, tmp_path, instruct_config):
    pytest.importorskip("bitsandbytes")
    shares = []
    for method in (METHOD, replace(METHOD, quantised=False)):
        model = load_checkpoint(tiny_run).model
        config = instruct_config(tmp_path, method=method)
        choose_weights(model, config, choose_machine(config))
        shares.append(trained_flops_share(model))
    assert shares[0] == shares[1] < 1


def test_what_it_cannot_be_combined_with(tmp_path, instruct_config):
    with pytest.raises(ValueError, match=r"parallel=fsdp cannot shard .* method=qlora"):
        instruct_config(tmp_path, method=METHOD, parallel="fsdp")
    with pytest.raises(ValueError, match=r"method\.quantised=true goes with adapters"):
        MethodConfig(quantised=True)


def test_without_the_library(monkeypatch, cli, tiny_run, instruct_file):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    words = ("finetune-instruct", instruct_file, "method=qlora", f"base={tiny_run}", "device=cpu")
    status, _, err = cli(*words)
    assert status == 2
    assert "pip install 'llmstages[qlora]'" in err.splitlines()[-1]

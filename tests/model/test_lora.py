"""Adapters: what they start as, what they add, and that PEFT reads them as they are."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save, save_file
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from llmstages.model.layouts import config_to_disk, disk_name, make_config
from llmstages.model.lora import (
    Lora,
    LoraLinear,
    add_lora,
    from_peft,
    merged,
    peft_config,
    peft_name,
    to_peft,
)
from llmstages.model.transformer import Transformer

BLOCKS = ("query", "key", "value", "output", "gate", "up", "down")
ALL = (*BLOCKS, "embedding")


def model_of(layout="qwen3", num_labels=None, tied=True):
    config = make_config(
        layout,
        vocab_size=50,
        num_layers=2,
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=48,
        context_length=16,
        num_labels=num_labels,
        tie_embeddings=tied,
    )
    model = Transformer(config)
    model.initialize(torch.Generator().manual_seed(0))
    for block in model.blocks:  # they start at zero, where an adapter could hide a mistake
        nn.init.normal_(block.attention.output.weight, std=0.1)
        nn.init.normal_(block.feed_forward.down.weight, std=0.1)
    return model.eval()


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


TOKENS = torch.arange(24).view(2, 12)


@pytest.mark.parametrize(("decomposed", "tied"), [(False, True), (False, False), (True, True)])
@pytest.mark.parametrize("layout", ["qwen3", "nanochat"])
def test_an_adapted_model_starts_as_it_was_and_merges_into_a_plain_one(layout, decomposed, tied):
    model, plain = model_of(layout, tied=tied), model_of(layout, tied=tied)
    plain.load_state_dict(model.state_dict())
    before = plain.logits(plain(TOKENS))
    names = {name for name, _ in plain.named_parameters()}
    add_lora(model, Lora(4, 8.0, BLOCKS if decomposed else ALL, decomposed=decomposed), seed=0)
    torch.testing.assert_close(model.logits(model(TOKENS)), before, rtol=0, atol=1e-6)
    assert trained(model).isdisjoint(names)

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = 0.1 * torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.abs() if name.endswith("magnitude") else noise)
    after = model.logits(model(TOKENS))
    assert (after - before).abs().max() > 0.05
    weights = merged(dict(model.named_parameters()), model.lora)
    assert weights.keys() == names
    plain.load_state_dict(weights)
    torch.testing.assert_close(plain.logits(plain(TOKENS)), after, rtol=0, atol=2e-5)


def test_a_row_of_zeros_is_trained_like_any_other():
    model = model_of()
    for block in model.blocks:
        nn.init.zeros_(block.feed_forward.down.weight)
    add_lora(model, Lora(4, 8.0, BLOCKS, decomposed=True), seed=0)
    model(TOKENS).square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name
    weights = merged(dict(model.named_parameters()), model.lora)
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_rounded_once_or_in_each_product_is_the_same():
    whole, rounded = model_of(), model_of()
    rounded.load_state_dict(whole.state_dict())
    original = whole.blocks[1].feed_forward.up.weight.detach().clone()
    add_lora(whole, Lora(4, 8.0, ALL), seed=0)
    add_lora(rounded, Lora(4, 8.0, ALL), seed=0, dtype=torch.bfloat16)
    weight = rounded.blocks[1].feed_forward.up.weight
    assert weight.dtype == torch.bfloat16
    for model in (whole, rounded):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(TOKENS).square().sum().backward()
    for one, two in zip(whole.parameters(), rounded.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None:
            assert torch.equal(one.grad, two.grad)
    plain = merged(dict(rounded.named_parameters()), rounded.lora, rounded.adapted_weights)
    assert torch.equal(plain["blocks.1.feed_forward.up.weight"], original)
    torch.testing.assert_close(rounded(TOKENS), whole(TOKENS), rtol=0, atol=0.1)


def test_what_an_adapter_adds_to_a_matrix_by_hand():
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    adapted = LoraLinear(layer, Lora(1, 3.0, ALL), torch.Generator())
    adapted.lora_a.data = torch.tensor([[1.0, 1.0, 1.0]])
    adapted.lora_b.data = torch.tensor([[1.0], [-1.0]])
    # W + 3 B A = [[4, 3, 3], [-3, -1, -3]]
    assert adapted(torch.tensor([1.0, 10.0, 100.0])).tolist() == [334.0, -313.0]
    assert Lora(4, 8.0, ALL).scale == 2.0
    assert Lora(4, 8.0, ALL, rank_stabilised=True).scale == 4.0


def test_only_the_matrices_asked_for_are_adapted():
    model = model_of(num_labels=3)
    add_lora(model, Lora(4, 8.0, ("query", "up")), seed=0)
    expected = {
        f"blocks.{block}.{matrix}.lora_{part}"
        for block in (0, 1)
        for matrix in ("attention.query", "feed_forward.up")
        for part in ("a", "b")
    }
    assert trained(model) == expected | {"head.weight"}


# PEFT asks transformers for an attribute by its former name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("tied", [False, True])
def test_peft_adapts_embedding_and_output_matrix_as_we_do(tied, tmp_path):
    model = model_of(tied=tied)
    disk = config_to_disk(model.config, end_id=0, pad_id=1, labels=None)
    theirs = Qwen3ForCausalLM(Qwen3Config(**disk))
    plain = dict(model.named_parameters())
    theirs.load_state_dict(
        {disk_name(n, layout="qwen3", classifier=False): p.clone() for n, p in plain.items()},
        strict=not tied,
    )
    add_lora(model, Lora(4, 8.0, ("query", "embedding")), seed=0)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name in trained(model):
            nn.init.normal_(weights[name], std=0.3)
        logits = model.logits(model(TOKENS))
        stored = to_peft(weights, model.config)
        save_file(
            {n: t.detach() for n, t in stored.items()}, tmp_path / "adapter_model.safetensors"
        )
        description = peft_config(model.lora, model.config, "base")
        (tmp_path / "adapter_config.json").write_text(json.dumps(description), encoding="utf-8")
        adapted = PeftModel.from_pretrained(theirs, tmp_path).eval()
        torch.testing.assert_close(adapted(TOKENS).logits, logits, rtol=0, atol=2e-5)
    back = from_peft(stored, list(weights), model.config)
    assert back.keys() == trained(model)
    assert all(torch.equal(back[name], weights[name]) for name in back)


def test_names_in_peft():
    config = model_of(num_labels=3).config
    assert peft_name("blocks.1.feed_forward.gate.lora_a", config) == (
        "base_model.model.model.layers.1.mlp.gate_proj.lora_A.weight"
    )
    assert peft_name("blocks.0.attention.key.magnitude", config) == (
        "base_model.model.model.layers.0.self_attn.k_proj.lora_magnitude_vector"
    )
    assert peft_name("head.weight", config) == "base_model.model.score.weight"


def test_the_same_seed_draws_the_same():
    drawn = []
    for seed in (0, 0, 1):
        model = model_of()
        add_lora(model, Lora(4, 8.0, ALL), seed=seed)
        drawn.append(model.blocks[0].attention.query.lora_a.detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_adapters_of_rank_one_can_be_saved():
    """Their transposed is contiguous as it is, and safetensors takes no shared memory."""
    model = model_of()
    add_lora(model, Lora(1, 2.0, ("embedding",)), seed=0)
    assert save(
        {n: t.detach() for n, t in to_peft(dict(model.named_parameters()), model.config).items()}
    )

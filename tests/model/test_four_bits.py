"""Adapters beside matrices in 4 bits: what is computed, merged, generated and counted."""

import sys

import pytest
import torch

from llmstages.errors import UserError
from llmstages.model.decoding import Decoder
from llmstages.model.four_bits import is_in_four_bits, require_bitsandbytes
from llmstages.model.lora import Lora, add_lora, is_adapter, merged
from llmstages.model.transformer import Transformer
from llmstages.train.memory import matrix_parameters, memory_needed

TOKENS = torch.tensor([[5, 17, 80, 3, 9, 12]])


def test_the_library_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install 'llmstages\[qlora\]'"):
        require_bitsandbytes()


@pytest.mark.parametrize("decomposed", [False, True])
def test_merged_and_decoded_as_it_computes(decomposed, random_model):
    pytest.importorskip("bitsandbytes")
    base, model = random_model(), random_model()
    model.load_state_dict(base.state_dict())
    lora = Lora(4, 8.0, ("query", "gate", "down"), decomposed=decomposed, quantised=True)
    add_lora(model, lora, seed=0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if is_adapter(name)}
    plain = Transformer(base.config).eval()
    names = {name for name, _ in plain.named_parameters()}

    def merged_logits():
        weights = merged(dict(model.named_parameters()), lora, model.adapted_weights)
        assert weights.keys() == names
        plain.load_state_dict(weights)
        return plain.logits(plain(TOKENS))

    with torch.no_grad():
        begin = model.logits(model(TOKENS))
        torch.testing.assert_close(merged_logits(), begin, rtol=0, atol=1e-4)
        for name, was in base.named_parameters():  # 4 bits in the blocks, nothing else changed
            error = (dict(plain.named_parameters())[name] - was).norm() / was.norm()
            quantised = name.startswith("blocks.") and was.dim() == 2
            assert 0.05 < error < 0.15 if quantised else error == 0, name
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        logits = model.logits(model(TOKENS))
        assert (logits - begin).abs().max() > 0.1
        torch.testing.assert_close(merged_logits(), logits, rtol=0, atol=1e-4)

    decoder = Decoder(model)
    cache = decoder.empty_cache([5], 6)
    found = [decoder.read(cache, TOKENS[:, :5].tolist()), decoder.step(cache, TOKENS[0, 5:])]
    torch.testing.assert_close(torch.cat(found), logits[0, -2:], rtol=0, atol=1e-4)


def test_gradients_in_bfloat16_are_those_of_the_merged_model(random_model):
    pytest.importorskip("bitsandbytes")
    model = random_model()
    lora = Lora(4, 8.0, ("up",), quantised=True)
    add_lora(model, lora, seed=0, dtype=torch.bfloat16)
    plain = Transformer(model.config)
    plain.load_state_dict(merged(dict(model.named_parameters()), lora, model.adapted_weights))
    add_lora(plain, Lora(4, 8.0, ("up",)), seed=0)
    for each in (model, plain):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            each(TOKENS).square().sum().backward()
    ours, theirs = (each.blocks[0].feed_forward.up.lora_b.grad for each in (model, plain))
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * float(theirs.abs().max()))


def test_the_bytes_that_are_counted_are_those_held(random_model):
    pytest.importorskip("bitsandbytes")
    model = random_model(hidden_size=256, intermediate_size=512)
    add_lora(model, Lora(4, 8.0, ("query",), quantised=True), seed=0)
    held, matrices = 0, 0
    for parameter in model.parameters():
        held += parameter.nbytes
        if is_in_four_bits(parameter):
            state = parameter.quant_state
            held += state.absmax.nbytes + state.state2.absmax.nbytes
            matrices += 1
    c = model.config
    assert matrices == 7 * c.num_layers
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    needed = memory_needed(
        c,
        rows=1,
        length=16,
        dtype=torch.float32,
        checkpoint_blocks=False,
        adapters=adapters,
        quantised=True,
    )
    assert needed.weights == pytest.approx(held + 4 * 256 * 512, rel=1e-3)
    assert held < 4 * matrix_parameters(c)

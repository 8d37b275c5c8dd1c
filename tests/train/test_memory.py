"""The estimate of a step's memory, the micro-batch that fits, and blocks computed twice."""

import pytest
import torch
from torch.nn import functional as F

from llmstages.errors import UserError
from llmstages.model import transformer
from llmstages.model.counts import num_parameters
from llmstages.model.layouts import LAYOUTS
from llmstages.model.transformer import Block, RotaryTable, Transformer, TransformerConfig
from llmstages.train.losses import dense_loss
from llmstages.train.memory import (
    USABLE_SHARE,
    MicroBatch,
    blank_batch,
    block_bytes_per_token,
    checkpoint_blocks_here,
    fit_micro_batch,
    matrix_parameters,
    memory_needed,
    runs_through,
)

CPU = torch.device("cpu")
SHAPE = TransformerConfig(
    vocab_size=96,
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    intermediate_size=160,
    context_length=64,
)
XL = TransformerConfig(
    vocab_size=50_304,
    num_layers=24,
    hidden_size=2048,
    num_heads=16,
    num_kv_heads=16,
    head_dim=128,
    intermediate_size=5504,
    context_length=2048,
)
"""model=xl with the vocabulary of GPT-2: 1.3 billion parameters."""


def made(seed=0):
    model = Transformer(SHAPE)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return model


def test_the_parts_by_hand():
    needed = memory_needed(
        SHAPE, rows=3, length=64, dtype=torch.float32, checkpoint_blocks=False, optimizer="adamw"
    )
    parameters = 96 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 160 + 2 * 64 + 2 * 16) + 64
    assert num_parameters(SHAPE) == parameters
    assert needed.weights == needed.gradients == 4 * parameters
    assert needed.optimizer == 8 * parameters
    assert needed.logits == 3 * 64 * 96 * 3 * 4  # one chunk
    stream = 3 * 64 * 64 * 4
    assert needed.activations == 2 * 3 * 64 * block_bytes_per_token(SHAPE, torch.float32) + (
        2 * stream
    )


EIGHT_BILLION = TransformerConfig(
    vocab_size=151_936,
    num_layers=36,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=12_288,
    context_length=2048,
    tie_embeddings=False,
)
"""The shape of Qwen3-8B, at 2,048 tokens."""


def test_adapters_beside_eight_billion_parameters_fit_a_card_of_24_gb():
    """By the count; not measured."""
    assert num_parameters(EIGHT_BILLION) == pytest.approx(8.19e9, rel=1e-3)
    c = EIGHT_BILLION
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    sides = [(c.hidden_size, q), *[(c.hidden_size, kv)] * 2, (q, c.hidden_size)]
    sides += [(c.hidden_size, c.intermediate_size)] * 3
    adapters = 16 * c.num_layers * sum(a + b for a, b in sides)
    settings = {"length": 2048, "dtype": torch.bfloat16, "rows": 1, "adapters": adapters}
    usable = USABLE_SHARE * 24 * 2**30
    again = memory_needed(c, checkpoint_blocks=True, **settings)
    assert again.weights / 2**30 == pytest.approx(18.9, abs=0.05)
    assert again.total < usable
    assert memory_needed(c, checkpoint_blocks=False, **settings).total > usable
    in_four_bits = memory_needed(c, checkpoint_blocks=True, quantised=True, **settings)
    assert in_four_bits.weights / 2**30 == pytest.approx(9.4, abs=0.05)
    assert in_four_bits.total / 2**30 == pytest.approx(12.2, abs=0.05)


def test_what_the_page_on_recipes_says_of_24_gb():
    """All weights of Qwen3-0.6B, adapters beside SmolLM2-1.7B; AdamW, a row of 2,048 tokens."""
    settings = {"length": 2048, "dtype": torch.bfloat16, "rows": 1, "checkpoint_blocks": False}
    qwen = TransformerConfig(151_936, 28, 1024, 16, 8, 128, 3072, 2048)
    whole = memory_needed(qwen, optimizer="adamw", **settings)
    kept = whole.weights + whole.gradients + whole.optimizer
    assert kept / num_parameters(qwen) == pytest.approx(18, abs=0.01)
    assert [round(part / 2**30, 1) for part in (kept, whole.total - kept)] == [10.0, 5.3]
    smol = TransformerConfig(49_152, 24, 2048, 32, 32, 64, 8192, 2048, query_key_norm=None)
    beside = memory_needed(smol, optimizer="adamw", adapters=18_087_936, **settings)
    assert [round(part / 2**30, 1) for part in (beside.weights, beside.total)] == [3.6, 9.7]


def test_the_parts_of_adapters_by_hand():
    adapted, whole = (
        memory_needed(
            SHAPE,
            rows=1,
            length=64,
            dtype=torch.bfloat16,
            checkpoint_blocks=False,
            optimizer="adamw",
            adapters=adapters,
        )
        for adapters in (1000, 0)
    )
    matrices = matrix_parameters(SHAPE)
    assert whole.weights - adapted.weights == 4 * matrices - 4 * 1000
    assert (adapted.gradients, adapted.optimizer) == (4000, 8000)
    assert adapted.activations == whole.activations
    head = memory_needed(
        SHAPE,
        rows=1,
        length=64,
        dtype=torch.bfloat16,
        checkpoint_blocks=False,
        adapters=1000,
        adapted_head=True,
    )
    assert head.logits - adapted.logits == 2 * 4 * 96 * 64  # the sum of both, and its gradient


def test_muon_bf16_and_checkpointing_by_part():
    plain, under_muon, checkpointed = (
        memory_needed(SHAPE, rows=1, length=64, dtype=dtype, checkpoint_blocks=on, optimizer=name)
        for dtype, on, name in (
            (torch.bfloat16, False, "adamw"),
            (torch.bfloat16, False, "muon"),
            (torch.bfloat16, True, "muon"),
        )
    )
    matrices = sum(p.numel() for p in made().blocks.parameters() if p.dim() == 2)
    assert matrix_parameters(SHAPE) == matrices
    assert plain.optimizer - under_muon.optimizer == 4 * matrices
    assert plain.weights == 4 * num_parameters(SHAPE) + 2 * (matrices + 96 * 64)
    kept = under_muon.weights + under_muon.gradients + under_muon.optimizer
    assert plain.step == 0
    assert under_muon.step == 5 * 4 * matrices  # more than the activations of so small a model
    assert under_muon.total == checkpointed.total == kept + under_muon.step
    assert plain.total == kept + 4 * matrices + plain.activations + plain.logits
    assert checkpointed.activations < under_muon.activations


def fused_attention(query, key, value, mask, chosen):
    """The kernel that is taken on a GPU, which keeps no scores."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_block_keeps_is_what_autograd_keeps(kv_heads, dtype, layout, monkeypatch):
    monkeypatch.setattr(transformer, "attention", fused_attention)
    shape = {**vars(SHAPE), **LAYOUTS[layout].switches, "num_kv_heads": kv_heads}
    config = TransformerConfig(**shape)
    block, rotary = Block(config), RotaryTable(config)
    tables = rotary(None, 64)
    x = torch.randn(2, 64, 64, requires_grad=True)
    weights = {p.data_ptr() for p in [*block.parameters(), *tables]}
    matrices = {shape for p in block.parameters() for shape in (p.shape, p.t().shape)}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        constant = tensor.data_ptr() in weights or tensor.numel() < 2 * 64 * 4
        if not constant and tensor.shape not in matrices:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32),
    ):
        out = block(x, tables, None)
    out.sum().backward()
    estimate = 2 * 64 * block_bytes_per_token(config, dtype)
    assert sum(kept.values()) == pytest.approx(estimate, rel=0.1)


def test_a_billion_parameters_in_24_gb():
    """1.3 billion parameters at 2,048 tokens, Muon, bf16: what the page on memory says."""
    card = 0.92 * 24 * 2**30
    settings = {"length": 2048, "dtype": torch.bfloat16}
    assert num_parameters(XL) > 1.3e9
    assert memory_needed(XL, rows=1, checkpoint_blocks=False, **settings).total > card
    assert memory_needed(XL, rows=4, checkpoint_blocks=True, **settings).total < card
    assert memory_needed(XL, rows=8, checkpoint_blocks=True, **settings).total > card
    assert memory_needed(XL, rows=4, checkpoint_blocks=True, **settings).total == pytest.approx(
        21.8 * 2**30, rel=0.01
    )


@pytest.mark.parametrize(
    ("room", "setting", "expected"),
    [
        (100, "auto", MicroBatch(16, False)),
        (100, "on", MicroBatch(16, True)),
        (39, "auto", MicroBatch(2, False)),
        (39, "on", MicroBatch(16, True)),
        (9, "auto", MicroBatch(4, True)),  # a row takes 10, computed again 2
        (2, "auto", MicroBatch(1, True)),
    ],
)
def test_the_largest_power_of_two_that_fits(room, setting, expected):
    tried = []

    def fits(micro_batch):
        tried.append(micro_batch)
        return micro_batch.rows * (2 if micro_batch.checkpoint_blocks else 10) <= (
            room if room < 100 else 1000
        )

    assert fit_micro_batch(fits, 20, setting) == expected
    assert tried[0].rows == 16
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize(("room", "setting"), [(1, "auto"), (9, "off")])
def test_nothing_fits(room, setting):
    with pytest.raises(UserError, match="not even one row") as refused:
        fit_micro_batch(lambda m: m.rows * (2 if m.checkpoint_blocks else 10) <= room, 20, setting)
    assert ("activation_checkpointing=auto" in str(refused.value)) == (setting == "off")


def test_trying_leaves_the_model_as_it_was():
    model = made().eval()
    seen = []

    def too_large(model, batch):
        seen.append((model.training, model.checkpoint_blocks, tuple(batch.tokens.shape)))
        raise torch.OutOfMemoryError

    arguments = (CPU, torch.float32, 8, MicroBatch(2, True), 100)
    assert runs_through(model, dense_loss, *arguments)
    assert not runs_through(model, too_large, *arguments)
    assert seen == [(True, True, (2, 8))]
    assert not model.training
    assert not model.checkpoint_blocks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_auto_leaves_a_cpu_alone():
    for setting, expected in (("on", True), ("off", False), ("auto", False)):
        found = checkpoint_blocks_here(
            setting, XL, CPU, torch.bfloat16, tokens=10**7, optimizer="muon"
        )
        assert found == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_computed_again_give_the_same_gradients(dtype):
    batch = blank_batch(3, 40)
    batch.tokens.random_(0, 96, generator=torch.Generator().manual_seed(1))
    batch.targets.random_(0, 96, generator=torch.Generator().manual_seed(2))
    results, calls = [], []
    for on in (False, True):
        model = made()
        model.checkpoint_blocks = on
        calls.append([])
        model.blocks[0].register_forward_pre_hook(lambda *_: calls[-1].append(1))
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss, _ = dense_loss(model, batch)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert calls == [[1], [1, 1]]
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_blocks_are_not_computed_again_in_evaluation():
    model = made().eval()
    model.checkpoint_blocks = True
    hidden = model(torch.zeros(1, 4, dtype=torch.int64))
    assert "Checkpoint" not in type(hidden.grad_fn).__name__
    torch.testing.assert_close(hidden, made()(torch.zeros(1, 4, dtype=torch.int64)))

"""The instruments: shapes, equal batches, a peer's step, ratios at equal FLOPs."""

import pytest
import torch

from llmstages.data.streams import stack_rows
from llmstages.errors import UserError
from llmstages.model.counts import flops_per_token, num_parameters
from llmstages.model.transformer import TransformerConfig

SHAPE = TransformerConfig(
    vocab_size=50,
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=64,
    context_length=16,
)


@pytest.fixture
def order():
    """order(rows per micro-batch): 4 rows of 16 tokens a step, on the CPU in float32."""
    from bench_pretrain import RandomRows
    from contestants.contestant import Order

    def make(rows_per_micro_batch=4, **more):
        rows = RandomRows(50, 16, 4, rows_per_micro_batch)
        return Order(SHAPE, rows, torch.device("cpu"), torch.float32, False, **more)

    return make


def test_the_reference_shape():
    from bench_pretrain import parse_shape

    shape = parse_shape("reference", 8192, None)
    assert (shape.hidden_size, shape.num_layers, shape.context_length) == (384, 6, 256)
    assert (shape.num_heads, shape.num_kv_heads, shape.head_dim) == (6, 6, 64)
    # 12 width^2 a block, as many as a block with a four-fold feed-forward layer and no gate
    norms = 6 * (2 * 384 + 2 * 64) + 384
    assert num_parameters(shape) == 8192 * 384 + 6 * 12 * 384**2 + norms


def test_shapes_of_the_command_line():
    from bench_pretrain import parse_shape

    shape = parse_shape("nano,context_length=64,vocab_size=100", 8192, None)
    assert (shape.hidden_size, shape.context_length, shape.vocab_size) == (128, 64, 100)
    assert parse_shape("nano", 8192, 32).context_length == 32
    with pytest.raises(UserError, match="hidden_sise"):
        parse_shape("hidden_sise=3", 8192, None)
    with pytest.raises(UserError, match="huge: no size of conf/model"):
        parse_shape("huge", 8192, None)


def test_every_contestant_gets_the_same_batches():
    from bench_pretrain import RandomRows

    whole, parts = RandomRows(50, 16, 4, 4), RandomRows(50, 16, 4, 3)

    def tokens(rows, step):
        return torch.cat([batch.tokens for batch in rows.micro_batches(step)])

    assert torch.equal(tokens(whole, 3), tokens(parts, 3))
    assert not torch.equal(tokens(whole, 3), tokens(whole, 4))
    assert [len(batch.tokens) for batch in parts.micro_batches(0)] == [3, 1]
    (batch,) = whole.micro_batches(0)
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])


def test_whose_checkout_it_is(checkout, broken_checkout, tmp_path):
    from contestants.opening import peer_name

    assert peer_name(str(checkout)) == "nanoGPT"
    assert peer_name(str(broken_checkout)) == "nanochat"
    assert peer_name("transformers") == "transformers"
    with pytest.raises(UserError, match="no checkout of nanoGPT"):
        peer_name(str(tmp_path))


def test_a_peers_step_does_not_depend_on_how_it_is_cut(checkout, order):
    from contestants.opening import open_peer

    weights = []
    for rows in (4, 3):
        peer = open_peer(str(checkout), order(rows, lr_factor=500.0))
        before = peer.module.transformer.wte.weight.detach().clone()
        loss = peer.optimizer_step(50, 100)
        weights.append((loss, peer.module.transformer.wte.weight.detach().clone()))
        assert not torch.equal(before, weights[-1][1])
    assert weights[0][0] == pytest.approx(weights[1][0], rel=1e-5)
    assert torch.allclose(weights[0][1], weights[1][1], atol=1e-5)


def test_a_peer_is_evaluated_without_padding(checkout, order):
    from contestants.opening import open_peer

    peer = open_peer(str(checkout), order())
    ids = torch.arange(17).numpy()
    rows = [(ids, "long"), (ids[:5], "short")]
    with torch.inference_mode():
        total, count = peer.loss_sum(stack_rows(rows))
        apart = [peer.loss_sum(stack_rows([row])) for row in rows]
    assert int(count) == 16 + 4
    assert float(total) == pytest.approx(sum(float(part) for part, _ in apart), rel=1e-5)


def test_flops_of_a_peer(checkout, order):
    from contestants.opening import open_peer

    peer = open_peer(str(checkout), order())
    assert peer.num_parameters == 50 * 32 + 16 * 32
    assert peer.num_matrix_parameters == 50 * 32  # positions are only looked up
    assert peer.flops_per_token == 6 * 50 * 32 + 12 * 2 * 32 * 16


def test_transformers_own_model_has_the_same_shape(order):
    from contestants.opening import open_peer

    peer = open_peer("transformers", order())
    assert peer.num_parameters == num_parameters(SHAPE)
    assert peer.flops_per_token == flops_per_token(SHAPE, 16)
    (batch,) = order().data.micro_batches(0)
    with torch.inference_mode():
        logits = peer.module(input_ids=batch.tokens).logits
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        assert float(peer.mean_loss(batch.tokens, batch.targets)) == pytest.approx(float(expected))
    assert peer.optimizer_step(0, 10) == pytest.approx(float(expected), rel=1e-4)


def test_the_loops_own_step_is_measured(order):
    from contestants.ours import Ours

    ours = Ours(order(2), "muon")
    losses = [ours.optimizer_step(0, 10) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.01  # on one batch, again and again
    assert ours.flops_per_token == flops_per_token(SHAPE, 16)


def test_ratios_are_at_equal_flops_and_within_a_round():
    from bench_pretrain import finish

    def row(who, flops, rounds, **more):
        return {
            "shape_name": "nano",
            "mode": "eager",
            "who": who,
            "flops_per_token": flops,
            "rounds": rounds,
            **more,
        }

    ours = row("llmstages", 30.0, [100.0, 50.0, 90.0])
    peer = row("nanoGPT", 20.0, [50.0, 25.0, 30.0])
    failed = row("litgpt", 20.0, [], error="no module")
    finish([ours, peer, failed], 5400.0, 10_800.0)
    assert ours["tokens_per_second"] == {"median": 90.0, "min": 50.0, "max": 100.0}
    assert (ours["mfu"], ours["share_of_ceiling"]) == (0.25, 0.5)
    assert peer["ours_over_peer_tokens"] == {"median": 2.0, "min": 2.0, "max": 3.0}
    assert peer["ours_over_peer_flops"] == {"median": 3.0, "min": 3.0, "max": 4.5}
    assert "tokens_per_second" not in failed
    assert "ours_over_peer_flops" not in ours

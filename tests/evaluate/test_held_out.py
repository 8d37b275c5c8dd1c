"""Held-out text: what is counted, exactly, in all and by source."""

import math

import numpy as np
import pytest
import torch

from llmstages.evaluate.held_out import held_out_metrics
from llmstages.model.transformer import Transformer, TransformerConfig

VOCAB_SIZE = 32
BITS = math.log2(VOCAB_SIZE)


def model(uniform=False):
    made = Transformer(TransformerConfig(VOCAB_SIZE, 2, 16, 2, 1, 8, 16, 8))
    generator = torch.Generator().manual_seed(0)
    made.initialize(generator)
    with torch.no_grad():
        for block in made.blocks:  # zero at first, and then attention would change nothing
            block.attention.output.weight.normal_(std=0.5, generator=generator)
        if uniform:
            made.embedding.weight.zero_()  # every logit is 0
    return made


def documents(*lengths, seed=0):
    """Random documents, each followed by the end token 0."""
    rng = np.random.default_rng(seed)
    return np.concatenate([np.append(rng.integers(1, VOCAB_SIZE, n), 0) for n in lengths])


def measure(made, shards, **settings):
    defaults = {
        "context_length": 8,
        "rows_per_batch": 4,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }
    return held_out_metrics(made, shards, **{**defaults, **settings})


def test_a_uniform_model_is_measured_exactly(make_shard):
    shards = [
        make_shard(documents(50, 3, 40), "a", num_bytes=310),
        make_shard(documents(20), "b", num_bytes=45),
    ]
    # All tokens but the first of each source and the end tokens.
    found = measure(model(uniform=True), shards)
    assert found == pytest.approx(
        {
            "val_loss": math.log(VOCAB_SIZE),
            "val_bits_per_byte": (92 + 19) * BITS / (310 + 45),
            "val_bits_per_byte/a": 92 * BITS / 310,
            "val_bits_per_byte/b": 19 * BITS / 45,
        },
        rel=1e-6,
    )
    assert set(measure(model(), shards[:1])) == {"val_loss", "val_bits_per_byte"}


def test_a_sample_takes_the_mean_bytes_of_its_source(make_shard):
    shards = [
        make_shard(documents(400), "a", num_bytes=399),
        make_shard(documents(400, seed=1), "b", num_bytes=3 * 399),
    ]
    found = measure(model(uniform=True), shards, max_tokens=96)
    assert found["val_bits_per_byte/a"] == pytest.approx(BITS)
    assert found["val_bits_per_byte/b"] == pytest.approx(BITS / 3)
    assert found["val_bits_per_byte"] == pytest.approx(BITS / 2)


def test_sources_add_up_and_batches_do_not_matter(make_shard):
    shards = [
        make_shard(documents(*[13] * 9), "a", num_bytes=500),
        make_shard(documents(90, seed=1), "b", num_bytes=100),
    ]
    made = model()
    found = measure(made, shards)
    for rows in (1, 64):
        assert measure(made, shards, rows_per_batch=rows) == pytest.approx(found, abs=1e-5)
    bits = 500 * found["val_bits_per_byte/a"] + 100 * found["val_bits_per_byte/b"]
    assert found["val_bits_per_byte"] == pytest.approx(bits / 600)
    assert found["val_loss"] == pytest.approx(bits * math.log(2) / (9 * 13 - 1 + 89))
    (alone,) = [measure(made, shards[:1])["val_bits_per_byte"]]
    assert alone == pytest.approx(found["val_bits_per_byte/a"])


def test_each_window_is_read_by_itself(make_shard):
    ids = documents(30)
    shard = make_shard(ids, num_bytes=1)
    made = model()
    nats = 0.0
    for begin in range(0, 30, 8):
        window = torch.from_numpy(ids[begin : begin + 9].astype(np.int64))
        logits = made.logits(made(window[None, :-1]))[0].detach()
        losses = torch.nn.functional.cross_entropy(logits, window[1:], reduction="none")
        nats += float(losses[window[1:] != 0].sum())
    assert measure(made, [shard])["val_loss"] == pytest.approx(nats / 29, rel=1e-5)


def test_masked_documents_are_read_each_by_itself(make_shard):
    first, second = documents(5), documents(9, seed=1)
    other = documents(5, seed=2)
    made = model()

    def of_second(before, mask):
        """Nats of both documents less those of the first alone."""
        settings = {"context_length": 16, "mask_documents": mask}
        both = measure(made, [make_shard(np.append(before, second))], **settings)["val_loss"] * 13
        return both - measure(made, [make_shard(before)], **settings)["val_loss"] * 4

    made.rotary = Transformer(TransformerConfig(VOCAB_SIZE, 1, 16, 2, 1, 8, 16, 16)).rotary
    assert of_second(first, True) == pytest.approx(of_second(other, True), abs=1e-4)
    assert abs(of_second(first, False) - of_second(other, False)) > 0.01

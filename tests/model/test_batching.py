"""Texts that join and leave a batch are continued as they are alone."""

import torch

from llmstages.model import batching
from llmstages.model.batching import Batch, Row
from llmstages.model.decoding import Decoder
from llmstages.model.generation import Sampling, draws, generate, seeded

SAMPLINGS = [Sampling(0.0), Sampling(0.9), Sampling(1.0, top_k=5), Sampling(0.7, top_p=0.9)]


def test_each_row_is_what_generate_gives_whoever_else_is_there(random_model, monkeypatch):
    monkeypatch.setattr(batching, "ROOM", 3)  # the cache is used up again and again
    decoder = Decoder(random_model())
    source = torch.Generator().manual_seed(3)
    rows, expected = [], []
    for number in range(24):
        length, limit = 1 + number * 7 % 11, 1 + number * 5 % 17
        prompt = torch.randint(0, 96, (length,), generator=source).tolist()
        if number % 4 == 3:
            prompt = list(rows[-1].prompt)  # joins together with its equal
        sampling = SAMPLINGS[number % 4]
        chances = draws([seeded(number)], 1, limit)[0].tolist()
        rows.append(Row(tuple(prompt), limit, sampling, chances))
        (alone,) = generate(
            decoder,
            [prompt],
            max_new_tokens=limit,
            stop_ids=[],
            sampling=sampling,
            generator=[seeded(number)],
        )
        expected.append(alone.tokens)
    batch, waiting, leaving, sizes = Batch(decoder), list(rows), set(), []
    while waiting or len(batch) > len(leaving):
        joining, waiting = waiting[: len(sizes) % 4], waiting[len(sizes) % 4 :]
        batch.advance(leaving, joining)
        leaving = {row for row in batch.rows if len(row.tokens) == row.limit}
        sizes.append(len(batch))
    assert max(sizes) > 8
    assert [row.tokens for row in rows] == expected
    batch.advance(leaving, [])
    assert len(batch) == 0

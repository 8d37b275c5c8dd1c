"""A conversation from messages to a packed batch, every number written down; packing changes none.

The tokenizer has one id a character, so that ids are what one reads.
"""

import dataclasses

import pytest
import torch

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.data.batch import IGNORED
from llmstages.data.examples import Example, conversation_example, make_batch
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.text.chat import Message, render
from llmstages.text.tokenizer import Tokenizer, train_tokenizer
from llmstages.train.losses import sparse_loss

TWO_TURNS = [
    Message("system", "s"),
    Message("user", "a"),
    Message("assistant", "b"),
    Message("user", "c"),
    Message("assistant", "de"),
]
MODEL = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "context_length": 256,
}
START, END = "<|im_start|>", "<|im_end|>"
# What is read, and beside it whether it is learnt.
BY_HAND = [
    *((START, 0), *((c, 0) for c in "system\ns"), (END, 0), ("\n", 0)),
    *((START, 0), *((c, 0) for c in "user\na"), (END, 0), ("\n", 0)),
    *((START, 0), *((c, 0) for c in "assistant\n"), ("b", 1), (END, 1), ("\n", 0)),
    *((START, 0), *((c, 0) for c in "user\nc"), (END, 0), ("\n", 0)),
    *((START, 0), *((c, 0) for c in "assistant\n"), ("d", 1), ("e", 1), (END, 1), ("\n", 0)),
]


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    """One id for each character."""
    config = TokenizerConfig(kind="char", vocab_size=300)
    return train_tokenizer(["system user assistant\n abcde"] * 10, config)


def example_of(messages: list[Message], tokenizer: Tokenizer, context: int = 200) -> Example:
    made = conversation_example(*render(messages, tokenizer), context, "x")
    assert made is not None
    return made


def test_several_turns_packed_twice_in_one_row(characters: Tokenizer) -> None:
    ids, learnt = render(TWO_TURNS, characters)
    assert [
        (characters.token_text(id), int(flag)) for id, flag in zip(ids, learnt, strict=True)
    ] == BY_HAND
    example = example_of(TWO_TURNS, characters)
    length = len(BY_HAND) - 1
    assert length == 57
    assert example.tokens == ids[:-1]
    # Each learnt token is the target of the place before it: b and its end, then d, e and theirs.
    targets = {place: characters.token_text(t) for place, t in enumerate(example.targets) if t >= 0}
    assert targets == {30: "b", 31: END, 53: "d", 54: "e", 55: END}
    assert [ids[place + 1] for place in targets] == [example.targets[place] for place in targets]

    batch = make_batch([[example, example]], 130)
    padding = 130 - 2 * length
    assert batch.tokens.tolist() == [ids[:-1] * 2 + [0] * padding]
    assert batch.targets.tolist() == [example.targets * 2 + [IGNORED] * padding]
    assert batch.position_ids is not None
    assert batch.document_ids is not None
    assert batch.position_ids.tolist() == [[*range(length)] * 2 + [0] * padding]
    assert batch.document_ids.tolist() == [[0] * length + [1] * length + [-1] * padding]
    assert batch.weights.sum() == 10


def test_packed_training_is_unpacked_training(characters: Tokenizer) -> None:
    """The loss, and the gradient of every weight, whichever rows the examples stand in."""
    shapes = [TWO_TURNS, TWO_TURNS[1:3], TWO_TURNS[:3], TWO_TURNS[3:], TWO_TURNS[1:]]
    examples = [example_of(messages, characters) for messages in shapes]
    torch.manual_seed(0)
    config = TransformerConfig(**MODEL, vocab_size=characters.vocab_size)
    model = Transformer(config)
    with torch.no_grad():  # a new model's outputs are zero: nothing could differ
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)

    def trained(rows: list[list[Example]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        losses, weights = sparse_loss(model, make_batch(rows))
        loss = losses / weights
        loss.backward()
        return loss.detach(), {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }

    alone_loss, alone = trained([[example] for example in examples])
    packed = [[examples[0], examples[3], examples[1]], [examples[4], examples[2]]]
    packed_loss, together = trained(packed)
    assert alone_loss > 0.1
    assert alone.keys() == together.keys() == dict(model.named_parameters()).keys()
    torch.testing.assert_close(packed_loss, alone_loss, rtol=1e-5, atol=1e-5)
    for name, gradient in alone.items():
        assert gradient.abs().max() > 1e-4, name
        torch.testing.assert_close(together[name], gradient, rtol=1e-5, atol=1e-5, msg=name)

    # The test can fail: read through, as one document, the examples see each other.
    batch = dataclasses.replace(make_batch(packed), document_ids=None, position_ids=None)
    losses, weights = sparse_loss(model, batch)
    assert (losses / weights - alone_loss).abs() > 1e-3

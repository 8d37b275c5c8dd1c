"""Attention for training on a CPU against torch's own, forward and backward."""

import pytest
import torch
from torch.nn import functional as F

from llmstages.model.attention import MAX_BLOCKED_LENGTH, QUERY_BLOCK, BlockedAttention, attention
from llmstages.model.transformer import document_mask


def inputs(heads, kv_heads, length, dtype=torch.float64):
    generator = torch.Generator().manual_seed(length)

    def draw(count):
        x = torch.randn(2, length, count, 8, generator=generator, dtype=dtype)
        return x.transpose(1, 2).requires_grad_()

    return draw(heads), draw(kv_heads), draw(kv_heads)


def gradients(output, tensors):
    weights = torch.arange(output.numel(), dtype=output.dtype).view(output.shape).sin()
    return torch.autograd.grad((output * weights).sum(), tensors)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("length", [1, 5, QUERY_BLOCK, QUERY_BLOCK + 1, 2 * QUERY_BLOCK + 37])
@pytest.mark.parametrize("masked", ["no", "one row of documents", "both rows"])
def test_blocks_give_the_attention_and_gradients_of_torch(heads, kv_heads, length, masked):
    query, key, value = tensors = inputs(heads, kv_heads, length)
    mask = None
    if masked != "no":
        documents = torch.arange(length).div(QUERY_BLOCK * 0.7, rounding_mode="floor")
        other = documents * 0 if masked == "one row of documents" else torch.arange(length) // 5
        mask = document_mask(torch.stack((documents, other)))
    found = BlockedAttention.apply(query, key, value, mask)
    causal = torch.ones(length, length, dtype=torch.bool).tril() if mask is None else mask
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=causal, enable_gqa=True)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_which_kernel_is_used():
    query, key, value = inputs(2, 2, 6, torch.float32)
    assert type(attention(query, key, value, None).grad_fn).__name__ == "BlockedAttentionBackward"
    with torch.no_grad():
        without = attention(query, key, value, None)
    torch.testing.assert_close(attention(query, key, value, None), without)
    long = torch.zeros(1, 1, MAX_BLOCKED_LENGTH + 1, 2, requires_grad=True)
    assert "Blocked" not in type(attention(long, long, long, None).grad_fn).__name__


def test_a_single_query_sees_all_keys():
    query, key, value = inputs(2, 2, 6, torch.float32)
    with torch.no_grad():
        last = attention(query[:, :, -1:], key, value, None)
        torch.testing.assert_close(last, attention(query, key, value, None)[:, :, -1:])


def test_as_many_chosen_queries_as_there_are_keys():
    query, key, value = inputs(2, 2, QUERY_BLOCK + 9)
    order = torch.arange(QUERY_BLOCK + 9).flip(0)
    mask = document_mask(torch.zeros(2, QUERY_BLOCK + 9))
    found = attention(query[:, :, order], key, value, mask[:, :, order], chosen=True)
    torch.testing.assert_close(found, attention(query, key, value, mask)[:, :, order])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, at import
def test_it_compiles_in_one_piece():
    query, key, value = inputs(2, 2, 12)
    mask = document_mask(torch.tensor([[0] * 5 + [1] * 7, [0] * 12]))
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(query, key, value, mask), attention(query, key, value, mask)
    )

"""Causal attention: one function, and the kernel that is quickest for the device and the task.

On CUDA, and wherever no gradient is wanted, torch's `scaled_dot_product_attention`. For training on
a CPU that kernel is slow, its backward most of all, while plain matrix products run near the
processor's peak. There the scores of a block of queries against all keys up to its end are one
matrix product, so that most of what lies above the diagonal is never touched.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

QUERY_BLOCK = 128
"""Queries of a block: more waste products above the diagonal, fewer make the products small."""
MAX_BLOCKED_LENGTH = 2048
"""Longest sequence whose probabilities are kept for the backward pass; they grow as its square."""


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, chosen: bool = False
) -> Tensor:
    """Attention of query [B, heads, T, head_dim] to key and value [B, kv_heads, S, head_dim].

    mask: [B, 1, T, S], true where a query may see a key, never to a later one; None: causal, and
    for a single query everything. Several heads may share a key (grouped-query attention). chosen:
    the queries are of some positions of the keys', in any order. Returns [B, heads, T, head_dim].
    """
    length = query.shape[2]
    trains = torch.is_grad_enabled() and query.requires_grad
    is_square = length == key.shape[2] and not chosen
    if trains and is_square and query.device.type == "cpu" and length <= MAX_BLOCKED_LENGTH:
        blocked: Tensor = BlockedAttention.apply(query, key, value, mask)  # type: ignore[no-untyped-call]
        return blocked
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and length > 1,
        enable_gqa=query.shape[1] != key.shape[1],
    )


class BlockedAttention(torch.autograd.Function):
    """Causal attention of T queries to the same T positions, by blocks of queries."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Shapes as `attention`, with S = T; what a mask allows must be causal."""
        batch, heads, length, head_dim = query.shape
        kv_heads = key.shape[1]
        group = heads // kv_heads
        # The heads that share a key are rows of one product.
        query = (query * head_dim**-0.5).reshape(batch * kv_heads, group, length, head_dim)
        key = key.reshape(batch * kv_heads, length, head_dim)
        value = value.reshape(batch * kv_heads, length, head_dim)
        probabilities, outputs = [], []
        for begin in range(0, length, QUERY_BLOCK):
            end = min(begin + QUERY_BLOCK, length)
            first = 0 if mask is None else first_seen(mask[:, :, begin:end, :end])
            rows = query[:, :, begin:end].reshape(batch * kv_heads, -1, head_dim)
            scores = torch.bmm(rows, key[:, first:end].transpose(1, 2))
            by_head = scores.view(batch, kv_heads * group, end - begin, end - first)
            if mask is None:
                size = end - begin
                later = torch.ones(size, size, dtype=torch.bool).triu(1)
                by_head[:, :, :, begin:].masked_fill_(later, -math.inf)
            else:
                by_head.masked_fill_(~mask[:, :, begin:end, first:end], -math.inf)
            block = torch.softmax(scores, dim=-1)
            mixed = torch.bmm(block, value[:, first:end])
            outputs.append(mixed.view(batch * kv_heads, group, end - begin, head_dim))
            probabilities.append(block)
        ctx.save_for_backward(query, key, value, *probabilities)
        ctx.shape = (batch, heads, kv_heads)
        return torch.cat(outputs, dim=2).view(batch, heads, length, head_dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value; each block of probabilities is used once."""
        query, key, value, *probabilities = ctx.saved_tensors
        batch, heads, kv_heads = ctx.shape
        group, length, head_dim = query.shape[1:]
        gradient = gradient.reshape(query.shape)
        d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
        d_queries = []
        for block, begin in zip(probabilities, range(0, length, QUERY_BLOCK), strict=True):
            end = begin + block.shape[1] // group
            keys = slice(end - block.shape[2], end)
            rows = query[:, :, begin:end].reshape(batch * kv_heads, -1, head_dim)
            d_mixed = gradient[:, :, begin:end].reshape(rows.shape)
            d_value[:, keys] += torch.bmm(block.transpose(1, 2), d_mixed)
            d_block = torch.bmm(d_mixed, value[:, keys].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_block, block, -1, block.dtype)
            d_rows = torch.bmm(d_scores, key[:, keys])
            d_queries.append(d_rows.view(batch * kv_heads, group, end - begin, head_dim))
            d_key[:, keys] += torch.bmm(d_scores.transpose(1, 2), rows)
        d_query = torch.cat(d_queries, dim=2).mul_(head_dim**-0.5)
        return (
            d_query.view(batch, heads, length, head_dim),
            d_key.view(batch, kv_heads, length, head_dim),
            d_value.view(batch, kv_heads, length, head_dim),
            None,
        )


def first_seen(mask: Tensor) -> int:
    """The first key that any query of a mask [B, 1, T, S] sees: what lies before it is left out,
    most of it where many short documents share a row. A compiled step, whose shapes do not depend
    on what it reads, leaves nothing out."""
    if torch.compiler.is_compiling():
        return 0
    return int(mask.any(dim=2).any(dim=0).int().argmax())

"""Attention over the slots of a `KVCache`, for a flat batch of tokens of many sequences.

Registered with transformers' attention interface under `NAME`: a model that is told to use it calls `slot_attention`
from every attention layer, and its code stays as it is. Who attends to what is an `AttentionPlan`.
"""

from __future__ import annotations

import math
from contextvars import ContextVar

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from guidance_core.executors.torch.attention_plan import AttentionPlan, Group, Span, first_key

NAME = "slots"

current_plan: ContextVar[AttentionPlan] = ContextVar("attention_plan")
"""The plan of the forward pass that runs now. A context variable because not every model hands keyword arguments of
its own down to its attention layers."""


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend from the batch's tokens to their own sequences, as `current_plan` says.

    Args:
        module: the attention layer.
        query: ``[1, heads, tokens, head_dim]``.
        key: the layer's slab, ``[slots, kv_heads, max_len, head_dim]``.
        value: likewise.
        attention_mask: None; the plan says who sees what.
        scaling: of the scores; by default one over the root of the head dimension.
        sliding_window: how many positions a query sees, itself included; by default all before it.
        softcap: bounds the scores by ``softcap * tanh(scores / softcap)``.
        s_aux: ``[heads]``, attention sinks: a score per head that takes its share of the softmax and gives nothing.

    Returns:
        ``[1, tokens, heads, value_head_dim]``, and None for the weights.
    """
    plan = current_plan.get()
    heads, kv_heads = query.shape[1], key.shape[1]
    shared = heads // kv_heads
    queries = query[0].transpose(0, 1)
    if scaling is None:
        scaling = 1 / math.sqrt(query.shape[-1])
    products = softcap is None and s_aux is None and _is_half_on_cpu(query)
    outputs = []
    first = 0
    for group in plan.groups:
        q = _rows_of(group, queries[first : first + group.tokens], kv_heads)
        if products and q.shape[2] == 1:
            k, v = group.select(key, sliding_window), group.select(value, sliding_window)
            output = _attend_with_all_heads_at_once(q, k, v, group.bias(sliding_window, k.shape[2]), scaling)
        elif products:
            k, v = group.gather(key, sliding_window), group.gather(value, sliding_window)
            output = _attend_by_key_head(q, k, v, group.bias(sliding_window, k.shape[1]), scaling)
        else:
            k, v = group.select(key, sliding_window), group.select(value, sliding_window)
            mask = group.mask(sliding_window)
            mask = None if mask is None else mask[:, None, None].expand(-1, -1, shared, -1, -1).flatten(2, 3)
            sinks = None if s_aux is None else s_aux.view(kv_heads, shared, 1).repeat_interleave(group.queries, 1)
            output = _attend(q, k, v, mask, False, scaling, softcap, sinks)
        outputs.append(_tokens_of(group, output))
        first += group.tokens
    for chunk in plan.chunks:
        if products and _pays_by_key_head(chunk):
            group = plan.alone(chunk)
            q = _rows_of(group, queries[first : first + chunk.length], kv_heads)
            k, v = group.gather(key, sliding_window), group.gather(value, sliding_window)
            output = _attend_by_key_head(q, k, v, group.bias(sliding_window, k.shape[1]), scaling)
            outputs.append(_tokens_of(group, output))
            first += chunk.length
            continue
        # A batch of kv heads: those query heads that share one then do so without a copy of it.
        q = queries[first : first + chunk.length].reshape(chunk.length, kv_heads, shared, -1).permute(1, 2, 0, 3)
        seen = slice(first_key(chunk.start, sliding_window), chunk.end)
        k = key[chunk.slot, :, None, seen].expand(-1, shared, -1, -1)
        v = value[chunk.slot, :, None, seen].expand(-1, shared, -1, -1)
        mask = plan.chunk_mask(chunk, sliding_window)
        sinks = None if s_aux is None else s_aux.view(kv_heads, shared, 1, 1)
        output = _attend(q, k, v, mask, mask is None, scaling, softcap, sinks)
        outputs.append(output.flatten(0, 1).transpose(0, 1))
        first += chunk.length
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


def _rows_of(group: Group, tokens: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """A group's queries ``[tokens, heads, head_dim]`` as ``[rows, kv_heads, shared * queries, head_dim]``.

    So the tokens of a row that share a key head lie next to one another.
    """
    q = group.pad(tokens).view(group.rows, group.queries, kv_heads, -1, tokens.shape[-1])
    return q.permute(0, 2, 3, 1, 4).flatten(2, 3)


def _tokens_of(group: Group, output: torch.Tensor) -> torch.Tensor:
    """The way back from `_rows_of`: ``[tokens, heads, value_head_dim]``."""
    by_head = output.reshape(group.rows, -1, group.queries, output.shape[-1])
    return group.unpad(by_head.transpose(1, 2).flatten(0, 1))


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scaling: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of ``[…, queries, head_dim]``, with whatever softcap and sinks a model has."""
    if softcap is None and sinks is None:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scaling)
    scores = (q @ k.transpose(-1, -2)).float() * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    if sinks is None:
        weights = scores.softmax(-1)
    else:
        weights = torch.cat([scores, sinks.float().expand_as(scores[..., :1])], -1).softmax(-1)[..., :-1]
    return weights.to(v.dtype) @ v


def _is_half_on_cpu(query: torch.Tensor) -> bool:
    """Where PyTorch's attention is slow: it runs as one tiny matrix product per head there."""
    return query.device.type == "cpu" and query.dtype != torch.float32


def _pays_by_key_head(chunk: Span) -> bool:
    """Whether a chunk of a prompt is faster with all its scores in memory at once.

    Measured on 2 cores with AVX512-BF16, 3 to 8 key heads and 1 to 4 query heads for each: from 64 tokens on 1.2 to 2.7
    times as fast as PyTorch's attention up to 256 tokens and 512 keys; with 2,048 keys half as fast.
    """
    return chunk.length >= 64 and chunk.length * chunk.end <= 256 * 512 and not chunk.blocks


def _attend_by_key_head(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attention of few tokens per row as two calls, each a batch of one matrix product per row and key head.

    The query heads that share a key head, and the tokens of a row, are the rows of its product. Measured on 2 cores
    with AVX512-BF16 and 112 keys of 3 heads, copying the keys included, µs beside PyTorch's attention: 32 rows of one
    token 130 beside 350, 8 rows of one token 62 beside 94, 8 rows of 8 tokens 97 beside 261.

    Args:
        q: ``[rows, kv_heads, shared * queries, head_dim]``.
        k: contiguous ``[rows * kv_heads, keys, head_dim]``.
        v: contiguous ``[rows * kv_heads, keys, value_head_dim]``.
        bias: float32, added to the scores ``[rows, heads, queries, keys]`` after scaling.
        scaling: of the scores.

    Returns:
        ``[rows, kv_heads, shared * queries, value_head_dim]``.
    """
    rows, kv_heads, each, _ = q.shape
    scores = torch.bmm(q.flatten(0, 1), k.transpose(1, 2))
    weights = torch.add(bias, scores.view(rows, -1, bias.shape[2], k.shape[1]), alpha=scaling).softmax(-1)
    return torch.bmm(weights.to(q.dtype).view(rows * kv_heads, each, -1), v).view(rows, kv_heads, each, -1)


def _attend_with_all_heads_at_once(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attention of few tokens per row as two matrix products per row, instead of two per row and head.

    For query heads that share no key head: 2 to 7 times faster than PyTorch's attention for any number of rows
    (measured on 2 cores with AVX512-BF16, 176 to 700 keys).

    A token's heads lie side by side in the cache, so keys are a ``[keys, kv_heads * head_dim]`` matrix as they are;
    queries become a block-diagonal one: more multiplications, of which there are plenty to spare, but few calls.

    Args:
        q: ``[rows, kv_heads, shared * queries, head_dim]``.
        k: ``[rows, kv_heads, keys, head_dim]``.
        v: ``[rows, kv_heads, keys, value_head_dim]``.
        bias: float32, added to the scores ``[rows, heads, queries, keys]`` after scaling.
        scaling: of the scores.

    Returns:
        ``[rows, kv_heads, shared * queries, value_head_dim]``.
    """
    rows, kv_heads, each, _ = q.shape
    diagonal = torch.eye(kv_heads, dtype=q.dtype).view(kv_heads, 1, kv_heads, 1)
    blocks = (q[:, :, :, None] * diagonal).view(rows, kv_heads * each, -1)
    keys = k.transpose(1, 2).flatten(2)
    values = v.transpose(1, 2).flatten(2)
    scores = torch.bmm(keys, blocks.transpose(1, 2)).transpose(1, 2)
    weights = (
        torch.add(bias, scores.view(rows, -1, bias.shape[2], keys.shape[1]), alpha=scaling).softmax(-1).flatten(1, 2)
    )
    output = torch.bmm(weights.to(q.dtype), values).view(rows, kv_heads, each, kv_heads, -1)
    return output.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


AttentionInterface.register(NAME, slot_attention)

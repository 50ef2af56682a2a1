"""Attention over the slots of a `KVCache`, for a flat batch of tokens of many sequences.

Registered with transformers' attention interface under `NAME`: a model that is told to use it calls `slot_attention`
from every attention layer, and its code stays as it is. Who attends to what is an `AttentionPlan`, made once per
forward pass and shared by all layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "slots"

_CALL_COST = 512
"""One more attention call costs as much as attending to this many more keys."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence that take part in a forward pass.

    Attributes:
        slot: where the sequence's keys and values are.
        start: position of the first token.
        length: how many tokens.
    """

    slot: int
    start: int
    length: int


class DecodeGroup:
    """Sequences of similar length that attend from one token each, in one call.

    Args:
        spans: of length 1, sorted by slot.
        device: where the masks are made.
    """

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        self.rows = len(spans)
        slots = [span.slot for span in spans]
        self._first_slot = slots[0]
        consecutive = slots[-1] - slots[0] == len(slots) - 1
        self._slots = None if consecutive else torch.tensor(slots, device=device)
        lengths = [span.start + 1 for span in spans]
        self._longest, self._shortest = max(lengths), min(lengths)
        self._lengths = torch.tensor(lengths, device=device)[:, None]
        self._masks: dict[int | None, torch.Tensor | None] = {}
        self._biases: dict[int | None, torch.Tensor] = {}

    def _first_key(self, window: int | None) -> int:
        return 0 if window is None else max(0, self._shortest - window)

    def select(self, slab: torch.Tensor, window: int | None) -> torch.Tensor:
        """The part ``[rows, kv_heads, keys, head_dim]`` of a slab that the rows see between them."""
        seen = slab[:, :, self._first_key(window) : self._longest]
        if self._slots is None:
            return seen[self._first_slot : self._first_slot + self.rows]
        return seen.index_select(0, self._slots)

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Which of the keys of `select` each row sees, bool ``[rows, keys]``; None where all see all."""
        if window not in self._masks:
            self._masks[window] = None if self._shortest == self._longest else self._make_mask(window)
        return self._masks[window]

    def bias(self, window: int | None) -> torch.Tensor:
        """The same to be added to scores: float32 0 or -inf, ``[rows, 1, keys]`` or ``[1]``."""
        if window not in self._biases:
            mask = self.mask(window)
            bias = torch.zeros((1,) if mask is None else (self.rows, 1, mask.shape[1]), device=self._lengths.device)
            self._biases[window] = bias if mask is None else bias.masked_fill_(~mask[:, None], -math.inf)
        return self._biases[window]

    def _make_mask(self, window: int | None) -> torch.Tensor:
        positions = torch.arange(self._first_key(window), self._longest, device=self._lengths.device)
        mask = positions < self._lengths
        return mask if window is None else mask & (positions >= self._lengths - window)


class AttentionPlan:
    """Who attends to what in one forward pass, and in which order the tokens lie in its flat batch.

    Attributes:
        order: indices of the spans, as they follow one another in the flat batch.
        groups: those of one token, first in the batch.
        chunks: those of several tokens, after them.
    """

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        """Plan a pass over these spans, all of different slots."""
        decode = sorted((i for i, span in enumerate(spans) if span.length == 1), key=lambda i: -spans[i].start)
        groups = [sorted(group, key=lambda i: spans[i].slot) for group in _cut_by_length(decode, spans)]
        chunks = [i for i, span in enumerate(spans) if span.length > 1]
        self.order = [*itertools.chain.from_iterable(groups), *chunks]
        self.groups = [DecodeGroup([spans[i] for i in group], device) for group in groups]
        self.chunks = [spans[i] for i in chunks]
        self._device = device
        self._masks: dict[tuple[Span, int | None], torch.Tensor | None] = {}

    def chunk_mask(self, chunk: Span, window: int | None) -> torch.Tensor | None:
        """Which keys each token of a chunk sees, bool ``[length, keys]``; None where it is all up to itself.

        Keys begin where the chunk's first token sees its first one: at `first_key`.
        """
        if (chunk, window) not in self._masks:
            plain = chunk.start == 0 and (window is None or chunk.length <= window)
            self._masks[chunk, window] = None if plain else self._make_mask(chunk, window)
        return self._masks[chunk, window]

    def _make_mask(self, chunk: Span, window: int | None) -> torch.Tensor:
        end = chunk.start + chunk.length
        queries = torch.arange(chunk.start, end, device=self._device)[:, None]
        keys = torch.arange(first_key(chunk.start, window), end, device=self._device)
        mask = keys <= queries
        return mask if window is None else mask & (keys > queries - window)


def first_key(position: int, window: int | None) -> int:
    """The lowest position that a token at ``position`` sees."""
    return 0 if window is None else max(0, position + 1 - window)


def _cut_by_length(order: Sequence[int], spans: Sequence[Span]) -> list[Sequence[int]]:
    """Cut decoding spans, longest first, where padding the shorter ones would cost more than a call of their own."""
    groups: list[Sequence[int]] = []
    begin = waste = 0
    for end, index in enumerate(order):
        waste += spans[order[begin]].start - spans[index].start
        if waste > _CALL_COST:
            groups.append(order[begin:end])
            begin, waste = end, 0
    if begin < len(order):
        groups.append(order[begin:])
    return groups


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
    outputs = []
    first = 0
    for group in plan.groups:
        q = queries[first : first + group.rows].reshape(group.rows, kv_heads, shared, -1)
        k, v = group.select(key, sliding_window), group.select(value, sliding_window)
        if softcap is None and s_aux is None and _is_faster_with_all_heads_at_once(q, k):
            output = _attend_with_all_heads_at_once(q, k, v, group.bias(sliding_window), scaling)
        else:
            mask = group.mask(sliding_window)
            mask = None if mask is None else mask[:, None, None]
            sinks = None if s_aux is None else s_aux.view(kv_heads, shared, 1)
            output = _attend(q, k, v, mask, False, scaling, softcap, sinks)
        outputs.append(output.reshape(group.rows, heads, -1))
        first += group.rows
    for chunk in plan.chunks:
        # A batch of kv heads: those query heads that share one then do so without a copy of it.
        q = queries[first : first + chunk.length].reshape(chunk.length, kv_heads, shared, -1).permute(1, 2, 0, 3)
        seen = slice(first_key(chunk.start, sliding_window), chunk.start + chunk.length)
        k = key[chunk.slot, :, None, seen].expand(-1, shared, -1, -1)
        v = value[chunk.slot, :, None, seen].expand(-1, shared, -1, -1)
        mask = plan.chunk_mask(chunk, sliding_window)
        sinks = None if s_aux is None else s_aux.view(kv_heads, shared, 1, 1)
        output = _attend(q, k, v, mask, mask is None, scaling, softcap, sinks)
        outputs.append(output.flatten(0, 1).transpose(0, 1))
        first += chunk.length
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


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


def _is_faster_with_all_heads_at_once(q: torch.Tensor, k: torch.Tensor) -> bool:
    """Where PyTorch's attention is slow: on CPUs in half precision, which it runs as one tiny matrix product per head.

    Measured on 2 cores with AVX512-BF16, 176 to 700 keys. Query heads that share no key head: 2 to 7 times faster at
    once, for any number of rows. Up to 8 key heads that are shared: 1.2 to 2.3 times faster from 8 rows of 176 keys on.
    """
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return False
    rows, kv_heads, shared, _ = q.shape
    return shared == 1 or (kv_heads <= 8 and rows * k.shape[2] >= 1400)


def _attend_with_all_heads_at_once(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attention of one token per row as two matrix products per row, instead of two per row and head.

    A token's heads lie side by side in the cache, so keys are a ``[keys, kv_heads * head_dim]`` matrix as they are;
    queries become a block-diagonal one: more multiplications, of which there are plenty to spare, but few calls.

    Args:
        q: ``[rows, kv_heads, shared, head_dim]``.
        k: ``[rows, kv_heads, keys, head_dim]``.
        v: ``[rows, kv_heads, keys, value_head_dim]``.
        bias: float32, added to the scores ``[rows, heads, keys]`` after scaling.
        scaling: of the scores.

    Returns:
        ``[rows, kv_heads, shared, value_head_dim]``.
    """
    rows, kv_heads, shared, _ = q.shape
    diagonal = torch.eye(kv_heads, dtype=q.dtype).view(kv_heads, 1, kv_heads, 1)
    blocks = (q[:, :, :, None] * diagonal).view(rows, kv_heads * shared, -1)
    keys = k.transpose(1, 2).flatten(2)
    values = v.transpose(1, 2).flatten(2)
    scores = torch.bmm(keys, blocks.transpose(1, 2)).transpose(1, 2)
    weights = torch.add(bias, scores, alpha=scaling).softmax(-1)
    output = torch.bmm(weights.to(q.dtype), values).view(rows, kv_heads, shared, kv_heads, -1)
    return output.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


AttentionInterface.register(NAME, slot_attention)

"""Attention over the slots of a `KVCache`, for a flat batch of segments of many sequences.

Registered with transformers' attention interface under `NAME`; a model that is told to use it calls `slot_attention`
from every attention layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "slots"


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of the flat batch that belong to one sequence.

    Attributes:
        first: index of the first token in the flat batch.
        length: how many.
        slot: where the sequence's keys and values are.
        start: position of the first token in its sequence.
    """

    first: int
    length: int
    slot: int
    start: int


class AttentionPlan:
    """Who attends to what in one forward pass; shared by all layers, so that masks are made once.

    Args:
        spans: the batch in order.
    """

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        self.spans = spans
        self._device = device
        self._masks: dict[tuple[int, int, int | None], torch.Tensor] = {}

    def mask(self, start: int, length: int, window: int | None) -> torch.Tensor:
        """What queries at ``start …`` may see: bool ``[length, start + length]``."""
        key = (start, length, window)
        mask = self._masks.get(key)
        if mask is None:
            queries = torch.arange(start, start + length, device=self._device)[:, None]
            keys = torch.arange(start + length, device=self._device)
            mask = keys <= queries
            if window is not None:
                mask &= keys > queries - window
            self._masks[key] = mask
        return mask


current_plan: ContextVar[AttentionPlan] = ContextVar("attention_plan")


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
    """Attend from the batch's tokens to their own sequences.

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
        ``[1, tokens, heads, head_dim]``.
    """
    plan = current_plan.get()
    heads, tokens = query.shape[1:3]
    kv_heads = key.shape[1]
    output = query.new_empty(1, tokens, heads, value.shape[-1])
    for span in plan.spans:
        end = span.start + span.length
        q = query[0, :, span.first : span.first + span.length]
        q = q.reshape(kv_heads, heads // kv_heads, span.length, -1)
        k = key[span.slot, :, None, :end].expand(-1, heads // kv_heads, -1, -1)
        v = value[span.slot, :, None, :end].expand(-1, heads // kv_heads, -1, -1)
        mask = plan.mask(span.start, span.length, sliding_window)
        if softcap is None and s_aux is None:
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
        else:
            out = _attend(q, k, v, mask, scaling, softcap, s_aux)
        output[0, span.first : span.first + span.length] = out.flatten(0, 1).transpose(0, 1)
    return output, None


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.float().masked_fill(~mask, float("-inf"))
    if sinks is None:
        weights = scores.softmax(-1)
    else:
        sink = sinks.float().view(*q.shape[:2], 1, 1).expand(-1, -1, q.shape[2], 1)
        weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    return weights.to(q.dtype) @ v


AttentionInterface.register(NAME, slot_attention)

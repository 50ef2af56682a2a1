"""Attention over slots against the textbook's, for batches of every kind."""

import pytest
import torch

from guidance_core.executors.torch import attention
from guidance_core.executors.torch.attention import slot_attention
from guidance_core.executors.torch.attention_plan import AttentionPlan, Span

CPU = torch.device("cpu")
SLOTS, MAX_LEN, HEAD_DIM = 9, 900, 8

DECODE = [Span(2, 40, 1), Span(3, 40, 1), Span(4, 40, 1)]
RAGGED = [Span(7, 3, 1), Span(1, 0, 1), Span(4, 30, 1), Span(5, 31, 1)]
VERY_RAGGED = [Span(slot, 5 + slot, 1) for slot in (0, 3, 4, 5)] + [Span(6, 800, 1), Span(1, 790, 1)]
MANY_KEYS = [Span(slot, 200 + slot, 1) for slot in (0, 1, 2, 3, 5, 6, 7, 8)]
FORCED = [Span(0, 0, 12), Span(5, 20, 3), Span(2, 7, 9)]
CHUNKS = [Span(0, 0, 30), Span(5, 20, 3), Span(2, 7, 19)]
LONG_CHUNKS = [Span(0, 0, 64), Span(5, 21, 70), Span(2, 7, 1)]
BLOCKS = [Span(0, 3, 20, ((5, 12), (13, 22))), Span(5, 20, 4, ((21, 24),)), Span(2, 7, 70, ((7, 60),)), Span(1, 6, 1)]
MIXED = [Span(5, 20, 3), Span(1, 6, 1), Span(0, 0, 22), Span(8, 33, 1), Span(3, 500, 2)]


def textbook(query, keys, values, span, scaling, window, softcap, sinks):
    """One sequence: query [length, heads, dim], keys and values [heads, end, dim]."""
    scores = torch.einsum("qhd,hkd->hqk", query, keys) * scaling
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    for row in range(span.length):
        position = span.start + row
        block = next((end for first, end in span.blocks if first <= position < end), position + 1)
        scores[:, row, block:] = -torch.inf
        if window and position - window >= 0:
            scores[:, row, : position - window + 1] = -torch.inf
    weights = scores.exp()
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.exp()[:, None, None]
    return torch.einsum("hqk,hkd->qhd", weights / total, values)


@pytest.mark.parametrize(
    "spans", [DECODE, RAGGED, VERY_RAGGED, MANY_KEYS, FORCED, CHUNKS, LONG_CHUNKS, BLOCKS, MIXED], ids=len
)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dtype"),
    [(4, 2, torch.float32), (3, 3, torch.float32), (4, 2, torch.bfloat16), (3, 3, torch.bfloat16)],
    ids=str,
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sliding_window": 6},
        {"softcap": 2.0},
        {"sinks": True},
        {"sliding_window": 6, "softcap": 2.0, "sinks": True},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_every_token_attends_to_its_own_sequence_only(spans, heads, kv_heads, dtype, options):
    torch.manual_seed(0)
    keys = torch.randn(SLOTS, MAX_LEN, kv_heads, HEAD_DIM).to(dtype).transpose(1, 2)
    values = torch.randn(SLOTS, MAX_LEN, kv_heads, HEAD_DIM).to(dtype).transpose(1, 2)
    tokens = sum(span.length for span in spans)
    query = torch.randn(1, tokens, heads, HEAD_DIM).to(dtype).transpose(1, 2)
    sinks = torch.randn(heads) if options.get("sinks") else None
    window, softcap = options.get("sliding_window"), options.get("softcap")
    plan = AttentionPlan(spans, CPU)
    token = attention.current_plan.set(plan)
    try:
        output, weights = slot_attention(
            torch.nn.Identity(), query, keys, values, None, 0.3, sliding_window=window, softcap=softcap, s_aux=sinks
        )
    finally:
        attention.current_plan.reset(token)
    assert weights is None
    assert output.shape == (1, tokens, heads, HEAD_DIM)
    assert sorted(plan.order) == list(range(len(spans)))
    first = 0
    for span in (spans[index] for index in plan.order):
        rows = slice(first, first + span.length)
        first += span.length
        own = [
            slab[span.slot, :, : span.start + span.length].float().repeat_interleave(heads // kv_heads, 0)
            for slab in (keys, values)
        ]
        expected = textbook(query[0].transpose(0, 1)[rows].float(), *own, span, 0.3, window, softcap, sinks)
        tolerance = 1e-5 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(output[0, rows].float(), expected, atol=tolerance, rtol=tolerance)


def test_blocks_may_be_seen_in_windows_only():
    span = Span(0, 3, 20, ((5, 12),))
    everywhere, in_windows = AttentionPlan([span], CPU), AttentionPlan([span], CPU, blocks_in_windows_only=True)
    first, last = 5 - span.start, 11
    assert [plan.chunk_mask(span, None)[first, last].item() for plan in (everywhere, in_windows)] == [True, False]
    assert [plan.chunk_mask(span, 6)[first, last].item() for plan in (everywhere, in_windows)] == [True, True]


def test_sequences_of_like_length_share_a_call_and_very_different_ones_do_not():
    assert [group.rows for group in AttentionPlan(RAGGED, CPU).groups] == [4]
    plan = AttentionPlan(VERY_RAGGED, CPU)
    assert [group.rows for group in plan.groups] == [4, 2]
    assert plan.order == [5, 2, 3, 4, 0, 1]


def test_forced_tokens_of_several_sequences_share_a_call_and_long_chunks_do_not():
    plan = AttentionPlan([*FORCED, Span(1, 6, 1), Span(3, 0, 40), Span(4, 9, 1)], CPU)
    assert [(group.rows, group.queries, group.tokens) for group in plan.groups] == [(2, 1, 2), (3, 12, 24)]
    assert [chunk.slot for chunk in plan.chunks] == [3]


def test_neighbouring_slots_are_read_in_place():
    slab = torch.zeros(SLOTS, MAX_LEN, 1, HEAD_DIM).transpose(1, 2)
    (together,) = AttentionPlan(DECODE, CPU).groups
    assert together.select(slab, None).data_ptr() == slab[2].data_ptr()


def test_keys_are_gathered_in_shapes_that_come_again():
    slab = torch.zeros(SLOTS, MAX_LEN, 2, HEAD_DIM).transpose(1, 2)

    def shapes(*spans: Span) -> list[torch.Size]:
        return [group.gather(slab, None).shape for group in AttentionPlan(spans, CPU).groups]

    assert shapes(Span(2, 40, 1)) == shapes(Span(2, 47, 1)) == [(2, 48, HEAD_DIM)]
    assert shapes(Span(2, 48, 1)) == [(2, 64, HEAD_DIM)]
    assert shapes(Span(2, MAX_LEN - 1, 1)) == [(2, MAX_LEN, HEAD_DIM)]


def test_equal_lengths_need_no_mask():
    (group,) = AttentionPlan(DECODE, CPU).groups
    assert group.mask(None) is None
    assert group.mask(6) is None

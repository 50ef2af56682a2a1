"""Is a loaded model run rightly? Asked once, before it serves: any architecture may be loaded, so none is trusted.

Two questions, each answered by the model's own code: does the runner give the logits of a plain forward pass, and does
every attention layer see the positions that the model's mask lets it see, up to the end of the context?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from guidance_core.executors.torch.attention_plan import first_key
from guidance_core.executors.torch.segment import Segment

LENGTH = 16
"""Tokens of the check; its cache holds that many positions in each of `SLOTS` slots."""

SLOTS = 2

_EXACT_TOLERANCE = 1e-3
"""Largest relative difference of any token's logits that rounding explains in float32."""

_HALF_TOLERANCE = 0.15
"""The same in half precision, for the median token: single ones, often the first two, differ by as much as 1.4 between
any two ways of computing them. Measured on the default model: 0.04, and 0.32 where a chunk is one position off.
"""


def reference_logits(model: Any, device: torch.device) -> torch.Tensor:
    """What the model gives by itself, without any cache, for `LENGTH` tokens: float32 ``[LENGTH, vocab_size]``."""
    ids = torch.tensor([_token_ids(model)], device=device)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits.float()


def check_logits(
    model: Any,
    reference: torch.Tensor,
    dtype: torch.dtype,
    forward: Callable[[Sequence[Segment]], torch.Tensor],
    copy_prefix: Callable[[int, int, int], None],
) -> None:
    """Run the same tokens in all the ways in which a runner may be asked to.

    Args:
        model: the model.
        reference: its `reference_logits`.
        dtype: what the model computes in.
        forward: the runner's, over a cache of `SLOTS` slots.
        copy_prefix: the runner's.

    Raises:
        ValueError: the logits differ by more than rounding explains.
    """
    ids = _token_ids(model)

    def check(way: str, positions: Sequence[int], logits: torch.Tensor) -> None:
        expected = reference[positions]
        errors = (logits - expected).norm(dim=-1) / (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
        exact = dtype == torch.float32
        error = float(errors.max() if exact else errors.median())
        tolerance = _EXACT_TOLERANCE if exact else _HALF_TOLERANCE
        if not error <= tolerance:
            raise ValueError(
                f"{way} its logits differ from its own plain forward pass by {error:.2g}, of which rounding explains "
                f"{tolerance:g}"
            )

    check("over the KV cache", range(8), forward([Segment(0, 0, ids[:8], "all")]))
    copy_prefix(0, 1, 5)
    check("in chunks", range(5, 12), forward([Segment(1, 5, ids[5:12], "all"), Segment(0, 8, ids[8:9], "none")]))
    steps = [
        forward([Segment(0, 9 + i, ids[9 + i : 10 + i], "last"), Segment(1, 12 + i, ids[12 + i : 13 + i], "last")])
        for i in range(4)
    ]
    check("in batches", [position for i in range(4) for position in (9 + i, 12 + i)], torch.cat(steps))


def check_masks(model: Any, max_model_len: int, device: torch.device) -> None:
    """Compare the model's mask of the last position with what `slot_attention` would let it see, in every layer.

    Leaves the model with an attention implementation of its own: set the one to use afterwards.

    Raises:
        ValueError: they differ.
    """
    layers: list[bool] = []

    def mask(*, mask_function: Callable[..., torch.Tensor], **_: object) -> torch.Tensor:
        zero = torch.zeros((), dtype=torch.int64, device=device)
        keys = torch.arange(max_model_len, device=device)
        return mask_function(zero, zero, keys[-1], keys).expand(1, 1, 1, max_model_len)

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        sliding_window: int | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        seen = torch.arange(max_model_len, device=device) >= first_key(max_model_len - 1, sliding_window)
        layers.append(attention_mask is not None and torch.equal(attention_mask.flatten(), seen))
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None

    name = "slots_mask_check"
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)
    model.set_attn_implementation(name)
    ids = torch.tensor([_token_ids(model)], device=device)
    with torch.no_grad():
        # With a mask of its own, transformers 4 does not take the tokens for several sequences in a row.
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    if not layers:
        raise ValueError("its attention layers do not use transformers' attention interface")
    if not all(layers):
        raise ValueError(
            f"{layers.count(False)} of its {len(layers)} attention layers have a mask that is neither causal nor a "
            f"sliding window within {max_model_len} positions"
        )


def _token_ids(model: Any) -> list[int]:
    vocab_size = model.get_input_embeddings().weight.shape[0]
    return [(7 * i * i + 3 * i + 1) % vocab_size for i in range(LENGTH)]

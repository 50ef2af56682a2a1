"""Is a loaded model run rightly? Asked once, before it serves: any architecture may be loaded, so none is trusted.

Two questions, each answered by the model's own code: does the runner give the logits of a plain forward pass, and does
every attention layer see the positions that the model's mask lets it see, up to the end of the context?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from guidance_core.executors.torch.attention import first_key
from guidance_core.executors.torch.segment import Segment

LENGTH = 16
"""Tokens of the check; its cache holds that many positions in each of `SLOTS` slots."""

SLOTS = 2

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest relative difference (of norms) that rounding explains. Rotary positions off by one give 0.3 and more."""


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
    got = [forward([Segment(0, 0, ids[:9], "all")])]
    copy_prefix(0, 1, 6)
    got.append(forward([Segment(1, 6, ids[6:15], "all"), Segment(0, 9, ids[9:10], "last")]))
    got.append(forward([Segment(1, 15, ids[15:16], "last"), Segment(0, 10, ids[10:11], "last")]))
    expected = reference[[*range(9), *range(6, 15), 9, 15, 10]]
    error = float((torch.cat(got) - expected).norm() / (expected - expected.mean(-1, keepdim=True)).norm())
    if not error <= _TOLERANCE[dtype]:
        raise ValueError(
            f"in batches and over the KV cache its logits differ from its own plain forward pass (by {error:.2g}, "
            f"rounding explains {_TOLERANCE[dtype]:g})"
        )


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
        model(input_ids=ids, use_cache=False)
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

"""How much probability a model gives to what a grammar allows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.cpu import cpu_kernels
from kernels.mask_logits import mask_logits
from kernels.selection import select


def allowed_masses(logits: torch.Tensor, bitmask: torch.Tensor, rows: Sequence[int] | None = None) -> torch.Tensor:
    """The share of the probability, at temperature 1, of the tokens that each mask allows.

    On a CPU the compiled kernel looks at each row once, part by part. Elsewhere, and without a compiler, the
    probabilities are written down, masked and added up. `kernels.fused_mask.FusedMask` finds the same in the pass that
    masks, where rows are masked anyway.

    Args:
        logits: float32 [n, vocabulary], each row contiguous; only read.
        bitmask: see `kernels.mask_logits.mask_logits`.
        rows: for each of the first ``len(rows)`` masks, the row of ``logits`` it applies to; None: row i, for all.

    Returns:
        float32, one per mask, on the device of the logits, from 0 to 1. NaN where the model's probabilities are none:
        its logits hold NaN or +inf, or are all −inf.

    Raises:
        TypeError: other logits than float32, or on another device than the masks.
        ValueError: shapes that do not fit together, or a row that is none.
    """
    selection = select(logits, bitmask, rows)
    if logits.dtype != torch.float32:
        raise TypeError(f"allowed masses are measured on float32 logits, not {logits.dtype}")
    if rows is not None and rows and min(rows) < 0:
        raise ValueError(f"row {min(rows)} is not one of the rows of logits")
    if selection.count == 0 or selection.vocabulary == 0:
        return torch.full((selection.count,), torch.nan, device=logits.device)
    kernels = cpu_kernels() if logits.is_cpu else None
    if kernels is not None:
        return kernels.allowed_masses(logits, selection)
    shares = (logits if rows is None else logits[list(rows)]).softmax(-1)
    mask_logits(shares, selection.bitmask)
    return shares.clamp_(min=0).sum(-1).clamp_(max=1)

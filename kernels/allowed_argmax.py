"""The likeliest token that a grammar allows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.cpu import cpu_kernels
from kernels.mask_logits import mask_logits
from kernels.selection import select


def allowed_argmax(
    logits: torch.Tensor, bitmask: torch.Tensor, rows: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest logit that each mask allows, and the first token that has it.

    On a CPU the compiled kernel looks only at logits that are allowed, and writes none. Elsewhere, and without a
    compiler, a copy is masked and searched. `kernels.fused_mask.FusedMask` finds the same on a GPU in the pass that
    masks.

    Args:
        logits: float32 [n, vocabulary], each row contiguous; only read.
        bitmask: see `kernels.mask_logits.mask_logits`.
        rows: for each of the first ``len(rows)`` masks, the row of ``logits`` it applies to; None: row i, for all.

    Returns:
        float32 and int64, one per mask, on the device of the logits: NaN counts as highest; −inf and token 0 where
        nothing above −inf is allowed.

    Raises:
        TypeError: other logits than float32, or on another device than the masks.
        ValueError: shapes that do not fit together, no vocabulary, or a row that is none.
    """
    selection = select(logits, bitmask, rows)
    if logits.dtype != torch.float32:
        raise TypeError(f"the likeliest token is looked for in float32 logits, not {logits.dtype}")
    if rows is not None and rows and min(rows) < 0:
        raise ValueError(f"row {min(rows)} is not one of the rows of logits")
    if selection.vocabulary == 0:
        raise ValueError("logits of no vocabulary have no likeliest token")
    kernels = cpu_kernels() if logits.is_cpu else None
    if kernels is not None and selection.count:
        return kernels.allowed_argmax(logits, selection)
    masked = logits[: selection.count].clone() if rows is None else logits[list(rows)]
    mask_logits(masked, selection.bitmask)
    values, tokens = masked.max(-1)
    return values, tokens.where(values != -torch.inf, 0)

"""The kernels' work with operations that every device of PyTorch has: for devices on which the kernels cannot run."""

from __future__ import annotations

import torch

from kernels.selection import Selection


def allowed_tokens(bitmask: torch.Tensor, vocabulary: int, device: torch.device) -> torch.Tensor:
    """Unpack masks.

    Args:
        bitmask: int32 [n, words]; see `kernels.mask_logits.mask_logits`.
        vocabulary: width of the answer; what the masks do not reach is forbidden.
        device: of the answer.

    Returns:
        bool [n, vocabulary].
    """
    covered = min(vocabulary, bitmask.shape[1] * 32)
    packed = bitmask[:, : -(-covered // 32)].to(device, non_blocking=True)
    shifts = torch.arange(32, dtype=torch.int32, device=device)
    allowed = torch.zeros(len(bitmask), vocabulary, dtype=torch.bool, device=device)
    allowed[:, :covered] = ((packed[:, :, None] >> shifts) & 1).flatten(1)[:, :covered] == 1
    return allowed


def mask_with_tensor_operations(selection: Selection) -> None:
    """Set what is forbidden to −inf, in place."""
    allowed = allowed_tokens(selection.bitmask, selection.vocabulary, selection.device)
    for target, allows in zip(selection.targets(), allowed, strict=True):
        if target >= 0:
            selection.row(target).masked_fill_(~allows, -torch.inf)


def fuse_with_tensor_operations(
    selection: Selection,
    temperature: torch.Tensor | None,
    min_p: torch.Tensor | None,
    argmax: torch.Tensor,
    allowed_mass: torch.Tensor,
) -> None:
    """The fused form; see `kernels.fused_mask.FusedMask`.

    Args:
        selection: rows and masks.
        temperature: float32 [n]; None: 1.
        min_p: float32 [n]; None: 0.
        argmax: int64 [n]; written.
        allowed_mass: float32 [n]; written.
    """
    every_allowed = allowed_tokens(selection.bitmask, selection.vocabulary, selection.device)
    for i, (target, allowed) in enumerate(zip(selection.targets(), every_allowed, strict=True)):
        if target < 0:
            continue
        row = selection.row(target)
        values = row.float()
        peak = _comparable(values).amax()
        weights = (values - torch.where(peak == -torch.inf, 0.0, peak)).exp()
        allowed_mass[i] = torch.where(allowed, weights, 0.0).sum() / weights.sum()

        kept = torch.where(allowed, _comparable(values), -torch.inf)
        best = kept.amax()
        argmax[i] = torch.where(best == -torch.inf, -1, kept.argmax())  # the first of equals

        heat = torch.ones_like(best) if temperature is None else temperature[i].to(row.device)
        share = torch.zeros_like(best) if min_p is None else min_p[i].to(row.device)
        is_drawn = heat > 0
        distance = (values - best) * torch.where(is_drawn, heat, 1.0).reciprocal()
        scales = is_drawn & (heat != 1) & best.isfinite()
        improbable = is_drawn & (share > 0) & (distance < share.clamp(0, 1).log())
        row.copy_(torch.where(scales, distance, values).to(row.dtype)).masked_fill_(~allowed | improbable, -torch.inf)


def _comparable(values: torch.Tensor) -> torch.Tensor:
    """NaN as −inf, so that it is never the highest."""
    return torch.where(values.isnan(), -torch.inf, values)

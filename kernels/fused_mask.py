"""Mask logits, apply temperature and min-p, choose greedily and measure the allowed probability, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.arguments import PART_WORDS, Fusion
from kernels.cuda_device import Device, cuda_device
from kernels.launch_plan import FUSED_THREADS, plan_fused
from kernels.selection import Logits, Rows, Selection, on_stream, readable, select
from kernels.tensor_operations import fuse_with_tensor_operations


@dataclass(frozen=True, slots=True)
class Choices:
    """What `FusedMask` found for each mask, on the device of the logits.

    Attributes:
        argmax: int64 [n]; the token with the highest allowed logit, the lowest id of equals; −1 where no allowed logit
            is above −inf. NaN is never the highest.
        allowed_mass: float32 [n]; share of the probability, at temperature 1, that the model gave to what the mask
            allows, from 0 to 1. NaN where the model's probabilities are none: its logits hold NaN or +inf, or are all
            −inf.
    """

    argmax: torch.Tensor
    allowed_mass: torch.Tensor


class FusedMask:
    """The fused form of `kernels.mask_logits.mask_logits`, with the memory it needs.

    Answers and workspace are allocated here once, so that a captured graph finds them at the same place. One object
    serves one stream at a time.
    """

    def __init__(self, max_rows: int, vocabulary: int, device: str | torch.device) -> None:
        """Allocate.

        Args:
            max_rows: most masks of one call.
            vocabulary: most logits of a row.
            device: of the logits; "cuda" is the current CUDA device.
        """
        self._choices = Choices(
            torch.full((max_rows,), -1, dtype=torch.int64, device=device),
            torch.full((max_rows,), torch.nan, dtype=torch.float32, device=device),
        )
        self._device = self._choices.argmax.device
        self._vocabulary = vocabulary
        self._parts = torch.zeros(max_rows, PART_WORDS, FUSED_THREADS, dtype=torch.int64, device=device)
        self._launches = torch.zeros(max_rows, dtype=torch.int32, device=device)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # zero for whichever stream comes first

    def __call__(
        self,
        logits: Logits,
        bitmask: torch.Tensor,
        rows: Rows = None,
        *,
        temperature: torch.Tensor | None = None,
        min_p: torch.Tensor | None = None,
        stream: int | None = None,
    ) -> Choices:
        """Leave in ``logits`` what is to be sampled from, and say what was found.

        Forbidden logits become −inf. Where the temperature is 0 (or below, or NaN: greedy) the allowed ones stay as
        they are, and so they do at 1; else they become ``(logit − highest allowed logit) / temperature``, computed in
        float32: the shift changes no probability and keeps 16-bit logits from overflowing. Where min-p is above 0 and
        the row is not greedy, allowed tokens with less than that share of the likeliest allowed token's probability,
        at that temperature, become −inf too.

        Args:
            logits: see `kernels.mask_logits.mask_logits`.
            bitmask: see there.
            rows: see there.
            temperature: float32 [n], contiguous, on the device or pinned; None: 1 for all.
            min_p: float32 [n], likewise; None: 0 for all. Above 1 counts as 1.
            stream: see there.

        Returns:
            One entry per mask, in tensors that belong to this object: the next call overwrites them. Entries of
            skipped masks keep what they held.

        Raises:
            TypeError: a type or device that this function does not take.
            ValueError: shapes that do not fit together or exceed what was allocated, or a vocabulary so large that
                a row's blocks do not fit the device at once.
        """
        selection = select(logits, bitmask, rows)
        count = selection.count
        if selection.device != self._device:
            raise TypeError(f"this FusedMask was made for {self._device}, the logits are on {selection.device}")
        if count > len(self._choices.argmax) or selection.vocabulary > self._vocabulary:
            raise ValueError(
                f"{count} rows of {selection.vocabulary} logits exceed the {len(self._choices.argmax)} rows of"
                f" {self._vocabulary} that this FusedMask was made for"
            )
        for name, values in (("temperature", temperature), ("min_p", min_p)):
            if values is not None and (
                values.dtype != torch.float32 or values.shape != (count,) or not values.is_contiguous()
            ):
                raise ValueError(f"{name} must be {count} contiguous float32, not {values.dtype} {tuple(values.shape)}")
        choices = Choices(self._choices.argmax[:count], self._choices.allowed_mass[:count])
        if count == 0 or selection.vocabulary == 0:
            return choices
        with on_stream(self._device, stream):
            kernels = cuda_device(self._device.index) if self._device.type == "cuda" else None
            if kernels is None:
                fuse_with_tensor_operations(selection, temperature, min_p, choices.argmax, choices.allowed_mass)
            else:
                self.launch(kernels, selection, temperature, min_p)
        return choices

    def launch(
        self, device: Device, selection: Selection, temperature: torch.Tensor | None, min_p: torch.Tensor | None
    ) -> None:
        """Put the kernel on the current stream; the arguments have been checked.

        Args:
            device: that of the logits.
            selection: at least one mask and one token.
            temperature: see `__call__`.
            min_p: see `__call__`.
        """
        masking, kept = selection.masking()
        plan = plan_fused(
            selection.count,
            selection.vocabulary,
            selection.dtype.itemsize,
            device.resident("fused_mask_logits", selection.dtype),
        )
        fusion = Fusion(argmax=self._choices.argmax.data_ptr(), allowed_mass=self._choices.allowed_mass.data_ptr())
        for name, values in (("temperature", temperature), ("min_p", min_p)):
            if values is not None:
                kept.append(readable(values, selection.device))
                setattr(fusion, name, kept[-1].data_ptr())
        fusion.parts = self._parts.data_ptr()
        fusion.launches = self._launches.data_ptr()
        fusion.splits = plan.splits
        fusion.units = plan.units
        grid = (plan.blocks, 1)
        device.launch("fused_mask_logits", selection.dtype, grid, FUSED_THREADS, (masking, fusion), cooperative=True)
        del kept

"""Forbid tokens: set logits to −inf where a packed bitmask has a zero.

On a GPU the kernel of ``mask_logits.cu`` does it in one launch for any batch, on the CPU its twin in `kernels.cpu`;
where a GPU has no compiler for the kernel, plain tensor operations do, after a warning.
"""

from __future__ import annotations

import ctypes

import torch

from kernels.cpu import mask_on_cpu
from kernels.cuda_device import Device, cuda_device
from kernels.launch_plan import THREADS, plan_plain
from kernels.selection import Logits, Rows, Selection, on_stream, select
from kernels.tensor_operations import mask_with_tensor_operations

_CPU = torch.device("cpu")


def mask_logits(logits: Logits, bitmask: torch.Tensor, rows: Rows = None, *, stream: int | None = None) -> None:
    """Set what ``bitmask`` does not allow to −inf, in place.

    On a GPU this returns as soon as the work is on the stream. A pinned mask is read by the kernel itself, over the
    bus: each of its words is needed once, so that a copy would only add a second operation to the stream. What is
    pinned or on the device must stay as it is until the stream has passed.

    A captured graph reads what was given as a tensor (masks, a table of rows, `RowPointers`) again at every replay; a
    list of rows or of tensors stays what it was at the capture. Call once before capturing: that compiles the kernel.

    Args:
        logits: float32, float16 or bfloat16. One matrix [n, vocabulary], each row contiguous; or a list of n tensors
            with a vocabulary's elements each, contiguous, all of one type and device; or `RowPointers`.
        bitmask: int32 [m, words], contiguous rows, on the device of the logits or on the CPU (pinned, or it is copied
            first); bit ``t % 32`` of word ``t // 32`` allows token ``t``. Tokens beyond the last word are forbidden;
            bits beyond the vocabulary are ignored.
        rows: for each of the first ``len(rows)`` rows of ``bitmask``, the row of ``logits`` it applies to, each row at
            most once; the others are left alone. A list, or an int32 tensor on the device or pinned, or None: row i
            applies to row i, and m equals n. A negative entry skips its mask.
        stream: a CUDA stream's handle; by default PyTorch's current stream of the device.

    Raises:
        TypeError: a type or device that this function does not take.
        ValueError: shapes that do not fit together, or a capture that could not be replayed.
        KernelUnavailable: `RowPointers`, on a device on which the kernel cannot run.
    """
    selection = select(logits, bitmask, rows)
    if selection.count == 0 or selection.vocabulary == 0:
        return
    device = selection.device
    if device == _CPU:
        mask_on_cpu(selection)
        return
    with on_stream(device, stream):
        kernels = cuda_device(device.index) if device.type == "cuda" else None
        if kernels is None:
            mask_with_tensor_operations(selection)
        else:
            launch_mask(kernels, selection)


def launch_mask(device: Device, selection: Selection) -> None:
    """Put the kernel on the current stream.

    Args:
        device: that of the logits.
        selection: at least one mask and one token.
    """
    masking, kept = selection.masking()
    plan = plan_plain(selection.count, selection.vocabulary, selection.dtype.itemsize, device.multiprocessors)
    arguments = (masking, ctypes.c_int(plan.chunks_per_warp))
    device.launch("mask_logits", selection.dtype, plan.grid, THREADS, arguments)
    del kept

"""Which rows of logits a call is about, and which mask belongs to each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch

from kernels.arguments import LISTED_ROWS, LOGITS, Masking, RowsArgument
from kernels.nvrtc import KernelUnavailable


@dataclass(frozen=True, slots=True)
class RowPointers:
    """Rows of logits anywhere in a GPU's memory, by address.

    A captured graph reads the table again whenever it is replayed, so that the rows may change between replays.

    Attributes:
        addresses: int64 [n], contiguous, on the device of the logits or pinned; where each row begins; 0 skips its
            mask.
        vocabulary: logits of each row, side by side.
        dtype: of the logits.
        device: of the logits.
    """

    addresses: torch.Tensor
    vocabulary: int
    dtype: torch.dtype
    device: torch.device


Logits: TypeAlias = "torch.Tensor | Sequence[torch.Tensor] | RowPointers"
"""One matrix [n, vocabulary], or a tensor with a vocabulary's elements for each row, or a table of rows."""

Rows: TypeAlias = "Sequence[int] | torch.Tensor | None"
"""For each mask, the row of logits it applies to."""


@dataclass(slots=True)
class Selection:
    """A call's arguments, checked.

    Attributes:
        logits: see `kernels.mask_logits.mask_logits`.
        bitmask: int32 [count, words].
        rows: see `kernels.mask_logits.mask_logits`.
        count: of masks.
        vocabulary: of each row.
        dtype: of the logits.
        device: of the logits.
    """

    logits: Logits
    bitmask: torch.Tensor
    rows: Rows
    count: int
    vocabulary: int
    dtype: torch.dtype
    device: torch.device

    def targets(self) -> Sequence[int]:
        """The row of logits of each mask, negative to skip it."""
        if self.rows is None:
            return range(self.count)
        return self.rows.tolist() if isinstance(self.rows, torch.Tensor) else self.rows

    def row(self, target: int) -> torch.Tensor:
        """One row of the logits, [vocabulary].

        Raises:
            KernelUnavailable: the logits are `RowPointers`, which only a kernel can follow.
        """
        if isinstance(self.logits, RowPointers):
            raise KernelUnavailable(
                "RowPointers need the CUDA kernel, which cannot run here (the log says why): give tensors instead"
            )
        return self.logits[target].view(-1)

    def masking(self) -> tuple[Masking, list[torch.Tensor]]:
        """The kernels' argument, and tensors to keep until the kernel is on the stream."""
        rows = RowsArgument()
        kept: list[torch.Tensor] = []
        if isinstance(self.logits, RowPointers):
            kept.append(readable(self.logits.addresses, self.device))
            rows.addresses = kept[-1].data_ptr()
        elif isinstance(self.logits, torch.Tensor) and (self.rows is None or isinstance(self.rows, torch.Tensor)):
            rows.base = self.logits.data_ptr()
            rows.stride = self.logits.stride(0) * self.logits.element_size()
            if self.rows is not None:
                kept.append(readable(self.rows, self.device))
                rows.indices = kept[-1].data_ptr()
        else:
            addresses = self._addresses()
            if len(addresses) <= LISTED_ROWS:
                rows.is_listed = 1
                rows.listed[: len(addresses)] = addresses
            else:
                kept.append(_table(addresses, self.device))
                rows.addresses = kept[-1].data_ptr()
        mask = readable(self.bitmask, self.device)
        kept.append(mask)
        words = min(mask.shape[1], -(-self.vocabulary // 32))
        return Masking(rows, mask.data_ptr(), mask.stride(0), words, self.vocabulary, self.count), kept

    def _addresses(self) -> list[int]:
        if isinstance(self.logits, torch.Tensor):
            base, stride = self.logits.data_ptr(), self.logits.stride(0) * self.logits.element_size()
            return [0 if target < 0 else base + target * stride for target in self.targets()]
        assert not isinstance(self.logits, RowPointers)
        return [0 if target < 0 else self.logits[target].data_ptr() for target in self.targets()]


def select(logits: Logits, bitmask: torch.Tensor, rows: Rows) -> Selection:
    """Check a call's arguments; see `kernels.mask_logits.mask_logits` for what is raised."""
    if isinstance(logits, torch.Tensor):
        if logits.ndim != 2 or logits.stride()[1] != 1:
            raise ValueError("logits must be a matrix with contiguous rows, a list of rows or RowPointers")
        total, vocabulary = logits.shape
        dtype, device = logits.dtype, logits.device
    elif isinstance(logits, RowPointers):
        if logits.addresses.dtype != torch.int64 or not logits.addresses.is_contiguous():
            raise TypeError("RowPointers take contiguous int64 addresses")
        if rows is not None:
            raise TypeError("RowPointers name the row of each mask: give no rows")
        total, vocabulary, dtype, device = len(logits.addresses), logits.vocabulary, logits.dtype, logits.device
    else:
        if not logits:
            raise ValueError("there are no logits in the list")
        total, vocabulary = len(logits), logits[0].shape[-1]
        dtype, device = logits[0].dtype, logits[0].device
        for row in logits:
            if row.numel() != vocabulary or not row.is_contiguous() or row.dtype != dtype or row.device != device:
                raise ValueError(
                    f"each of the logits in a list must hold {vocabulary} contiguous {dtype} on {device}, one row;"
                    f" one holds {row.dtype} {tuple(row.shape)} on {row.device}"
                )
    if dtype not in LOGITS or bitmask.dtype != torch.int32:
        raise TypeError(f"masks are int32 and logits float32, float16 or bfloat16, not {bitmask.dtype} and {dtype}")
    if bitmask.ndim != 2 or bitmask.stride()[1] != 1:
        raise ValueError("the bitmask must be a matrix with contiguous rows")
    if not bitmask.is_cpu and bitmask.device != device:
        raise TypeError(f"the bitmask is on {bitmask.device}, the logits on {device}")
    if isinstance(rows, torch.Tensor) and (rows.dtype != torch.int32 or rows.dim() != 1 or not rows.is_contiguous()):
        raise TypeError("a tensor of rows must be a contiguous vector of int32")
    masks = bitmask.shape[0]
    count = total if rows is None else len(rows)
    if masks < count or (rows is None and masks != count):
        raise ValueError(f"{masks} masks do not fit {count} rows")
    if rows is not None and count and (not isinstance(rows, torch.Tensor) or device.type == "cpu"):
        last = int(rows.max()) if isinstance(rows, torch.Tensor) else max(rows)
        if last >= total:
            raise ValueError(f"row {last} is not one of the {total} rows of logits")
    if masks > count:
        bitmask = bitmask[:count]
    return Selection(logits, bitmask, rows, count, vocabulary, dtype, device)


def on_stream(device: torch.device, stream: int | None) -> AbstractContextManager[object]:
    """Make a CUDA stream, by its handle, the current one of PyTorch, so that memory that is freed waits for it too."""
    if stream is None:
        return nullcontext()
    return torch.cuda.stream(torch.cuda.ExternalStream(stream, device))  # type: ignore[no-untyped-call]


def readable(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor that the device can read: itself, or a copy that the current stream makes."""
    if tensor.device == device or tensor.is_pinned():
        return tensor
    _refuse_while_capturing("memory that is neither on the device nor pinned")
    return tensor.to(device)


def _table(addresses: list[int], device: torch.device) -> torch.Tensor:
    if device.type != "cuda":
        return torch.tensor(addresses, dtype=torch.int64, device=device)
    _refuse_while_capturing(f"a list of more than {LISTED_ROWS} rows")
    # PyTorch keeps the pinned memory until the copy is done.
    return torch.tensor(addresses, dtype=torch.int64, pin_memory=True).to(device, non_blocking=True)


def _refuse_while_capturing(what: str) -> None:
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            f"a graph cannot be captured with {what}: give a tensor that the device can read at each replay"
        )

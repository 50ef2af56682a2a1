"""Random batches for the mask kernels, and what the kernels must make of them, computed plainly with numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from kernels.selection import Logits, RowPointers, Rows

INTEGERS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}

LAYOUTS = ("matrix", "listed rows", "table of rows", "list of tensors", "row pointers")


@dataclass
class Batch:
    """Rows somewhere in a buffer whose every element is checked afterwards.

    Attributes:
        buffer: [size] of the logits' type; what lies between the rows must stay as it is.
        starts: where in the buffer the row of each mask begins; −1: the mask is to be skipped.
        vocabulary: of each row.
        bitmask: int32 [n, words], a view of a larger matrix.
        layout: how the rows are named to the kernel, of `LAYOUTS`.
        rows: for a matrix of rows: row of the matrix for each mask.
        stride: of that matrix.
        first: where it begins.
        total: of its rows.
    """

    buffer: torch.Tensor
    starts: list[int]
    vocabulary: int
    bitmask: torch.Tensor
    layout: str
    rows: list[int] = field(default_factory=list)
    stride: int = 0
    first: int = 0
    total: int = 0

    def arguments(self, buffer: torch.Tensor) -> tuple[Logits, Rows]:
        """How to name the rows, in a copy of the buffer on the device under test."""
        size, device = buffer.element_size(), buffer.device
        if self.layout == "row pointers":
            base = buffer.data_ptr()
            addresses = torch.tensor([0 if s < 0 else base + s * size for s in self.starts], device=device)
            return RowPointers(addresses, self.vocabulary, buffer.dtype, device), None
        if self.layout == "list of tensors":
            return [buffer[s : s + self.vocabulary].view(1, 1, -1) for s in self.starts], None
        matrix = buffer.as_strided((self.total, self.vocabulary), (self.stride, 1), self.first)
        if self.layout == "matrix":
            return matrix, None
        if self.layout == "listed rows":
            return matrix, self.rows
        return matrix, torch.tensor(self.rows, dtype=torch.int32, device=device)

    def allowed(self) -> np.ndarray[Any, Any]:
        """What each mask allows: bool [n, vocabulary]."""
        bits = np.unpackbits(np.ascontiguousarray(self.bitmask.numpy()).view(np.uint8), axis=1, bitorder="little")
        wide = np.zeros((len(bits), max(self.vocabulary, bits.shape[1])), dtype=bool)
        wide[:, : bits.shape[1]] = bits
        return wide[:, : self.vocabulary]


def masks(random: np.random.Generator, count: int, words: int) -> torch.Tensor:
    """Masks of all kinds: empty, full, nearly so, at random, and in runs of any length."""
    rows = np.zeros((count, words * 32), dtype=np.uint8)
    for row in rows:
        kind = random.integers(6)
        if kind == 1:
            row[:] = 1
        elif kind in (2, 3) and len(row):
            row[:] = kind == 2
            row[random.integers(0, len(row), random.integers(1, 5))] ^= 1
        elif kind == 4:
            row[:] = random.random(len(row)) < random.random()
        elif kind == 5 and len(row):
            flips = np.sort(random.integers(0, len(row), random.integers(1, 12)))
            row[:] = np.searchsorted(flips, np.arange(len(row))) % 2
    packed = np.packbits(rows, axis=1, bitorder="little").view(np.int32) if words else np.zeros((count, 0), np.int32)
    around = random.integers(-(2**31), 2**31, (count, words + int(random.integers(1, 3)))).astype(np.int32)
    around[:, :words] = packed
    return torch.from_numpy(around)[:, :words]


def values(random: np.random.Generator, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Logits as models make them, many of them equal, now and then a stretch of −inf."""
    logits = np.round(random.normal(size=size) * 6, int(random.integers(0, 4))).astype(np.float32)
    if random.integers(3) == 0:
        begin, end = np.sort(random.integers(0, size + 1, 2))
        logits[begin:end] = -np.inf
    return torch.from_numpy(logits).to(dtype)


@st.composite
def batches(draw: st.DrawFn, *, widest: int, finite: bool, layouts: tuple[str, ...] = LAYOUTS) -> Batch:
    """A batch.

    Args:
        draw: hypothesis's.
        widest: largest vocabulary.
        finite: logits without NaN and +inf; else any bits at all.
        layouts: of `LAYOUTS`.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(list(INTEGERS)))
    layout = draw(st.sampled_from(layouts))
    vocabulary = draw(st.integers(1, widest) | st.integers(1, 70))
    full = -(-vocabulary // 32)
    words = draw(st.sampled_from([full, full, full, full + 1, max(0, full - 1), full // 2]))
    total = draw(st.integers(1, 5))
    stride = vocabulary + draw(st.integers(0, 17))
    first = draw(st.integers(0, 17))
    size = first + total * stride + 19
    if finite:
        buffer = values(random, size, dtype)
    else:
        width = 2 ** (8 * dtype.itemsize - 1)
        buffer = torch.from_numpy(random.integers(-width, width, size)).to(INTEGERS[dtype]).view(dtype)
    rows = list(range(total))
    if layout != "matrix":
        rows = draw(st.permutations(rows))[: draw(st.integers(1, total))]
    if layout in ("table of rows", "listed rows", "row pointers"):
        rows = [-1 if draw(st.integers(0, 5)) == 0 else row for row in rows]
    starts = [-1 if row < 0 else first + row * stride for row in rows]
    return Batch(buffer, starts, vocabulary, masks(random, len(rows), words), layout, rows, stride, first, total)


def masked(batch: Batch) -> torch.Tensor:
    """The buffer after the plain form."""
    expected = batch.buffer.clone()
    for start, allowed in zip(batch.starts, batch.allowed(), strict=True):
        if start >= 0:
            expected[start : start + batch.vocabulary][torch.from_numpy(~allowed)] = -torch.inf
    return expected


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal to the last bit, NaN and the sign of zero included."""
    integer = INTEGERS[left.dtype]
    return torch.equal(left.view(integer), right.view(integer))

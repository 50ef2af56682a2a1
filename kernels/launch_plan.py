"""How the kernels of ``mask_logits.cu`` are spread over a device: grids, blocks and the split of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

THREADS = 128
"""Of a block of the plain kernel."""

FUSED_THREADS = 256
"""Of a block of the fused kernel; ``FUSED_THREADS`` in the source."""

WARPS_PER_MULTIPROCESSOR = 64
"""That a multiprocessor holds at most, on data-centre devices."""

_CHUNK = 32
"""Logits that share one word of a mask, and lanes of a warp."""

_MOST_GRID_ROWS = 65_535


@dataclass(frozen=True, slots=True)
class PlainPlan:
    """A launch of ``mask_logits``.

    Attributes:
        grid: blocks (along a row, over rows).
        chunks_per_warp: chunks of 32 logits that a warp takes, 32 at most: a word of the mask for each lane.
    """

    grid: tuple[int, int]
    chunks_per_warp: int


@dataclass(frozen=True, slots=True)
class FusedPlan:
    """A cooperative launch of ``fused_mask_logits_<units>``.

    Attributes:
        blocks: of the grid, all of them on the device at once.
        units: accesses of 16 bytes per thread and part of a row, 1 or 2.
        splits: parts of a row, each a block's.
    """

    blocks: int
    units: int
    splits: int


def plan_plain(rows: int, vocabulary: int, itemsize: int, multiprocessors: int) -> PlainPlan:
    """Give warps as little as keeps every lane busy until the device is full, and then more.

    Args:
        rows: number of masks, at least 1.
        vocabulary: logits of a row, at least 1.
        itemsize: bytes of a logit, 2 or 4.
        multiprocessors: of the device.
    """
    unit = 16 // itemsize
    # A row that begins inside a unit of 16 bytes ends that much later.
    chunks = -(-(vocabulary + unit - 1) // _CHUNK)
    group = unit  # chunks that a warp covers with one unit per lane
    groups = -(-chunks // group)
    per_warp = max(1, min(_CHUNK // group, rows * groups // (multiprocessors * WARPS_PER_MULTIPROCESSOR)))
    warps = -(-groups // per_warp)
    return PlainPlan((-(-warps // (THREADS // 32)), min(rows, _MOST_GRID_ROWS)), per_warp * group)


def split_row(vocabulary: int, itemsize: int, units: int) -> int:
    """Blocks that share a row in the fused form."""
    unit = 16 // itemsize
    return -(-(vocabulary + unit - 1) // (FUSED_THREADS * units * unit))


def plan_fused(
    rows: int, vocabulary: int, itemsize: int, multiprocessors: int, resident: Callable[[int], int]
) -> FusedPlan:
    """Split rows finely while that gives idle multiprocessors work.

    Args:
        rows: number of masks, at least 1.
        vocabulary: logits of a row, at least 1.
        itemsize: bytes of a logit, 2 or 4.
        multiprocessors: of the device.
        resident: blocks that the device holds at once, for a number of units.

    Raises:
        ValueError: the row is so long that its blocks do not fit the device at once.
    """
    coarse = split_row(vocabulary, itemsize, 2)
    fine = split_row(vocabulary, itemsize, 1)
    units, splits = (1, fine) if rows * coarse < multiprocessors and fine <= resident(1) else (2, coarse)
    if splits > resident(units):
        raise ValueError(
            f"the fused mask kernel needs {splits} blocks for {vocabulary} logits, this device holds {resident(units)}"
            " at once; use mask_logits and sample from what it leaves"
        )
    return FusedPlan(min(rows * splits, resident(units)), units, splits)

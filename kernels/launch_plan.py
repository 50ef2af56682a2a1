"""How the kernels of ``mask_logits.cu`` are spread over a device: grids, blocks and the split of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

THREADS = 128
"""Of a block of the plain kernel."""

FUSED_THREADS = 256
"""Of a block of the fused kernel; ``FUSED_THREADS`` in the source."""

FUSED_UNITS = 8
"""Accesses of 16 bytes per thread of a fused block, at most; ``FUSED_UNITS`` in the source."""

WARPS_PER_MULTIPROCESSOR = 64
"""That a multiprocessor holds at most, on data-centre devices."""

_CHUNK = 32
"""Logits that share one word of a mask, and lanes of a warp."""

_MOST_GRID_ROWS = 65_535

_STEPS_OF_A_PART = 2
"""What a part costs besides its units, in units: two waits for memory and one for other blocks."""


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
    """A cooperative launch of ``fused_mask_logits``.

    Attributes:
        blocks: of the grid, all of them on the device at once.
        units: accesses of 16 bytes per thread and part of a row, `FUSED_UNITS` at most.
        splits: parts of a row, each a block's; no more than a block has threads.
    """

    blocks: int
    units: int
    splits: int


@lru_cache(maxsize=1024)
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
    # Rounded up: warps that all find room at once end sooner than smaller ones, some of which have to wait for room.
    per_warp = min(_CHUNK // group, -(-rows * groups // (multiprocessors * WARPS_PER_MULTIPROCESSOR)))
    warps = -(-groups // per_warp)
    return PlainPlan((-(-warps // (THREADS // 32)), min(rows, _MOST_GRID_ROWS)), per_warp * group)


def split_row(vocabulary: int, itemsize: int, units: int) -> int:
    """Blocks that share a row in the fused form."""
    unit = 16 // itemsize
    return -(-(vocabulary + unit - 1) // (FUSED_THREADS * units * unit))


@lru_cache(maxsize=1024)
def plan_fused(rows: int, vocabulary: int, itemsize: int, resident: int) -> FusedPlan:
    """Split rows so that all parts are done soonest: in few rounds of all blocks, and those short.

    Args:
        rows: number of masks, at least 1.
        vocabulary: logits of a row, at least 1.
        itemsize: bytes of a logit, 2 or 4.
        resident: blocks that the device holds at once.

    Raises:
        ValueError: the row is so long that its blocks do not fit the device at once.
    """
    most = min(resident, FUSED_THREADS)
    plans = []
    for units in range(1, FUSED_UNITS + 1):
        splits = split_row(vocabulary, itemsize, units)
        if splits <= most:
            rounds = -(-rows * splits // resident)
            plans.append((rounds * (units + _STEPS_OF_A_PART), units, splits))
    if not plans:
        needed = split_row(vocabulary, itemsize, FUSED_UNITS)
        raise ValueError(
            f"the fused mask kernel needs {needed} blocks for {vocabulary} logits, this device holds {most} at once;"
            " use mask_logits and sample from what it leaves"
        )
    _, units, splits = min(plans)
    return FusedPlan(min(rows * splits, resident), units, splits)

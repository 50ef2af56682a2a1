from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.launch_plan import (
    FUSED_THREADS,
    FUSED_UNITS,
    THREADS,
    WARPS_PER_MULTIPROCESSOR,
    plan_fused,
    plan_plain,
    split_row,
)

sizes = st.sampled_from([2, 4])


@given(
    rows=st.integers(1, 100_000),
    vocabulary=st.integers(1, 300_000),
    itemsize=sizes,
    multiprocessors=st.integers(1, 200),
)
def test_every_logit_of_a_row_has_its_warp_wherever_the_row_begins(
    rows: int, vocabulary: int, itemsize: int, multiprocessors: int
) -> None:
    plan = plan_plain(rows, vocabulary, itemsize, multiprocessors)
    unit = 16 // itemsize
    assert plan.grid[0] * (THREADS // 32) * plan.chunks_per_warp * 32 >= vocabulary + unit - 1
    assert plan.chunks_per_warp % unit == 0, "a warp goes over whole groups: one unit per lane"
    assert plan.chunks_per_warp <= 32, "one word of the mask per lane"
    assert plan.grid[1] == min(rows, 65_535)


@pytest.mark.parametrize("vocabulary", [32_000, 128_256, 262_144])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_one_row_is_spread_as_finely_as_16_byte_accesses_allow(vocabulary: int, itemsize: int) -> None:
    plan = plan_plain(1, vocabulary, itemsize, multiprocessors=132)
    per_warp = 32 * 16 // itemsize
    assert plan.chunks_per_warp * 32 == per_warp
    assert plan.grid[0] >= vocabulary // per_warp // (THREADS // 32)


def test_one_row_of_128k_reaches_every_multiprocessor_of_an_h200() -> None:
    assert plan_plain(1, 128_256, 4, multiprocessors=132).grid == (251, 1)
    fused = plan_fused(1, 128_256, 4, resident=792)
    assert (fused.blocks, fused.units) == (126, 1)


def test_many_rows_fill_the_lanes_of_each_warp() -> None:
    plan = plan_plain(256, 128_256, 4, multiprocessors=132)
    assert plan.chunks_per_warp == 32


@pytest.mark.parametrize("rows", [1, 8, 32])
@pytest.mark.parametrize("vocabulary", [32_000, 128_256, 262_144])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_up_to_32_rows_are_masked_by_warps_that_an_h200_holds_at_once(
    rows: int, vocabulary: int, itemsize: int
) -> None:
    plan = plan_plain(rows, vocabulary, itemsize, multiprocessors=132)
    most = 132 * WARPS_PER_MULTIPROCESSOR // (THREADS // 32)
    assert plan.grid[0] * plan.grid[1] <= most or plan.chunks_per_warp == 32


def test_a_batch_of_32_is_one_round_of_the_fused_form_and_a_large_one_takes_long_parts() -> None:
    plan = plan_fused(32, 128_256, 4, resident=792)
    assert plan.blocks == 32 * plan.splits <= 792
    assert plan_fused(256, 128_256, 4, resident=792).units > 4


@given(
    rows=st.integers(1, 5000),
    vocabulary=st.integers(1, 3_000_000),
    itemsize=sizes,
    held=st.integers(1, 1600),
)
def test_all_blocks_that_wait_for_each_other_are_on_the_device_at_once(
    rows: int, vocabulary: int, itemsize: int, held: int
) -> None:
    most = min(held, FUSED_THREADS)
    if split_row(vocabulary, itemsize, FUSED_UNITS) > most:
        with pytest.raises(ValueError, match=f"holds {most} at once"):
            plan_fused(rows, vocabulary, itemsize, held)
        return
    plan = plan_fused(rows, vocabulary, itemsize, held)
    assert plan.splits <= plan.blocks <= held
    assert plan.splits <= FUSED_THREADS, "a thread waits for one part"
    assert plan.splits * FUSED_THREADS * plan.units * 16 >= (vocabulary - 1) * itemsize + 16
    assert 1 <= plan.units <= FUSED_UNITS

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.launch_plan import FUSED_THREADS, THREADS, plan_fused, plan_plain, split_row

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
    fused = plan_fused(1, 128_256, 4, 132, resident=lambda units: 396)
    assert (fused.blocks, fused.units) == (126, 1)


def test_many_rows_fill_the_lanes_of_each_warp() -> None:
    plan = plan_plain(256, 128_256, 4, multiprocessors=132)
    assert plan.chunks_per_warp == 32


@given(
    rows=st.integers(1, 5000),
    vocabulary=st.integers(1, 300_000),
    itemsize=sizes,
    multiprocessors=st.integers(1, 200),
    per_multiprocessor=st.integers(1, 8),
)
def test_all_blocks_that_wait_for_each_other_are_on_the_device_at_once(
    rows: int, vocabulary: int, itemsize: int, multiprocessors: int, per_multiprocessor: int
) -> None:
    held = multiprocessors * per_multiprocessor
    if split_row(vocabulary, itemsize, 2) > held:
        with pytest.raises(ValueError, match=f"holds {held} at once"):
            plan_fused(rows, vocabulary, itemsize, multiprocessors, lambda units: held)
        return
    plan = plan_fused(rows, vocabulary, itemsize, multiprocessors, lambda units: held)
    assert plan.splits <= plan.blocks <= held
    assert plan.splits * FUSED_THREADS * plan.units * 16 >= (vocabulary - 1) * itemsize + 16
    assert plan.units in (1, 2)

"""The plain kernel, run on this processor, and on a GPU where there is one."""

from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.arguments import LISTED_ROWS
from kernels.launch_plan import THREADS
from kernels.mask_logits import launch_mask, mask_logits
from kernels.selection import select
from tests.kernels.cpu_device import CpuDevice
from tests.kernels.samples import Batch, batches, masked, same_bits

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

Libraries = dict[torch.dtype, ctypes.CDLL]


@settings(max_examples=250, deadline=None)
@given(batch=batches(widest=4500, finite=False), data=st.data(), backwards=st.booleans())
def test_it_writes_minus_infinity_where_the_mask_forbids_and_nothing_else(
    kernels_on_cpu: Libraries, batch: Batch, data: st.DataObject, backwards: bool
) -> None:
    device = CpuDevice(kernels_on_cpu, data.draw(st.sampled_from([1, 100])), held=0, backwards=backwards)
    buffer = batch.buffer.clone()
    logits, rows = batch.arguments(buffer)
    selection = select(logits, batch.bitmask, rows)
    if data.draw(st.booleans()):
        launch_mask(device, selection)
    else:
        # Any number of groups per warp, and fewer rows of blocks than masks, as only large batches have them.
        unit = 16 // buffer.element_size()
        chunks = data.draw(st.integers(1, 32 // unit)) * unit
        blocks = -(-(batch.vocabulary + unit - 1) // (chunks * 32 * (THREADS // 32)))
        masking, _ = selection.masking()
        grid = (blocks, data.draw(st.integers(1, selection.count)))
        device.launch("mask_logits", buffer.dtype, grid, THREADS, (masking, ctypes.c_int(chunks)))
    assert device.launches == ["mask_logits"]
    assert same_bits(buffer, masked(batch))


def test_a_list_longer_than_the_arguments_hold_goes_through_a_table(kernels_on_cpu: Libraries) -> None:
    device = CpuDevice(kernels_on_cpu, multiprocessors=4, held=0, backwards=False)
    logits = torch.zeros(80, 33)
    rows = [row for row in range(79, -1, -1) if row != 7]
    assert len(rows) > LISTED_ROWS
    bitmask = torch.zeros(80, 2, dtype=torch.int32)
    bitmask[:, 0] = torch.arange(80)
    launch_mask(device, select(logits, bitmask, rows))
    assert device.launches == ["mask_logits"]
    for source, row in enumerate(rows):
        assert logits[row].isfinite().nonzero().flatten().tolist() == [bit for bit in range(7) if source >> bit & 1]
    assert logits[7].isfinite().all()


@needs_gpu
@settings(max_examples=300, deadline=None)
@given(batch=batches(widest=70_000, finite=False), pinned=st.booleans())
def test_on_a_gpu_it_does_the_same(batch: Batch, pinned: bool) -> None:
    buffer = batch.buffer.cuda()
    logits, rows = batch.arguments(buffer)
    bitmask = batch.bitmask.contiguous().pin_memory() if pinned else batch.bitmask.cuda()
    mask_logits(logits, bitmask, rows)
    assert same_bits(buffer.cpu(), masked(batch))


@needs_gpu
def test_on_a_gpu_it_takes_another_stream() -> None:
    stream = torch.cuda.Stream()
    logits = torch.zeros(4, 128_256, device="cuda")
    bitmask = torch.zeros(4, 4008, dtype=torch.int32).pin_memory()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # work before, so that a launch on the wrong stream would come too early
        logits.fill_(1.0)
    mask_logits(logits, bitmask, stream=stream.cuda_stream)
    stream.synchronize()
    assert logits.isneginf().all()


@needs_gpu
def test_on_a_gpu_a_captured_graph_reads_masks_and_rows_again() -> None:
    vocabulary = 32_003
    logits = torch.zeros(8, vocabulary, dtype=torch.bfloat16, device="cuda")
    bitmask = torch.full((4, 1001), -1, dtype=torch.int32).pin_memory()
    rows = torch.full((4,), -1, dtype=torch.int32).pin_memory()
    mask_logits(logits, bitmask, rows)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mask_logits(logits, bitmask, rows)
    for row in (3, 6):
        rows[1] = row
        bitmask[1] = 0
        bitmask[1, 0] = row
        logits.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert logits[row].isfinite().nonzero().flatten().tolist() == [bit for bit in range(3) if row >> bit & 1]
        assert logits.isfinite().sum() == 7 * vocabulary + row.bit_count()


@needs_gpu
def test_on_a_gpu_kernels_that_are_placed_early_wait_for_what_is_ahead() -> None:
    logits = torch.zeros(64, 128_256, device="cuda")
    nothing = torch.zeros(64, 4008, dtype=torch.int32, device="cuda")
    everything = torch.full_like(nothing, -1)
    finite = torch.zeros(30, dtype=torch.int64, device="cuda")
    for left in finite:
        logits.fill_(1.0)
        mask_logits(logits, everything)  # ends at once, and must not let the next overtake the filling
        mask_logits(logits, nothing)
        left.copy_(logits.isfinite().sum())
    assert not finite.any()

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import mask_logits as front_door
from kernels.cpu import CpuKernels
from kernels.mask_logits import mask_logits
from kernels.numpy_operations import mask_with_numpy
from kernels.nvrtc import KernelUnavailable
from kernels.selection import RowPointers, select
from kernels.tensor_operations import mask_with_tensor_operations
from tests.kernels.samples import Batch, batches, masked, same_bits

TENSORS = ("matrix", "listed rows", "table of rows", "list of tensors")


@settings(max_examples=400, deadline=None)
@given(batch=batches(widest=3000, finite=False, layouts=TENSORS))
def test_on_a_cpu_all_ways_do_what_the_mask_says(cpu_kernels: CpuKernels, batch: Batch) -> None:
    expected = masked(batch)
    for mask in (mask_with_tensor_operations, mask_with_numpy, cpu_kernels.mask):
        buffer = batch.buffer.clone()
        logits, rows = batch.arguments(buffer)
        mask(select(logits, batch.bitmask, rows))
        assert same_bits(buffer, expected), mask.__name__


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kinds=st.lists(st.sampled_from(["all", "few", "none", "any"]), min_size=1))
def test_rows_whose_masks_differ_in_kind_are_masked_in_one_call(
    cpu_kernels: CpuKernels, seed: int, kinds: list[str]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    full = {"all": -1, "few": 0, "none": 0, "any": 0}
    bitmask = torch.tensor([[full[kind]] * 80 for kind in kinds], dtype=torch.int32)
    for row, kind in zip(bitmask, kinds, strict=True):
        if kind == "any":
            row.copy_(torch.randint(-(2**31), 2**31, (80,), generator=generator))
        elif kind == "few":
            row[int(torch.randint(80, (), generator=generator))] = 5
    logits = torch.randn(len(kinds), 80 * 32, generator=generator)
    allowed = (bitmask[:, :, None] >> torch.arange(32)).bitwise_and(1).flatten(1).bool()
    expected = logits.masked_fill(~allowed, -torch.inf)
    for mask in (mask_with_numpy, cpu_kernels.mask):
        masked_logits = logits.clone()
        mask(select(masked_logits, bitmask, None))
        assert same_bits(masked_logits, expected)


def test_rows_of_a_larger_matrix_can_be_masked_in_place() -> None:
    logits = torch.zeros(3, 200)
    mask_logits(logits[1:, :64], torch.zeros(2, 2, dtype=torch.int32))
    assert logits[0].isfinite().all()
    assert logits[1:, :64].isneginf().all()
    assert logits[1:, 64:].isfinite().all()


def test_fewer_rows_than_masks_use_the_first_masks() -> None:
    logits = torch.zeros(2, 32)
    mask_logits(logits, torch.tensor([[1], [2], [4]], dtype=torch.int32), rows=[1])
    assert logits[0].isfinite().all()
    assert logits[1].isfinite().nonzero().flatten().tolist() == [0]
    mask_logits(logits, torch.zeros(3, 1, dtype=torch.int32), rows=[])
    assert logits[0].isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    mask = torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(TypeError, match="int64"):
        mask_logits(torch.zeros(1, 32), mask.long())
    with pytest.raises(TypeError, match="float64"):
        mask_logits(torch.zeros(1, 32, dtype=torch.float64), mask)
    with pytest.raises(ValueError, match="2 masks"):
        mask_logits(torch.zeros(1, 32), torch.zeros(2, 1, dtype=torch.int32))
    with pytest.raises(ValueError, match="contiguous"):
        mask_logits(torch.zeros(32, 2).T, torch.zeros(2, 1, dtype=torch.int32))
    with pytest.raises(ValueError, match="contiguous"):
        mask_logits(torch.zeros(2, 64), torch.zeros(2, 2, dtype=torch.int32).T)
    with pytest.raises(ValueError, match="row 1"):
        mask_logits(torch.zeros(1, 32), mask, rows=[1])
    with pytest.raises(ValueError, match="row 1"):
        mask_logits(torch.zeros(1, 32), mask, rows=torch.tensor([1], dtype=torch.int32))
    with pytest.raises(TypeError, match="int32"):
        mask_logits(torch.zeros(1, 32), mask, rows=torch.tensor([0]))
    with pytest.raises(ValueError, match="no logits"):
        mask_logits([], mask)
    with pytest.raises(ValueError, match="32 contiguous"):
        mask_logits([torch.zeros(32), torch.zeros(2, 32)], torch.zeros(2, 1, dtype=torch.int32))
    with pytest.raises(TypeError, match="meta"):
        mask_logits(torch.zeros(1, 32), mask.to("meta"))


def test_row_pointers_that_no_kernel_follows_are_refused() -> None:
    mask = torch.zeros(1, 1, dtype=torch.int32)
    cpu = torch.device("cpu")
    with pytest.raises(KernelUnavailable, match="give tensors"):
        mask_logits(RowPointers(torch.tensor([64]), 32, torch.float32, cpu), mask)
    with pytest.raises(TypeError, match="int64"):
        mask_logits(RowPointers(torch.tensor([64.0]), 32, torch.float32, cpu), mask)
    with pytest.raises(TypeError, match="give no rows"):
        mask_logits(RowPointers(torch.tensor([64]), 32, torch.float32, cpu), mask, rows=[0])


def test_other_devices_are_served_by_tensor_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    monkeypatch.setattr(
        front_door, "mask_with_tensor_operations", lambda selection: served.append(selection.device.type)
    )
    mask_logits(torch.zeros(1, 32, device="meta"), torch.zeros(1, 1, dtype=torch.int32))
    assert served == ["meta"]

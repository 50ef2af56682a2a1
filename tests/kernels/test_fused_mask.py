"""The fused form: its kernel, run on this processor and on a GPU where there is one, and its tensor operations."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.fused_mask import Choices, FusedMask
from kernels.launch_plan import FUSED_UNITS, split_row
from kernels.selection import RowPointers, select
from tests.kernels.cpu_device import CpuDevice
from tests.kernels.samples import INTEGERS, LAYOUTS, Batch, batches

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

Libraries = dict[torch.dtype, ctypes.CDLL]


@dataclass
class Sampling:
    temperature: torch.Tensor | None
    min_p: torch.Tensor | None

    def of(self, i: int) -> tuple[np.float32, np.float32]:
        heat = 1.0 if self.temperature is None else float(self.temperature[i])
        share = 0.0 if self.min_p is None else float(self.min_p[i])
        return np.float32(heat), np.float32(share)


@st.composite
def samplings(draw: st.DrawFn, count: int) -> Sampling:
    def numbers(choices: list[float]) -> torch.Tensor | None:
        if draw(st.integers(0, 3)) == 0:
            return None
        return torch.tensor([draw(st.sampled_from(choices)) for _ in range(count)], dtype=torch.float32)

    return Sampling(numbers([0.0, 1.0, 0.7, 1.9, 0.01, -1.0]), numbers([0.0, 0.0, 0.05, 0.3, 1.0, 1.5]))


def check(batch: Batch, sampling: Sampling, after: torch.Tensor, choices: Choices) -> None:
    """Compare with the definition, in numpy; the buffer outside the rows must be what it was."""
    expected = batch.buffer.clone()
    dtype = batch.buffer.dtype
    for i, (start, allowed) in enumerate(zip(batch.starts, batch.allowed(), strict=True)):
        if start < 0:
            continue
        row = slice(start, start + batch.vocabulary)
        logits = batch.buffer[row].float().numpy()
        if np.isneginf(logits).all():
            assert choices.allowed_mass[i].isnan()
        else:
            weights = np.exp(logits.astype(np.float64) - logits.max())
            mass = weights[allowed].sum() / weights.sum()
            assert choices.allowed_mass[i].item() == pytest.approx(mass, rel=1e-4, abs=1e-9)
        kept = np.where(allowed, logits, -np.inf)
        best = -1 if np.isneginf(kept).all() else int(kept.argmax())
        assert choices.argmax[i].item() == best

        heat, share = sampling.of(i)
        result = logits.copy()
        if heat > 0 and best >= 0:
            distance = (logits - logits[best]) * (np.float32(1) / heat)
            if heat != 1:
                result = distance
            if share > 0:
                floor = min(np.log(share), np.float32(0))
                result[distance < floor] = -np.inf
                # On the floor itself, a logarithm's last bit decides.
                close = allowed & (np.abs(distance - floor) <= 1e-6 * abs(floor)) & (distance != 0)
                result[close] = after[row].float().numpy()[close]
        expected[row] = torch.from_numpy(np.where(allowed, result, -np.inf)).to(dtype)
    integer = INTEGERS[dtype]
    different = (after.view(integer) != expected.view(integer)).nonzero().flatten().tolist()
    assert not different, f"buffer differs at {different[:5]}: {after[different[:5]]} for {expected[different[:5]]}"


@settings(max_examples=200, deadline=None)
@given(
    batch=batches(widest=9000, finite=True),
    data=st.data(),
    room=st.integers(0, 12),
    backwards=st.booleans(),
)
def test_the_kernel_does_what_the_definition_says(
    kernels_on_cpu: Libraries, batch: Batch, data: st.DataObject, room: int, backwards: bool
) -> None:
    sampling = data.draw(samplings(len(batch.starts)))
    held = split_row(batch.vocabulary, batch.buffer.dtype.itemsize, FUSED_UNITS) + room
    device = CpuDevice(kernels_on_cpu, 1, held, backwards)
    buffer = batch.buffer.clone()
    logits, rows = batch.arguments(buffer)
    fused = poisoned(FusedMask(len(batch.starts), batch.vocabulary, "cpu"))
    fused.launch(device, select(logits, batch.bitmask, rows), sampling.temperature, sampling.min_p)
    check(batch, sampling, buffer, fused._choices)
    skipped = [start < 0 for start in batch.starts]
    assert (fused._choices.argmax[skipped] == 77).all()


@settings(max_examples=30, deadline=None)
@given(several=st.lists(batches(widest=5000, finite=True), min_size=2, max_size=4), data=st.data())
def test_launches_of_any_shape_may_follow_each_other_in_one_workspace(
    kernels_on_cpu: Libraries, several: list[Batch], data: st.DataObject
) -> None:
    fused = poisoned(FusedMask(5, 5000, "cpu"))
    for batch in several:
        sampling = data.draw(samplings(len(batch.starts)))
        buffer = batch.buffer.clone()
        logits, rows = batch.arguments(buffer)
        device = CpuDevice(kernels_on_cpu, 1, held=data.draw(st.integers(2, 12)), backwards=False)
        fused.launch(device, select(logits, batch.bitmask, rows), sampling.temperature, sampling.min_p)
        check(batch, sampling, buffer, fused._choices)


def poisoned(fused: FusedMask) -> FusedMask:
    """Whatever a launch does not write itself is wrong."""
    fused._parts.fill_(-0x1818_1818_1818_1819)
    fused._choices.argmax.fill_(77)
    fused._choices.allowed_mass.fill_(0.77)
    return fused


@settings(max_examples=100, deadline=None)
@given(batch=batches(widest=600, finite=True, layouts=LAYOUTS[:4]), data=st.data())
def test_tensor_operations_do_what_the_definition_says(batch: Batch, data: st.DataObject) -> None:
    sampling = data.draw(samplings(len(batch.starts)))
    buffer = batch.buffer.clone()
    logits, rows = batch.arguments(buffer)
    choices = FusedMask(8, 600, "cpu")(
        logits, batch.bitmask, rows, temperature=sampling.temperature, min_p=sampling.min_p
    )
    check(batch, sampling, buffer, choices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("on", ["kernel", "tensor operations"])
def test_numbers_that_are_none_are_reported_and_never_chosen(
    kernels_on_cpu: Libraries, dtype: torch.dtype, on: str
) -> None:
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor(
        [[nan, 1, 2, 0], [inf, 1, 2, 0], [-inf, -inf, -inf, -inf], [-inf, 3, -inf, -inf], [5, 4, -inf, 1]], dtype=dtype
    )
    bitmask = torch.tensor([[0b1111], [0b0110], [0b1111], [0b1111], [0b0100]], dtype=torch.int32)
    heat = torch.full((5,), 0.5)
    fused = poisoned(FusedMask(5, 4, "cpu"))
    if on == "kernel":
        device = CpuDevice(kernels_on_cpu, 1, 2, backwards=False)
        fused.launch(device, select(logits, bitmask, None), heat, torch.full((5,), 0.1))
        choices = fused._choices
    else:
        choices = fused(logits, bitmask, temperature=heat, min_p=torch.full((5,), 0.1))
    assert choices.argmax.tolist() == [2, 2, -1, 1, -1]
    assert choices.allowed_mass.isnan().tolist() == [True, True, True, False, False]
    assert choices.allowed_mass[3:].tolist() == [1.0, 0.0]
    assert logits[0, 0].isnan()
    assert logits[0, 2] == 0
    assert logits[4].isneginf().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_low_temperature_does_not_overflow(kernels_on_cpu: Libraries, dtype: torch.dtype) -> None:
    logits = torch.tensor([[300.0, 299.5, 10.0]], dtype=dtype)
    distance = logits[0, 1].item() - logits[0, 0].item()
    fused = FusedMask(1, 3, "cpu")
    everything = torch.full((1, 1), -1, dtype=torch.int32)
    device = CpuDevice(kernels_on_cpu, 1, 1, backwards=False)
    fused.launch(device, select(logits, everything, None), torch.tensor([1e-3]), None)
    assert logits[0, :2].tolist() == pytest.approx([0.0, distance * 1000], rel=1e-2)


def test_what_does_not_fit_is_refused(kernels_on_cpu: Libraries) -> None:
    fused = FusedMask(2, 64, "cpu")
    masks = torch.zeros(3, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match="3 rows of 64"):
        fused(torch.zeros(3, 64), masks)
    with pytest.raises(ValueError, match="2 rows of 65"):
        fused(torch.zeros(2, 65), masks[:2])
    with pytest.raises(ValueError, match="temperature must be 2"):
        fused(torch.zeros(2, 64), masks[:2], temperature=torch.ones(1))
    with pytest.raises(ValueError, match="min_p must be 2"):
        fused(torch.zeros(2, 64), masks[:2], min_p=torch.ones(2, dtype=torch.float64))
    with pytest.raises(TypeError, match="made for cpu"):
        fused(RowPointers(torch.tensor([64]), 64, torch.float32, torch.device("meta")), masks[:1])
    large = FusedMask(1, 100_000, "cpu")
    selection = select(torch.zeros(1, 100_000), torch.zeros(1, 3125, dtype=torch.int32), None)
    with pytest.raises(ValueError, match="needs 13 blocks for 100000 logits, this device holds 3 at once"):
        large.launch(CpuDevice(kernels_on_cpu, 1, 3, backwards=False), selection, None, None)


@needs_gpu
@settings(max_examples=300, deadline=None)
@given(batch=batches(widest=150_000, finite=True), data=st.data())
def test_on_a_gpu_it_does_the_same(batch: Batch, data: st.DataObject) -> None:
    sampling = data.draw(samplings(len(batch.starts)))
    buffer = batch.buffer.cuda()
    logits, rows = batch.arguments(buffer)
    fused = poisoned(FusedMask(len(batch.starts), batch.vocabulary, "cuda"))
    temperature = None if sampling.temperature is None else sampling.temperature.cuda()
    min_p = None if sampling.min_p is None else sampling.min_p.pin_memory()
    bitmask = batch.bitmask.contiguous().pin_memory()
    choices = fused(logits, bitmask, rows, temperature=temperature, min_p=min_p)
    check(batch, sampling, buffer.cpu(), Choices(choices.argmax.cpu(), choices.allowed_mass.cpu()))


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu_nan_stays_nan(dtype: torch.dtype) -> None:
    logits = torch.tensor([[torch.nan, 1, 2, 0]], dtype=dtype, device="cuda")
    everything = torch.full((1, 1), -1, dtype=torch.int32, device="cuda")
    choices = FusedMask(1, 4, "cuda")(logits, everything, temperature=torch.full((1,), 0.5, device="cuda"))
    assert logits.isnan().tolist() == [[True, False, False, False]]
    assert choices.allowed_mass.isnan().all()
    assert choices.argmax.tolist() == [2]


@needs_gpu
def test_on_a_gpu_many_rows_and_replays_of_a_captured_graph_agree_with_tensor_operations() -> None:
    vocabulary, count = 128_256, 64
    fused = FusedMask(count, vocabulary, "cuda")
    logits = torch.empty(count, vocabulary, device="cuda")
    bitmask = torch.zeros(count, vocabulary // 32, dtype=torch.int32).pin_memory()
    heat = torch.linspace(0, 2, count).pin_memory()
    share = torch.full((count,), 0.02, device="cuda")
    logits.normal_()
    fused(logits, bitmask, temperature=heat, min_p=share)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        choices = fused(logits, bitmask, temperature=heat, min_p=share)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        bitmask.random_(-(2**31), 2**31, generator=generator)
        before = torch.randn(count, vocabulary, generator=generator) * 5
        logits.copy_(before)
        graph.replay()
        torch.cuda.synchronize()
        expected = FusedMask(count, vocabulary, "cpu")(before, bitmask, temperature=heat, min_p=share.cpu())
        assert choices.argmax.tolist() == expected.argmax.tolist()
        torch.testing.assert_close(choices.allowed_mass.cpu(), expected.allowed_mass, rtol=1e-4, atol=1e-6)
        assert (logits.cpu().isneginf() != before.isneginf()).sum() <= count, "min-p may differ in a last bit only"

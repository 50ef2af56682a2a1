"""What NVRTC makes of the kernels does what their source says, and touches no memory that it should not."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.fused_mask import FusedMask
from kernels.launch_plan import FUSED_UNITS, split_row
from kernels.mask_logits import launch_mask
from kernels.nvrtc import compile_cuda
from kernels.selection import select
from tests.kernels.ptx_on_cpu import PtxDevice, as_cpp, build, compile_ptx
from tests.kernels.samples import Batch, batches, masked, same_bits
from tests.kernels.test_fused_mask import check, poisoned, samplings

Libraries = dict[torch.dtype, ctypes.CDLL]


@pytest.fixture(scope="module", params=[(9, 1), (10, 1)], ids=["Hopper", "Blackwell"])
def ptx(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    """The kernels' PTX, compiled for this processor."""
    if shutil.which("g++") is None:
        pytest.skip("running PTX on the CPU needs g++ (on Debian: apt-get install g++)")
    return build(tmp_path_factory.mktemp("ptx"), request.param)


def test_wrong_accesses_to_memory_are_reported(tmp_path: Path) -> None:
    source = """extern "C" __global__ void k(unsigned* data, const int* offset) {
        __shared__ unsigned words[64];
        words[threadIdx.x + *offset % 2] = 7;
        __syncthreads();
        data[*offset / 2] = words[0];
    }"""
    (tmp_path / "k.cpp").write_text(as_cpp(compile_cuda(source, "k.cu", {}, (9, 1)).code.decode()))
    library = compile_ptx(tmp_path / "k.cpp")
    library.first_offence.restype = ctypes.c_char_p
    data = (ctypes.c_uint * 4)()
    for offset, offence in (
        (2, b""),
        (1, b"a load of shared memory"),
        (4, b"a store to other"),
        (-2, b"a store to other"),
    ):
        place = ctypes.c_int(offset)
        pointers = [ctypes.c_uint64(ctypes.addressof(each)) for each in (data, place)]
        library.forget_ranges()
        library.allow(pointers[0], ctypes.c_uint64(8), False, True)
        library.allow(pointers[1], ctypes.c_uint64(4), True, False)
        assert library.run_k(1, 1, 32, True, False, *map(ctypes.byref, pointers)) == 0
        assert library.first_offence().startswith(offence)
        assert bool(library.first_offence()) == bool(offence)
    assert list(data) == [0, 7, 0, 0]


@settings(max_examples=150, deadline=None)
@given(batch=batches(widest=4500, finite=False), busy=st.sampled_from([1, 100]), backwards=st.booleans())
def test_the_plain_form_masks(ptx: Libraries, batch: Batch, busy: int, backwards: bool) -> None:
    buffer = batch.buffer.clone()
    logits, rows = batch.arguments(buffer)
    launch_mask(PtxDevice(ptx, busy, held=0, backwards=backwards), select(logits, batch.bitmask, rows))
    assert same_bits(buffer, masked(batch))


@settings(max_examples=100, deadline=None)
@given(batch=batches(widest=9000, finite=True), data=st.data(), room=st.integers(0, 12), backwards=st.booleans())
def test_the_fused_form_does_what_its_definition_says(
    ptx: Libraries, batch: Batch, data: st.DataObject, room: int, backwards: bool
) -> None:
    sampling = data.draw(samplings(len(batch.starts)))
    held = split_row(batch.vocabulary, batch.buffer.dtype.itemsize, FUSED_UNITS) + room
    device = PtxDevice(ptx, 1, held, backwards)
    fused = poisoned(FusedMask(len(batch.starts), batch.vocabulary, "cpu"))
    for _ in range(2):
        buffer = batch.buffer.clone()
        logits, rows = batch.arguments(buffer)
        fused.launch(device, select(logits, batch.bitmask, rows), sampling.temperature, sampling.min_p)
        check(batch, sampling, buffer, fused._choices)

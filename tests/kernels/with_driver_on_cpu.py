"""Drive `kernels.cuda_device` through the real ``cuda.bindings`` and the driver of ``driver_on_cpu.cpp``.

A program of its own, as a process loads one driver: ``python -m tests.kernels.with_driver_on_cpu <folder>``, where the
folder holds ``libcuda.so.1`` and what `tests.kernels.cpu_device.build` made, and ``LD_LIBRARY_PATH`` names it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import cuda_device as module
from kernels.cuda_device import cuda_device
from kernels.fused_mask import FusedMask
from kernels.launch_plan import THREADS
from kernels.mask_logits import launch_mask
from kernels.nvrtc import KernelUnavailable, compiled_code
from kernels.selection import select
from tests.kernels.samples import Batch, batches, masked, same_bits
from tests.kernels.test_fused_mask import check, poisoned, samplings

STREAM = 0x7FEE_DEAD_BEE0
MULTIPROCESSORS = 3
NO_DEVICE = 3
FAULTS = {
    "cuInit=100": "cuInit fails on CUDA device 0: CUDA_ERROR_NO_DEVICE",
    "cuModuleLoadData=209": "cuModuleLoadData fails on CUDA device 0: CUDA_ERROR_NO_BINARY_FOR_GPU",
}
"""What the driver is told to fail with, and what is then said."""


class Launch(ctypes.Structure):
    """``Launch`` in the driver."""

    _fields_ = (
        ("grid_x", ctypes.c_uint),
        ("grid_y", ctypes.c_uint),
        ("threads", ctypes.c_uint),
        ("cooperative", ctypes.c_int),
        ("overlapping", ctypes.c_int),
        ("stream", ctypes.c_void_p),
    )


def main(folder: Path) -> None:
    driver = ctypes.CDLL(str(folder / "libcuda.so.1"))
    driver.last_launch.restype = Launch
    driver.launches_done.restype = ctypes.c_size_t
    driver.play_device(MULTIPROCESSORS, 4)

    def compiled(source: str, name: str, defines: dict[str, str], capability: tuple[int, int]) -> bytes:
        code = compiled_code(source, name, defines, capability)
        library = str(folder / f"{defines['LOGIT']}.so").encode()
        assert driver.play_kernels(code, ctypes.c_size_t(len(code)), library)
        return code

    # What PyTorch says of a device: its builds for processors have none.
    torch.cuda.get_device_properties = lambda _: SimpleNamespace(  # type: ignore[assignment]
        major=9, minor=0, multi_processor_count=MULTIPROCESSORS
    )
    torch._C._cuda_getCurrentRawStream = lambda _: STREAM  # type: ignore[assignment]
    module.compiled_code = compiled
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    for fault in FAULTS:
        os.environ["DRIVER_FAILS"] = fault
        assert cuda_device(0) is None
        cuda_device.cache_clear()
    del os.environ["DRIVER_FAILS"]
    device = cuda_device(0)
    if device is None:
        sys.exit(NO_DEVICE)  # the log says why
    assert cuda_device(0) is device
    assert device.multiprocessors == MULTIPROCESSORS
    overlaps = "DRIVER_REFUSES_OVERLAP" not in os.environ

    @settings(max_examples=60, deadline=None)
    @given(batch=batches(widest=4500, finite=False))
    def plain(batch: Batch) -> None:
        buffer = batch.buffer.clone()
        logits, rows = batch.arguments(buffer)
        before = driver.launches_done()
        launch_mask(device, select(logits, batch.bitmask, rows))
        assert same_bits(buffer, masked(batch))
        assert driver.launches_done() == before + 1
        launch = driver.last_launch()
        assert (launch.threads, launch.cooperative, launch.stream) == (THREADS, 0, STREAM)
        assert launch.overlapping == overlaps

    @settings(max_examples=60, deadline=None)
    @given(batch=batches(widest=3000, finite=True), data=st.data())
    def fused(batch: Batch, data: st.DataObject) -> None:
        sampling = data.draw(samplings(len(batch.starts)))
        buffer = batch.buffer.clone()
        logits, rows = batch.arguments(buffer)
        mask = poisoned(FusedMask(len(batch.starts), batch.vocabulary, "cpu"))
        mask.launch(device, select(logits, batch.bitmask, rows), sampling.temperature, sampling.min_p)
        check(batch, sampling, buffer, mask._choices)
        assert driver.last_launch().cooperative
        assert driver.last_launch().overlapping == overlaps
        assert driver.last_launch().grid_x <= 4 * MULTIPROCESSORS

    plain()
    # A thread in which nothing has made the device's context the current one.
    failures: list[BaseException] = []

    def elsewhere() -> None:
        try:
            fused()
            assert driver.contexts_left() == 0
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    with pytest.raises(KernelUnavailable, match="cuModuleGetFunction fails on CUDA device 0: CUDA_ERROR_NOT_FOUND"):
        device.launch("no_such_kernel", torch.float32, (1, 1), 32, ())
    with pytest.raises(KernelUnavailable, match="cuLaunchKernelEx fails on CUDA device 0: CUDA_ERROR_INVALID_VALUE"):
        device.launch("mask_logits", torch.float32, (1, 70_000), 32, (ctypes.c_int(0),))
    with pytest.raises(KernelUnavailable, match="CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"):
        device.launch("fused_mask_logits", torch.float32, (13, 1), 256, (ctypes.c_int(0),), cooperative=True)
    assert driver.contexts_left() == 0, "a context was pushed and not popped"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

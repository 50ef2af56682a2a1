from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import cuda_device as module
from kernels.arguments import LOGITS
from kernels.cuda_device import SOURCE, CudaDevice, cuda_device
from kernels.nvrtc import KernelUnavailable, compiled_code
from tests.kernels.with_driver_on_cpu import FAULTS, NO_DEVICE

HERE = Path(__file__).parent

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real driver, which the GPU tests use")


@pytest.fixture(scope="module")
def driver(kernels_on_cpu: dict[torch.dtype, ctypes.CDLL]) -> Path:
    """A folder with ``libcuda.so.1``, a driver whose device is this processor, and the kernels for it and for sm_90."""
    folder = Path(next(iter(kernels_on_cpu.values()))._name).parent
    compiler = shutil.which("g++")
    assert compiler is not None
    options = ["-std=c++17", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, *options, "-o", str(library), str(HERE / "driver_on_cpu.cpp"), "-ldl"], check=True)
    # NVRTC asks a driver that is there for more than this one has: it compiles where there is none.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        for logit in LOGITS.values():
            compiled_code(SOURCE.read_text(), SOURCE.name, {"LOGIT": logit}, (9, 0))
    return folder


def run(driver: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.kernels.with_driver_on_cpu", str(driver)],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver), "XDG_CACHE_HOME": str(driver), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_without_bindings_there_is_one_warning_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    cuda_device.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger=module.__name__):
            assert cuda_device(0) is None
            assert cuda_device(0) is None
    finally:
        cuda_device.cache_clear()
    [record] = caplog.records
    assert "slower" in record.getMessage()
    assert "pip install 'cuda-bindings" in record.getMessage()


@needs_no_gpu
def test_the_bindings_hand_a_driver_the_launches_that_the_kernels_need_and_a_fault_is_one_warning(driver: Path) -> None:
    result = run(driver)
    assert result.returncode == 0, result.stdout + result.stderr
    warnings = [line for line in result.stdout.splitlines() if "plain tensor operations" in line]
    for warning, says in zip(warnings, FAULTS.values(), strict=True):
        assert says in warning


@needs_no_gpu
def test_a_driver_that_refuses_launches_that_overlap_gets_others(driver: Path) -> None:
    result = run(driver, DRIVER_REFUSES_OVERLAP="yes")
    assert result.returncode == 0, result.stdout + result.stderr


@needs_no_gpu
def test_a_driver_that_is_too_old_for_a_function_is_one_warning(driver: Path) -> None:
    result = run(driver, DRIVER_LACKS="cuInit")
    assert result.returncode == NO_DEVICE, result.stdout + result.stderr
    *earlier, line = [line for line in result.stdout.splitlines() if "plain tensor operations" in line]
    assert len(earlier) == len(FAULTS)
    assert "cuInit cannot be called for CUDA device 0: " in line


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_a_kernel_that_is_not_in_the_source_is_named() -> None:
    with pytest.raises(KernelUnavailable, match="cuModuleGetFunction"):
        CudaDevice(0).launch("no_such_kernel", torch.float32, (1, 1), 32, ())

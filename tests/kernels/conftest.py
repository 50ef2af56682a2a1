from __future__ import annotations

import ctypes
import shutil

import pytest
import torch

from kernels.cpu import CpuKernels
from kernels.cuda_device import SOURCE
from kernels.nvrtc import KernelUnavailable
from tests.kernels.cpu_device import build


@pytest.fixture(scope="session")
def kernels_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> dict[torch.dtype, ctypes.CDLL]:
    """The kernels' source, compiled for this processor."""
    if shutil.which("g++") is None:
        pytest.skip("running the CUDA source on the CPU needs g++ (on Debian: apt-get install g++)")
    return build(tmp_path_factory.mktemp("kernels"), SOURCE.read_text())


@pytest.fixture(scope="session")
def cpu_kernels() -> CpuKernels:
    """The kernels for processors."""
    try:
        return CpuKernels()
    except KernelUnavailable as error:
        pytest.skip(str(error))

from __future__ import annotations

import logging
import sys

import pytest
import torch

from kernels import cuda_device as module
from kernels.cuda_device import CudaDevice, cuda_device
from kernels.nvrtc import KernelUnavailable


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_a_kernel_that_is_not_in_the_source_is_named() -> None:
    with pytest.raises(KernelUnavailable, match="cuModuleGetFunction"):
        CudaDevice(0).launch("no_such_kernel", torch.float32, (1, 1), 32, ())

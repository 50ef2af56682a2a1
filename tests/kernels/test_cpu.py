from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from kernels import cpu as module
from kernels.cpu import CpuKernels
from kernels.mask_logits import mask_logits
from kernels.nvrtc import KernelUnavailable
from kernels.selection import select


@pytest.fixture
def nothing_loaded() -> Iterator[None]:
    module.cpu_kernels.cache_clear()
    yield
    module.cpu_kernels.cache_clear()


@pytest.mark.usefixtures("nothing_loaded")
def test_without_a_compiler_numpy_masks_after_one_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(source: str, name: str) -> None:
        raise KernelUnavailable(f"{name} has no compiler here")

    monkeypatch.setattr(module, "load_library", refuse)
    caplog.set_level(logging.INFO)
    logits = torch.zeros(1, 32)
    for _ in range(2):
        mask_logits(logits, torch.tensor([[5]], dtype=torch.int32))
    assert logits[0].isfinite().nonzero().flatten().tolist() == [0, 2]
    [record] = caplog.records
    assert "numpy" in record.message
    assert "mask_logits_cpu.cpp has no compiler here" in record.message


@pytest.mark.usefixtures("nothing_loaded", "cpu_kernels")
def test_with_a_compiler_the_log_says_that_the_kernel_masks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert module.cpu_kernels() is module.cpu_kernels() is not None
    [record] = caplog.records
    assert "mask_logits_cpu.cpp, compiled for this processor" in record.message


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_may_begin_at_any_byte(cpu_kernels: CpuKernels, dtype: torch.dtype) -> None:
    vocabulary = 1000
    for offset in range(64):
        memory = bytearray(b"\x11" * (offset + vocabulary * dtype.itemsize + 9))
        logits = torch.frombuffer(memory, dtype=dtype, count=vocabulary, offset=offset)[None]
        words = bytearray(offset + 4 * 32)
        words[offset:] = b"\xf0" * (4 * 32)
        bitmask = torch.frombuffer(words, dtype=torch.int32, count=32, offset=offset)[None]
        cpu_kernels.mask(select(logits, bitmask, None))
        assert logits[0].isneginf().nonzero().flatten().tolist() == [t for t in range(vocabulary) if t % 8 < 4]
        assert set(memory[:offset] + memory[offset + vocabulary * dtype.itemsize :]) == {0x11}

"""The CPU twin of the mask kernel: ``mask_logits_cpu.cpp``, compiled when first used, or numpy without a compiler.

A call of numpy costs half a microsecond whatever it does, and a mask needs some ten of them; the compiled kernel costs
one call, and goes over the logits once.
"""

from __future__ import annotations

import ctypes
import logging
from array import array
from functools import cache
from pathlib import Path

import torch

from kernels.cxx import load_library
from kernels.numpy_operations import mask_with_numpy
from kernels.nvrtc import KernelUnavailable
from kernels.selection import Selection

SOURCE = Path(__file__).with_name("mask_logits_cpu.cpp")

_LOGGER = logging.getLogger(__name__)


class CpuKernels:
    """The compiled kernels, in this process. Calls release the interpreter's lock."""

    def __init__(self) -> None:
        """Compile or find them, and load them.

        Raises:
            KernelUnavailable: they cannot be; the message says why and what to install.
        """
        library = load_library(SOURCE.read_text(encoding="utf-8"), SOURCE.name)
        pointer, index = ctypes.c_void_p, ctypes.c_int64
        rows = (pointer, index, pointer, index, pointer, index, index, index)
        for function in (library.mask_logits_32, library.mask_logits_16):
            function.argtypes = (*rows, ctypes.c_uint32)
            function.restype = None
        library.allowed_masses.argtypes = (*rows, pointer)
        library.allowed_masses.restype = None
        self._allowed_masses = library.allowed_masses
        library.allowed_argmax.argtypes = (*rows, pointer, pointer)
        library.allowed_argmax.restype = None
        self._allowed_argmax = library.allowed_argmax
        self._by_dtype = {
            torch.float32: (library.mask_logits_32, 0xFF80_0000),
            torch.float16: (library.mask_logits_16, 0xFC00),
            torch.bfloat16: (library.mask_logits_16, 0xFF80),
        }

    def mask(self, selection: Selection) -> None:
        """Set what is forbidden to −inf, in place.

        Args:
            selection: at least one mask and one token, on the CPU.
        """
        logits, masks = selection.logits, selection.bitmask
        function, minus_infinity = self._by_dtype[selection.dtype]
        if isinstance(logits, torch.Tensor):
            targets = None if selection.rows is None else array("i", selection.targets())
            function(*_rows(logits, masks, targets), minus_infinity)
            return
        for source, target in enumerate(selection.targets()):
            if target >= 0:
                function(*_rows(selection.row(target)[None], masks[source, None], None), minus_infinity)

    def allowed_masses(self, logits: torch.Tensor, selection: Selection) -> torch.Tensor:
        """See `kernels.allowed_mass.allowed_masses`.

        Args:
            logits: float32 [rows, vocabulary], the logits of the selection.
            selection: at least one mask and one token, on the CPU.
        """
        targets = None if selection.rows is None else array("i", selection.targets())
        masses = torch.empty(selection.count)
        self._allowed_masses(*_rows(logits, selection.bitmask, targets), masses.data_ptr())
        return masses

    def allowed_argmax(self, logits: torch.Tensor, selection: Selection) -> tuple[torch.Tensor, torch.Tensor]:
        """See `kernels.allowed_argmax.allowed_argmax`; arguments as for `allowed_masses`."""
        targets = None if selection.rows is None else array("i", selection.targets())
        values, tokens = torch.empty(selection.count), torch.empty(selection.count, dtype=torch.int64)
        rows = _rows(logits, selection.bitmask, targets)
        self._allowed_argmax(*rows, values.data_ptr(), tokens.data_ptr())
        return values, tokens


def _rows(
    logits: torch.Tensor, masks: torch.Tensor, targets: array[int] | None
) -> tuple[int, int, int, int, int | None, int, int, int]:
    """The arguments that all kernels have, in their order; they must outlive the call."""
    count, words = masks.shape
    listed = None if targets is None else targets.buffer_info()[0]
    stride, mask_stride = logits.stride()[0], masks.stride()[0]
    return logits.data_ptr(), stride, masks.data_ptr(), mask_stride, listed, count, logits.shape[1], words


@cache
def cpu_kernels() -> CpuKernels | None:
    """The compiled kernels; None, after one message, where they cannot be compiled. The first call may compile."""
    try:
        kernels = CpuKernels()
    except KernelUnavailable as error:
        _LOGGER.info("Logits are masked with numpy, at most some tens of microseconds a row slower: %s", error)
        return None
    _LOGGER.info("Logits are masked by the kernel of %s, compiled for this processor", SOURCE.name)
    return kernels


def mask_on_cpu(selection: Selection) -> None:
    """Set what is forbidden to −inf, in place.

    Args:
        selection: at least one mask and one token, on the CPU.
    """
    kernels = cpu_kernels()
    if kernels is None:
        mask_with_numpy(selection)
    else:
        kernels.mask(selection)

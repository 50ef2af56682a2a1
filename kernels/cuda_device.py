"""Load the kernels of ``mask_logits.cu`` on a CUDA device and launch them."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch

from kernels.arguments import LOGITS
from kernels.launch_plan import FUSED_THREADS
from kernels.nvrtc import INSTALL, KernelUnavailable, compiled_code

SOURCE = Path(__file__).with_name("mask_logits.cu")

_LOGGER = logging.getLogger(__name__)

_OVERLAP_IN_GRAPHS = 12_030
"""The first driver that captures overlapping launches into graphs."""


class Device(Protocol):
    """Where kernels run: a CUDA device, or a processor that plays one in tests.

    Attributes:
        multiprocessors: of the device.
    """

    multiprocessors: int

    def resident(self, kernel: str, dtype: torch.dtype) -> int:
        """Blocks of a fused kernel that the device holds at once."""

    def launch(
        self,
        kernel: str,
        dtype: torch.dtype,
        grid: tuple[int, int],
        threads: int,
        arguments: tuple[ctypes.Structure | ctypes.c_int, ...],
        *,
        cooperative: bool = False,
    ) -> None:
        """Put a kernel on torch's current stream of this device.

        Args:
            kernel: its name in the source.
            dtype: of the logits.
            grid: blocks.
            threads: of each block.
            arguments: by value, as the kernel declares them.
            cooperative: all blocks must be on the device at once.
        """


class CudaDevice:
    """A CUDA device with our kernels; modules are compiled, or read from the cache, when first used.

    From Hopper on, a grid is placed while the one ahead of it in the stream still runs, and waits there for its end
    (programmatic dependent launch): so the stream does not stand still while a grid is set up. Kernels that are
    launched so must begin with ``wait_for_grid_ahead``.
    """

    def __init__(self, index: int, source: str | None = None, *, overlaps: bool = True) -> None:
        """Look at the device.

        Args:
            index: of the device.
            source: other kernels than those of ``mask_logits.cu``, with the same kinds of arguments.
            overlaps: where device and driver can, place a kernel while the one ahead of it still runs.

        Raises:
            KernelUnavailable: ``cuda.bindings`` or the driver is missing, or they do not fit each other.
        """
        try:
            from cuda.bindings import driver
        except Exception as error:
            raise KernelUnavailable(f"cuda.bindings cannot be loaded ({error}): {INSTALL}") from error
        self._driver: Any = driver
        self._index = index
        self._source = SOURCE.read_text() if source is None else source
        properties = torch.cuda.get_device_properties(index)
        self._capability = (properties.major, properties.minor)
        self.multiprocessors = properties.multi_processor_count
        self._call("cuInit", 0)
        self._primary = self._call("cuDevicePrimaryCtxRetain", self._call("cuDeviceGet", index))
        can_overlap = self._capability >= (9, 0) and self._call("cuDriverGetVersion") >= _OVERLAP_IN_GRAPHS
        self._overlaps = overlaps and can_overlap
        names = driver.CUlaunchAttributeID
        self._cooperative = self._attribute(names.CU_LAUNCH_ATTRIBUTE_COOPERATIVE, "cooperative")
        self._overlapping = self._attribute(
            names.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, "programmaticStreamSerializationAllowed"
        )
        self._modules: dict[torch.dtype, Any] = {}
        self._functions: dict[tuple[str, torch.dtype], Any] = {}
        self._resident: dict[tuple[str, torch.dtype], int] = {}

    def resident(self, kernel: str, dtype: torch.dtype) -> int:
        """See `Device`."""
        key = kernel, dtype
        if key not in self._resident:
            function = self._function(kernel, dtype)
            with self._context():
                per_multiprocessor = self._call(
                    "cuOccupancyMaxActiveBlocksPerMultiprocessor", function, FUSED_THREADS, 0
                )
            self._resident[key] = per_multiprocessor * self.multiprocessors
        return self._resident[key]

    def launch(
        self,
        kernel: str,
        dtype: torch.dtype,
        grid: tuple[int, int],
        threads: int,
        arguments: tuple[ctypes.Structure | ctypes.c_int, ...],
        *,
        cooperative: bool = False,
    ) -> None:
        """See `Device`."""
        function = self._function(kernel, dtype)
        places = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        config = self._driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = *grid, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        # What PyTorch's own compiler calls in the code it makes; torch.cuda.current_stream takes ten times as long.
        config.hStream = self._driver.CUstream(torch._C._cuda_getCurrentRawStream(self._index))
        launch = (config, function, ctypes.addressof(places), 0)
        attributes = [self._cooperative] if cooperative else []
        if int(self._call("cuCtxGetCurrent")) == int(self._primary):
            self._launch(attributes, *launch)
        else:
            with self._context():
                self._launch(attributes, *launch)

    def _launch(self, attributes: list[Any], config: Any, *rest: Any) -> None:
        if self._overlaps:
            try:
                self._launch_with([*attributes, self._overlapping], config, *rest)
                return
            except KernelUnavailable as error:
                self._launch_with(attributes, config, *rest)  # raises where it is not the overlap that is refused
                self._overlaps = False
                _LOGGER.info("Kernels begin only when the one before has ended: %s", error)
        else:
            self._launch_with(attributes, config, *rest)

    def _launch_with(self, attributes: list[Any], config: Any, *rest: Any) -> None:
        config.attrs = attributes
        config.numAttrs = len(attributes)
        self._call("cuLaunchKernelEx", config, *rest)

    def _attribute(self, name: Any, field: str) -> Any:
        """An attribute of launches that says yes to something."""
        value = self._driver.CUlaunchAttributeValue()
        setattr(value, field, 1)
        attribute = self._driver.CUlaunchAttribute()
        attribute.id = name
        attribute.value = value
        return attribute

    @contextmanager
    def _context(self) -> Iterator[None]:
        """PyTorch's context, also in a thread in which PyTorch has not used the device yet."""
        self._call("cuCtxPushCurrent", self._primary)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def _function(self, kernel: str, dtype: torch.dtype) -> Any:
        function = self._functions.get((kernel, dtype))
        if function is None:
            module = self.load(dtype)
            with self._context():
                function = self._call("cuModuleGetFunction", module, kernel.encode())
            self._functions[kernel, dtype] = function
        return function

    def load(self, dtype: torch.dtype) -> Any:
        """Bring the kernels for a type of logits onto the device, where they are not there yet."""
        if dtype not in self._modules:
            code = compiled_code(self._source, SOURCE.name, {"LOGIT": LOGITS[dtype]}, self._capability)
            with self._context():
                self._modules[dtype] = self._call("cuModuleLoadData", code)
        return self._modules[dtype]

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            status, *results = getattr(self._driver, name)(*arguments)
        # No driver, or one that is too old to have the function: cuda.bindings raises types of its own.
        except Exception as error:
            raise KernelUnavailable(f"{name} cannot be called for CUDA device {self._index}: {error}") from error
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise KernelUnavailable(f"{name} fails on CUDA device {self._index}: {status.name}")
        return results[0] if results else None


@cache
def cuda_device(index: int) -> CudaDevice | None:
    """The device with our kernels; None, after one warning, where they cannot run."""
    try:
        device = CudaDevice(index)
        for dtype in LOGITS:
            device.load(dtype)
    except KernelUnavailable as error:
        _LOGGER.warning("Logits are masked with plain tensor operations, which is slower: %s", error)
        return None
    return device

"""A device for the launchers that is this machine's processor: the kernels' source, compiled with g++ over a shim."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import torch

from kernels.arguments import LOGITS
from kernels.cuda_device import SOURCE

HERE = Path(__file__).parent

OUTCOMES = ("finished", "a barrier was not reached by all", "a warp's exchange was misused", "a block waited too long")
"""``Outcome`` in the shim."""


def build(folder: Path, source: str) -> dict[torch.dtype, ctypes.CDLL]:
    """Compile the kernels for each type of logits; several seconds.

    Args:
        folder: for sources and libraries.
        source: text of ``mask_logits.cu``.
    """
    compiler = shutil.which("g++")
    assert compiler is not None
    (folder / SOURCE.name).write_text(source)
    libraries = {}
    for dtype, name in LOGITS.items():
        library = folder / f"{name}.so"
        options = ["-std=c++17", "-O1", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas"]
        paths = ["-shared", "-fPIC", "-pthread", f"-I{folder}", f"-I{HERE}", f"-DLOGIT={name}", "-o", str(library)]
        subprocess.run([compiler, *options, *paths, str(HERE / "mask_logits_on_cpu.cpp")], check=True)
        libraries[dtype] = ctypes.CDLL(str(library))
    return libraries


class CpuDevice:
    """See `kernels.cuda_device.Device`.

    Attributes:
        multiprocessors: what to tell who plans a launch.
        held: blocks of a fused kernel "that the device holds at once".
        backwards: run blocks, and threads between two barriers, in falling order.
        launches: names of the kernels that were launched.
    """

    def __init__(
        self, libraries: dict[torch.dtype, ctypes.CDLL], multiprocessors: int, held: int, backwards: bool
    ) -> None:
        self.multiprocessors = multiprocessors
        self.held = held
        self.backwards = backwards
        self.launches: list[str] = []
        self._libraries = libraries

    def resident(self, kernel: str, dtype: torch.dtype) -> int:
        return self.held

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
        assert not cooperative or grid[0] * grid[1] <= self.held, "a cooperative grid must fit the device"
        self.launches.append(kernel)
        run = getattr(self._libraries[dtype], f"run_{kernel}")
        outcome = run(*grid, threads, cooperative, self.backwards, *(ctypes.byref(argument) for argument in arguments))
        assert outcome == 0, OUTCOMES[outcome]

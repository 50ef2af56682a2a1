"""Compile a C++ source at run time for this machine's processor, and keep the result.

Any compiler that takes the options of GCC and Clang does: the one that ``CXX`` names, else ``c++``, ``g++`` or
``clang++``. Sources need no headers but the standard library's.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from kernels.nvrtc import KernelUnavailable, cache_folder

_LOGGER = logging.getLogger(__name__)

INSTALL = (
    "install g++ or clang (on Debian: apt-get install g++), or name a C++ compiler in the environment variable CXX"
)
"""What mends a missing compiler."""

_SECONDS = 60
"""A compilation takes less than one; a compiler that hangs must not keep a service from starting."""


def load_library(source: str, name: str) -> ctypes.CDLL:
    """Compile a source, or find it compiled in the cache, and load it into this process.

    Where the cache's folder cannot be written or may not hold what is executed, a private temporary one serves until
    the library is loaded. Processes may do this at the same time: a file appears in the cache whole or not at all.

    Args:
        source: C++17.
        name: for messages and for the file in the cache.

    Raises:
        KernelUnavailable: there is no compiler, it refuses the source, or the system does not load the result.
    """
    options = _options()
    content = "\0".join([source, *options, _instructions()])
    file = f"{Path(name).stem}-{hashlib.sha256(content.encode()).hexdigest()[:32]}.so"
    try:
        path = cache_folder() / file
        if path.exists():
            return ctypes.CDLL(str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            os.replace(_compile(source, name, options, Path(folder)), path)
        return ctypes.CDLL(str(path))
    # No right to write or to execute there, a full disk, a file that is none; no home.
    except (OSError, RuntimeError) as error:
        if isinstance(error, KernelUnavailable):
            raise
        _LOGGER.info("%s is compiled anew at every start: the cache cannot be used (%s)", name, error)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return ctypes.CDLL(str(_compile(source, name, options, Path(folder))))  # loaded, it needs no file
    except OSError as error:
        raise KernelUnavailable(f"{name} cannot be compiled or loaded: {error}") from error


def _compile(source: str, name: str, options: list[str], folder: Path) -> Path:
    """The library, in the folder."""
    compiler = find_compiler()
    path, library = folder / name, folder / f"{name}.so"
    path.write_text(source, encoding="utf-8")
    command = [*compiler, *options, "-o", str(library), str(path)]
    try:
        finished = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelUnavailable(f"{shlex.join(compiler)} cannot be run ({error}): {INSTALL}") from error
    if finished.returncode != 0 or not library.exists():
        raise KernelUnavailable(f"{shlex.join(compiler)} does not compile {name}: {finished.stderr.strip()[-2000:]}")
    return library


def find_compiler() -> list[str]:
    """A C++ compiler's command.

    Raises:
        KernelUnavailable: there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))  # it may have options, or name a launcher such as ccache
    if named:
        return named
    for name in ("c++", "g++", "clang++"):
        if (found := shutil.which(name)) is not None:
            return [found]
    raise KernelUnavailable(f"no C++ compiler was found: {INSTALL}")


def _options() -> list[str]:
    options = ["-std=c++17", "-O3", "-shared", "-fPIC"]
    # Elsewhere the architecture's base has the vector instructions that matter, and compilers disagree on the option.
    return [*options, "-march=native"] if platform.machine() in ("x86_64", "AMD64") else options


def _instructions() -> str:
    """What this processor can execute: a home folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()} {flags}"

"""Compile a CUDA source at run time, without a CUDA toolkit, and keep the result.

The compiler is NVIDIA's NVRTC through ``cuda.bindings``. Both come with PyTorch's CUDA builds (from 2.10 on) and with
TensorRT-LLM, whose container has ``cuda-python``; elsewhere pip installs them. NVRTC needs no GPU and no driver.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

_LOGGER = logging.getLogger(__name__)

INSTALL = (
    "pip install 'cuda-bindings>=12.9' and, of the same major version, nvidia-cuda-nvrtc (or nvidia-cuda-nvrtc-cu12)"
)
"""What mends a missing compiler."""


class KernelUnavailable(RuntimeError):
    """A kernel cannot be compiled or loaded here; the message says why and what to install."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compilation gave.

    Attributes:
        code: machine code, or PTX where the compiler is older than the device; the driver loads both.
        log: the compiler's messages, with registers and spills of each kernel.
    """

    code: bytes
    log: str


def compile_cuda(source: str, name: str, defines: dict[str, str], capability: tuple[int, int]) -> Compiled:
    """Compile a source for one architecture.

    Args:
        source: CUDA C++ that includes nothing.
        name: of the file, for messages.
        defines: macros.
        capability: the device's compute capability, such as (9, 0).

    Raises:
        KernelUnavailable: there is no compiler, or it refuses the source.
    """
    try:
        from cuda.bindings import nvrtc

        (status, supported) = nvrtc.nvrtcGetSupportedArchs()
    # Not found, of another major version, or a broken installation: cuda.bindings raises many types.
    except Exception as error:
        raise KernelUnavailable(f"NVRTC cannot be loaded ({error}): {INSTALL}") from error
    wanted = capability[0] * 10 + capability[1]
    known = max((arch for arch in supported if arch <= wanted), default=None)
    if known is None:
        raise KernelUnavailable(f"this NVRTC compiles for none of the architectures up to sm_{wanted}: {INSTALL}")
    target = f"sm_{known}" if known == wanted else f"compute_{known}"
    options = [
        f"--gpu-architecture={target}",
        "--std=c++17",
        "--ptxas-options=-v",
        *(f"-D{macro}={value}" for macro, value in defines.items()),
    ]

    status, program = nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, None, None)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise KernelUnavailable(f"NVRTC fails: {status.name}")
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = bytearray(size)
        nvrtc.nvrtcGetProgramLog(program, log)
        messages = log.rstrip(b"\0").decode(errors="replace")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise KernelUnavailable(f"NVRTC does not compile {name} for {target}: {status.name}\n{messages}")
        is_machine_code = target.startswith("sm_")
        _, size = nvrtc.nvrtcGetCUBINSize(program) if is_machine_code else nvrtc.nvrtcGetPTXSize(program)
        code = bytearray(size)
        (nvrtc.nvrtcGetCUBIN if is_machine_code else nvrtc.nvrtcGetPTX)(program, code)
        return Compiled(bytes(code), messages)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def compiled_code(source: str, name: str, defines: dict[str, str], capability: tuple[int, int]) -> bytes:
    """As `compile_cuda`, from the cache on disk where it has this source for this architecture."""
    content = "\0".join([source, *(f"{macro}={value}" for macro, value in sorted(defines.items())), str(capability)])
    path = cache_folder() / f"{Path(name).stem}-{hashlib.sha256(content.encode()).hexdigest()[:32]}.bin"
    try:
        return path.read_bytes()
    except OSError:
        pass
    code = compile_cuda(source, name, defines, capability).code
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renaming is atomic: another process sees the whole file or none.
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(code)
        os.replace(file.name, path)
    except OSError as error:
        _LOGGER.info("Kernels are compiled anew at every start: %s cannot be written (%s)", path.parent, error)
    return code


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``$XDG_CACHE_HOME/guided-trtllm/kernels``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guided-trtllm" / "kernels"

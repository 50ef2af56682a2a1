"""The kernels that are measured: ours, and those of others that are installed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from kernels.arguments import Fusion
from kernels.cpu import cpu_kernels
from kernels.cuda_device import SOURCE, CudaDevice
from kernels.cxx import INSTALL
from kernels.fused_mask import FusedMask
from kernels.mask_logits import launch_mask, mask_logits
from kernels.numpy_operations import mask_with_numpy
from kernels.selection import select

Call = Callable[[torch.Tensor, torch.Tensor], object]

_ROW_THREADS = 1024


@dataclass(frozen=True, slots=True)
class Contender:
    """A kernel.

    Attributes:
        name: for tables; of our own it begins with "ours".
        prepare: given logits [rows, vocabulary] and masks, what is then called again and again with both.
        is_fused: it also applies temperature and min-p, chooses and measures.
    """

    name: str
    prepare: Callable[[torch.Tensor, torch.Tensor], Call]
    is_fused: bool = False


def on_cpu() -> tuple[list[Contender], list[str]]:
    """Those that can run, ours first; and why others cannot."""
    kernels = cpu_kernels()
    if kernels is None:
        contenders, missing = [], [f"ours, compiled: {INSTALL}"]
    else:
        contenders, missing = [_fixed("ours", mask_logits)], []
    contenders.append(_fixed("ours, numpy", lambda logits, bitmask: mask_with_numpy(select(logits, bitmask, None))))
    return _with_others(
        contenders, missing, (("xgrammar", _xgrammar_cpu), ("llguidance torch.compile", _llguidance_cpu))
    )


def on_gpu() -> tuple[list[Contender], list[str]]:
    """Those that can run, ours first; and why others cannot."""
    contenders = [
        _fixed("ours", mask_logits),
        _fixed("ours, no overlap", _without_overlap()),
        Contender("ours, fused", _fused, is_fused=True),
        Contender("block per row", _block_per_row, is_fused=True),
    ]
    others = (
        ("xgrammar CUDA", _xgrammar_cuda),
        ("xgrammar Triton", _xgrammar_triton),
        ("llguidance torch.compile", _llguidance),
    )
    return _with_others(contenders, [], others)


def _with_others(
    contenders: list[Contender], missing: list[str], others: Sequence[tuple[str, Callable[[], Call]]]
) -> tuple[list[Contender], list[str]]:
    for name, load in others:
        call = _load(name, load, missing)
        if call is not None:
            contenders.append(_fixed(name, call))
    return contenders, missing


def _load(name: str, load: Callable[[], Call], missing: list[str]) -> Call | None:
    try:
        return load()
    # A missing package, no CUDA toolkit to compile with: what others raise is theirs.
    except Exception as error:
        missing.append(f"{name}: {error}")
        return None


def _fixed(name: str, call: Call) -> Contender:
    return Contender(name, lambda logits, bitmask: call)


def empty_launch() -> Callable[[int], None]:
    """A kernel that does nothing, launched as any kernel is."""
    device = _yardsticks()
    return lambda _: device.launch("empty", torch.float32, (1, 1), 32, ())


def _without_overlap() -> Call:
    device = CudaDevice(torch.cuda.current_device(), overlaps=False)
    return lambda logits, bitmask: launch_mask(device, select(logits, bitmask, None))


def _sampling(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((rows,), 0.7, device="cuda"), torch.full((rows,), 0.05, device="cuda")


def _fused(logits: torch.Tensor, bitmask: torch.Tensor) -> Call:
    fused = FusedMask(logits.shape[0], logits.shape[1], logits.device)
    temperature, min_p = _sampling(len(logits))
    return lambda logits, bitmask: fused(logits, bitmask, temperature=temperature, min_p=min_p)


@cache
def _yardsticks() -> CudaDevice:
    source = SOURCE.read_text() + Path(__file__).with_name("block_per_row.cu").read_text()
    return CudaDevice(torch.cuda.current_device(), source, overlaps=False)


def _block_per_row(logits: torch.Tensor, bitmask: torch.Tensor) -> Call:
    device = _yardsticks()
    rows = len(logits)
    temperature, min_p = _sampling(rows)
    argmax = torch.empty(rows, dtype=torch.int64, device="cuda")
    mass = torch.empty(rows, device="cuda")
    fusion = Fusion(
        temperature=temperature.data_ptr(),
        min_p=min_p.data_ptr(),
        argmax=argmax.data_ptr(),
        allowed_mass=mass.data_ptr(),
    )
    kept = (temperature, min_p, argmax, mass)

    def call(logits: torch.Tensor, bitmask: torch.Tensor) -> object:
        masking, _ = select(logits, bitmask, None).masking()
        arguments: tuple[ctypes.Structure, ...] = (masking, fusion)
        device.launch("block_per_row", logits.dtype, (rows, 1), _ROW_THREADS, arguments)
        return kept

    return call


def _xgrammar_cpu() -> Call:
    from xgrammar.kernels.apply_token_bitmask_inplace_cpu import apply_token_bitmask_inplace_cpu

    return apply_token_bitmask_inplace_cpu  # type: ignore[no-any-return]


def _xgrammar_cuda() -> Call:
    from xgrammar.kernels.apply_token_bitmask_inplace_cuda import apply_token_bitmask_inplace_cuda

    return apply_token_bitmask_inplace_cuda  # type: ignore[no-any-return]


def _xgrammar_triton() -> Call:
    from xgrammar.kernels.apply_token_bitmask_inplace_triton import apply_token_bitmask_inplace_triton

    return apply_token_bitmask_inplace_triton  # type: ignore[no-any-return]


def _llguidance_cpu() -> Call:
    call = _llguidance()
    call(torch.zeros(2, 64), torch.zeros(2, 2, dtype=torch.int32))  # compiles
    return call


def _llguidance() -> Call:
    from llguidance.torch import apply_token_bitmask_inplace

    return apply_token_bitmask_inplace

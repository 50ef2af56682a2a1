"""Run what NVRTC makes of the kernels, on this machine's processor: PTX, made C++, over the threads of the shim.

Only the instructions that our kernels have are known; any other is an error. Every access to memory is checked: whether
the launch's arguments allow it, whether it is aligned, and, in shared memory, whether something was written there.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from kernels.arguments import LOGITS, PART_WORDS, Fusion, Masking
from kernels.cuda_device import SOURCE
from kernels.launch_plan import FUSED_THREADS
from kernels.nvrtc import compile_cuda
from tests.kernels.cpu_device import HERE, CpuDevice

_TYPES = {"u": "uint{}_t", "b": "uint{}_t", "s": "int{}_t", "f": "float"}
_REGISTERS = {"pred": "bool", "b16": "uint16_t", "b32": "uint32_t", "b64": "uint64_t", "f32": "float"}
_SPECIAL = {
    "%tid.x": "threadIdx.x",
    "%ntid.x": "blockDim.x",
    "%ctaid.x": "blockIdx.x",
    "%ctaid.y": "blockIdx.y",
    "%nctaid.x": "gridDim.x",
    "%nctaid.y": "gridDim.y",
}
_INFIX = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^", "div": "/"}
_COMPARISONS = {
    "eq": "{} == {}",
    "ne": "{} != {}",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "gt": "{} > {}",
    "ge": "{} >= {}",
}
_COMPARISONS |= {"neu": "!({} == {})", "leu": "!({} > {})", "geu": "!({} < {})", "nan": "std::isunordered({}, {})"}
_CALLS = {
    "max.f32": "std::fmax",
    "min.f32": "std::fmin",
    "fma.f32": "std::fma",
    "max.s32": "std::max<int32_t>",
    "min.s32": "std::min<int32_t>",
}
_CALLS |= {"abs.f32": "std::fabs", "ex2.f32": "std::exp2", "rcp.f32": "1.0f / "}
_NOTHING = re.compile(r"griddepcontrol\.(wait|launch_dependents)|cp\.async\.wait_all|\.pragma")


class PtxDevice(CpuDevice):
    """See `tests.kernels.cpu_device.CpuDevice`; a launch may only touch what its arguments name."""

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
        library = self._libraries[dtype]
        library.forget_ranges()
        masking, other = arguments
        assert isinstance(masking, Masking)
        for begin, size, is_read, is_written in _ranges(masking, other, dtype.itemsize):
            library.allow(ctypes.c_uint64(begin or 0), ctypes.c_uint64(size), is_read, is_written)
        super().launch(kernel, dtype, grid, threads, arguments, cooperative=cooperative)
        library.first_offence.restype = ctypes.c_char_p
        assert library.first_offence() == b"", library.first_offence().decode()


def _ranges(
    masking: Masking, other: ctypes.Structure | ctypes.c_int, itemsize: int
) -> Iterator[tuple[int | None, int, bool, bool]]:
    """What a launch may read and write: begin, bytes, whether it may be read, whether written."""
    rows, count = masking.rows, masking.count
    if rows.is_listed:
        targets = list(rows.listed[:count])
    elif rows.addresses:
        yield rows.addresses, count * 8, True, False
        targets = list((ctypes.c_longlong * count).from_address(rows.addresses))
    else:
        indices = list(range(count))
        if rows.indices:
            yield rows.indices, count * 4, True, False
            indices = list((ctypes.c_int * count).from_address(rows.indices))
        targets = [rows.base + index * rows.stride if index >= 0 else 0 for index in indices]
    for i, target in enumerate(targets):
        if target:
            yield target, masking.vocabulary * itemsize, isinstance(other, Fusion), True
        yield (masking.mask or 0) + i * masking.mask_stride * 4, masking.words * 4, True, False
    if isinstance(other, Fusion):
        yield other.temperature, count * 4, True, False
        yield other.min_p, count * 4, True, False
        yield other.argmax, count * 8, False, True
        yield other.allowed_mass, count * 4, False, True
        yield other.parts, count * PART_WORDS * FUSED_THREADS * 8, True, True
        yield other.launches, count * 4, True, True


def build(folder: Path, capability: tuple[int, int]) -> dict[torch.dtype, ctypes.CDLL]:
    """Compile the kernels with NVRTC and their PTX for this processor; several seconds.

    Args:
        folder: for sources and libraries.
        capability: that NVRTC does not know, so that it makes PTX for the next lower one.
    """
    libraries = {}
    for dtype, logit in LOGITS.items():
        code = compile_cuda(SOURCE.read_text(), SOURCE.name, {"LOGIT": logit}, capability).code
        (folder / f"{logit}.cpp").write_text(as_cpp(code.decode(errors="replace")))
        libraries[dtype] = compile_ptx(folder / f"{logit}.cpp")
    return libraries


def compile_ptx(source: Path) -> ctypes.CDLL:
    """Compile what `as_cpp` made."""
    compiler = shutil.which("g++")
    assert compiler is not None
    options = ["-std=c++17", "-O0", "-shared", "-fPIC", "-pthread", f"-I{HERE}"]
    library = source.with_suffix(".so")
    subprocess.run([compiler, *options, "-o", str(library), str(source)], check=True)
    return ctypes.CDLL(str(library))


def as_cpp(ptx: str) -> str:
    """A C++ source with a function ``run_<kernel>`` for each kernel of a PTX module."""
    parts = ['#include "ptx_on_cpu.h"', "using namespace ptx_on_cpu;"]
    for name, body in re.findall(r"\.entry (\w+)\(.*?\n\{(.*?)\n\}", ptx, re.DOTALL):
        parts.append(_Kernel(name).function(body))
    return "\n".join(parts)


class _Kernel:
    def __init__(self, name: str) -> None:
        self._name = name
        self._shared: dict[str, int] = {}
        self._shared_end = 16  # so that no address is 0

    def function(self, body: str) -> str:
        declarations: list[str] = []
        statements: list[str] = []
        for line in (re.sub(r"//.*", "", raw).strip() for raw in body.splitlines()):
            if match := re.fullmatch(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>;", line):
                names = ", ".join(f"{match[2]}{i}{{}}" for i in range(1, int(match[3])))
                declarations += [f"{_REGISTERS[match[1]]} {names};"] if names else []
            elif match := re.fullmatch(r"\.shared \.align (\d+) \.\w(\d+) (\w+)(?:\[(\d+)\])?;", line):
                align, size = int(match[1]), int(match[2]) // 8 * int(match[4] or 1)
                self._shared[match[3]] = -(-self._shared_end // align) * align
                self._shared_end = self._shared[match[3]] + size
            elif match := re.fullmatch(r"\$(\w+):", line):
                statements.append(f"{match[1]}:;")
            elif line and not _NOTHING.match(line):
                statements.append(self._instruction(line))
        run = f'extern "C" int run_{self._name}(unsigned x, unsigned y, unsigned threads, bool at_once, bool backwards,'
        return "\n".join(
            [
                f"static void {self._name}(const void* param_0, const void* param_1) {{",
                *declarations,
                *statements,
                "}",
                f"{run} const void* a, const void* b) {{",
                f"return cuda_on_cpu::launch({{x, y, 1}}, threads, at_once, backwards, [=] {{ {self._name}(a, b); }});",
                "}",
            ]
        )

    def _instruction(self, line: str) -> str:
        match = re.fullmatch(r"(?:@(!?)%(\w+) )?\s*([\w.]+)\s*(.*);", line)
        assert match is not None, line
        operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", match[4])
        statement = self._statement(match[3].split("."), operands, line)
        return f"if ({match[1]}{match[2]}) {{ {statement} }}" if match[2] else statement

    def _statement(self, code: list[str], operands: list[str], line: str) -> str:
        name, kind = code[0], code[-1]
        if name == "ret":
            return "return;"
        if name == "bra":
            return f"goto {operands[0].removeprefix('$')};"
        if code[:2] == ["bar", "sync"]:
            return "__syncthreads();"
        if name == "nanosleep":
            return "__nanosleep(0);"
        if name in ("ld", "st"):
            return self._access(name == "ld", code, operands)
        if code[:2] == ["cp", "async"]:
            return f"copy({self._address(operands[0])}, {self._address(operands[1])}, {operands[2]});"
        if name == "shfl":
            return self._shuffle(code[2], operands)
        target = operands[0]
        if name == "vote":
            mask, vote = self._value("b32", operands[2]), self._value("pred", operands[1])
            return self._set(target, f"{ {'ballot': '__ballot_sync', 'all': '__all_sync'}[code[2]] }({mask}, {vote})")
        if name == "mov" and target.startswith("{"):
            low, high = _list(target)
            return self._set(low, f"{self._raw(operands[1])}") + self._set(
                high, f"{self._raw(operands[1])} >> {int(kind[1:]) // 2}"
            )
        if name == "mov" and operands[1].startswith("{"):
            half, whole = f"uint{int(kind[1:]) // 2}_t", f"uint{kind[1:]}_t"
            low, high = (f"as<{half}>({self._raw(each)})" for each in _list(operands[1]))
            return self._set(target, f"({whole}){low} | ({whole}){high} << {int(kind[1:]) // 2}")
        if name == "setp":
            values = (self._value(kind, each) for each in operands[1:])
            return self._set(target, _COMPARISONS[code[1]].format(*values))
        if name == "selp":
            yes, no = (self._value(kind, each) for each in operands[1:3])
            return self._set(target, f"{self._raw(operands[3])} ? {yes} : {no}")
        if name == "cvt":
            return self._conversion(code, operands)
        values = [self._value(kind, each) for each in operands[1:]]
        if name in ("mov", "cvta"):
            return self._set(target, values[0])
        if name == "not":
            return self._set(target, f"{'!' if kind == 'pred' else '~'}{values[0]}")
        if name == "neg":
            return self._set(target, f"-{values[0]}")
        if name in ("shl", "shr"):
            return self._set(target, f"{name}({values[0]}, {self._value('u32', operands[2])})")
        if name == "mul" and code[1] == "wide":
            wide = f"{kind[0]}{int(kind[1:]) * 2}"
            values = [f"as<{_type(wide)}>({value})" for value in values]
        if name in ("mul", "mad"):
            return self._set(target, " * ".join(values[:2]) + (f" + {values[2]}" if name == "mad" else ""))
        if name == "shf":
            both = f"((uint64_t){values[1]} << 32 | {values[0]})"
            shifted = f"{both} << ({values[2]} & 31) >> 32" if code[1] == "l" else f"{both} >> ({values[2]} & 31)"
            return self._set(target, shifted)
        if name == "bfi":
            at, length = (self._value("u32", each) for each in operands[3:])
            return self._set(target, f"bfi({values[0]}, {values[1]}, {at}, {length})")
        if name == "prmt":
            return self._set(target, f"prmt({', '.join(values)})")
        if f"{name}.{kind}" in _CALLS:
            return self._set(target, f"{_CALLS[f'{name}.{kind}']}({', '.join(values)})")
        assert name in _INFIX, f"an instruction that is not known: {line}"
        return self._set(target, f"{values[0]} {_INFIX[name]} {values[1]}")

    def _access(self, is_load: bool, code: list[str], operands: list[str]) -> str:
        space = next(each for each in ("param", "shared", "global") if each in code)
        address, others = (operands[1], operands[0]) if is_load else (operands[0], operands[1])
        registers = _list(others) if others.startswith("{") else [others]
        value_type = _type(code[-1])
        result = []
        for k, register in enumerate(registers):
            size = f"sizeof({value_type})"
            accessed = f"{len(registers)} * {size}" if k == 0 else size
            place = f"{self._address(address)} + {k} * {size}"
            access = {
                "param": f"(const {value_type}*)({place})",
                "shared": f"shared_at<{value_type}>({place}, {accessed}, {str(not is_load).lower()})",
                "global": f"global<{value_type}>({place}, {accessed}, {str(not is_load).lower()})",
            }[space]
            result.append(
                self._set(register, f"({value_type})*{access}")
                if is_load
                else f"*{access} = {self._value(code[-1], register)};"
            )
        return " ".join(result)

    def _shuffle(self, mode: str, operands: list[str]) -> str:
        target = operands[0].split("|")[0]
        value, distance, bound, mask = (self._value("b32", each) for each in operands[1:])
        source, rest = {
            "bfly": (f"lane() ^ {distance}", 31),
            "idx": (f"{distance} % 32", 31),
            "up": (f"lane() < {distance} ? lane() : lane() - {distance}", 0),
        }[mode]
        check = f'if ({bound} != {rest}) report("a shuffle among parts of a warp", 0, 0);'
        return f"{check} {self._set(target, f'cuda_on_cpu::exchange<uint32_t>({mask}, {value}, {source})')}"

    def _conversion(self, code: list[str], operands: list[str]) -> str:
        to, of = code[-2:]
        if of == "f16":
            return self._set(operands[0], f"half_to_float({self._raw(operands[1])})")
        if to == "f16":
            return self._set(operands[0], f"float_to_half({self._value('f32', operands[1])})")
        value = self._value(of, operands[1])
        return self._set(operands[0], f"(float){value}" if to == "f32" else f"as<{_type(to)}>({value})")

    def _set(self, register: str, value: str) -> str:
        if register == "_":
            return ""
        name = register.removeprefix("%")
        return f"{name} = as<decltype({name})>({value});"

    def _value(self, kind: str, operand: str) -> str:
        return f"as<{_type(kind)}>({self._raw(operand)})"

    def _raw(self, operand: str) -> str:
        if operand in _SPECIAL:
            return _SPECIAL[operand]
        if operand.startswith("0f"):
            return f"from_bits(0x{operand[2:]}u)"
        if match := re.fullmatch(rf"{self._name}_(param_\d)", operand):
            return f"reinterpret_cast<uint64_t>({match[1]})"
        if operand in self._shared:
            return str(self._shared[operand])
        return operand.removeprefix("%") if operand.startswith("%") else f"{operand}ll"

    def _address(self, operand: str) -> str:
        base, _, offset = operand.strip("[]").partition("+")
        return f"{self._raw(base)} + ({offset or 0})"


def _list(operand: str) -> list[str]:
    return [each.strip() for each in operand.strip("{}").split(",")]


def _type(kind: str) -> str:
    return "bool" if kind == "pred" else _TYPES[kind[0]].format(kind[1:])

"""The kernels compile for the data-centre GPUs of three generations, without a GPU."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from kernels.arguments import LOGITS
from kernels.cuda_device import SOURCE
from kernels.nvrtc import KernelUnavailable, compile_cuda, compiled_code

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)
"""What ``ptxas -v`` says of each kernel. Local memory of any kind, an indexed array included, is in the stack frame."""

MOST_REGISTERS = {"mask_logits": 32, "fused_mask_logits": 40}
"""So that a multiprocessor's 65,536 hold 16 blocks of 128 threads, or 6 blocks of 256."""


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
@pytest.mark.parametrize("logit", LOGITS.values())
def test_no_kernel_spills_or_uses_local_memory(logit: str, capability: tuple[int, int]) -> None:
    compiled = compile_cuda(SOURCE.read_text(), SOURCE.name, {"LOGIT": logit}, capability)
    assert compiled.code[:4] == b"\x7fELF"
    seen = {match["name"]: match for match in ENTRY.finditer(compiled.log)}
    assert seen.keys() == MOST_REGISTERS.keys()
    for name, match in seen.items():
        assert int(match["stack"]) == int(match["stores"]) == int(match["loads"]) == 0, match[0]
        assert int(match["registers"]) <= MOST_REGISTERS[name]


def test_spills_would_be_seen() -> None:
    source = """extern "C" __global__ void __launch_bounds__(1024, 2) greedy(float* data) {
        float values[64];
        for (int i = 0; i < 64; ++i) values[i] = data[i * 64 + threadIdx.x];
        for (int i = 0; i < 64; ++i) data[i] = values[(i * (int)data[7]) & 63];
    }"""
    match = ENTRY.search(compile_cuda(source, "greedy.cu", {}, (9, 0)).log)
    assert match is not None
    assert int(match["stack"]) > 0


def test_a_device_newer_than_the_compiler_gets_code_that_its_driver_translates() -> None:
    compiled = compile_cuda("__global__ void nothing() {}", "nothing.cu", {}, (99, 0))
    assert b".version" in compiled.code


def test_what_does_not_compile_is_an_error_with_the_compilers_words() -> None:
    with pytest.raises(KernelUnavailable, match=r"(?s)broken.cu for sm_90.*missing_thing"):
        compile_cuda("__global__ void k() { missing_thing(); }", "broken.cu", {}, (9, 0))
    with pytest.raises(KernelUnavailable, match="none of the architectures up to sm_10"):
        compile_cuda("", "old.cu", {}, (1, 0))


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(KernelUnavailable, match="pip install 'cuda-bindings"):
        compile_cuda("", "any.cu", {}, (9, 0))


def test_code_is_compiled_once_for_a_source_and_an_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = 'extern "C" __global__ void k(int* p) { *p = NUMBER; }'
    first = compiled_code(source, "k.cu", {"NUMBER": "1"}, (9, 0))
    other = compiled_code(source, "k.cu", {"NUMBER": "2"}, (9, 0))
    older = compiled_code(source, "k.cu", {"NUMBER": "1"}, (8, 0))
    assert len({first, other, older}) == 3
    assert len(list(tmp_path.rglob("*.bin"))) == 3
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert compiled_code(source, "k.cu", {"NUMBER": "1"}, (9, 0)) == first


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guided-trtllm").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled_code("__global__ void k() {}", "k.cu", {}, (9, 0))


@pytest.mark.parametrize("logit", LOGITS.values())
def test_whole_units_are_read_and_written_16_bytes_at_a_time_and_the_plain_form_reads_no_logits(logit: str) -> None:
    # No compiler knows a capability of 9.1, so this is PTX, which can be read.
    ptx = compile_cuda(SOURCE.read_text(), SOURCE.name, {"LOGIT": logit}, (9, 1)).code.decode()
    bodies = dict(re.findall(r"\.entry (\w+)\((.*?)\n\}", ptx, re.DOTALL))
    assert bodies.keys() == MOST_REGISTERS.keys()
    for name, body in bodies.items():
        assert "st.global.v4.u32" in body, name
        assert ("cp.async.cg.shared.global [%r" in body) == name.startswith("fused")
        # Nothing that another grid may have written is touched before that grid has ended.
        assert re.split(r"\b(?:ld|st)\.(?:volatile\.)?global|\bcp\.async", body)[0].count("griddepcontrol.wait;") == 1
        # A generic access would first find out which memory an address is in.
        assert not re.findall(r"\b(?:ld|st)\.(?!global|volatile\.global|shared|param)\S*", body), name
    # Words of masks, numbers of rows and addresses of rows: no float, and nothing of 16 bits.
    assert set(re.findall(r"ld\.global\S*", bodies["mask_logits"])) <= {"ld.global.u32", "ld.global.u64"}

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kernels.cxx import find_compiler, load_library
from kernels.nvrtc import KernelUnavailable

ANSWER = 'extern "C" int answer() { return 42; }'

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Any that is installed."""
    try:
        return find_compiler()
    except KernelUnavailable as error:
        pytest.skip(str(error))


def broken_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = folder / "broken"
    script.write_text("#!/bin/sh\necho out of order >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))


def answer(source: str = ANSWER) -> int:
    function = load_library(source, "answer.cpp").answer
    function.restype = ctypes.c_int
    result: int = function()
    return result


@pytest.mark.usefixtures("compiler")
def test_a_source_is_compiled_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer() == 42
    assert answer(ANSWER.replace("42", "43")) == 43
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 2
    broken_compiler(tmp_path, monkeypatch)
    assert answer() == 42
    with pytest.raises(KernelUnavailable, match="out of order"):
        answer(ANSWER.replace("42", "44"))


def test_a_compiler_may_come_with_options(compiler: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"{compiler[0]} -DNUMBER=45")
    assert answer('extern "C" int answer() { return NUMBER; }') == 45


def test_without_a_compiler_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelUnavailable, match=r"no C\+\+ compiler was found: install g\+\+"):
        answer()
    monkeypatch.setenv("CXX", str(tmp_path / "nowhere"))
    with pytest.raises(KernelUnavailable, match=r"nowhere cannot be run .* install g\+\+"):
        answer()


def test_what_does_not_compile_is_an_error_with_the_compilers_words(
    cache: Path, compiler: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KernelUnavailable, match=r"(?s)does not compile answer.cpp: .*missing_thing"):
        answer("int answer() { return missing_thing(); }")
    broken_compiler(tmp_path, monkeypatch)
    with pytest.raises(KernelUnavailable, match=r"broken does not compile answer.cpp: out of order"):
        answer()
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("compiler")
def test_a_cache_that_cannot_be_written_is_done_without(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where a folder should be")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert answer() == 42
    assert not list(temporary.iterdir()), "a loaded library needs no file"
    temporary.rmdir()
    with pytest.raises(KernelUnavailable, match="cannot be compiled or loaded"):
        answer(ANSWER.replace("42", "46"))


@pytest.mark.usefixtures("compiler")
def test_a_file_in_the_cache_that_is_no_library_is_not_used(cache: Path) -> None:
    source = ANSWER.replace("42", "47")
    load_library(source, "answer.cpp")
    [path] = [path for path in cache.rglob("*.so") if path.is_file()]
    path.unlink()  # not overwritten: this process has it mapped
    path.write_bytes(b"no library")
    assert answer(source) == 47


@pytest.mark.usefixtures("compiler")
def test_processes_that_compile_at_once_all_get_the_library(cache: Path) -> None:
    program = f"from kernels.cxx import load_library; print(load_library({ANSWER!r}, 'answer.cpp').answer())"
    started = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=os.environ, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert [process.communicate(timeout=60)[0] for process in started] == [b"42\n"] * 4
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 1

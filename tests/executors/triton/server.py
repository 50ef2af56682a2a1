"""A real Triton server, without a GPU: the one inside the wheel of nvidia-pytriton, with its Python backend."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import pytest

from tests.ports import free_port

WHEEL = "nvidia-pytriton==0.7.0"
"""Triton 2.51. Only its files are used: neither it nor what it depends on is installed next to this project."""

_PACKAGES = (WHEEL, "numpy==1.26.4", f"tokenizers=={version('tokenizers')}")
"""What the backend's processes import. They return empty tensors, or crash, with numpy 2."""

_FOLDER = Path(sys.prefix) / "triton-server"
_START_SECONDS = 30.0


def install() -> Path:
    """The folder with the server's files, downloaded where missing (60 MB); skips the test where none exist."""
    python = ".".join(platform.python_version_tuple()[:2])
    libpython = Path(sysconfig.get_config_var("LIBDIR")) / f"libpython{python}.so.1.0"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip(f"There is no {WHEEL} for {sys.platform} on {platform.machine()}.")
    if not libpython.is_file():
        pytest.skip(f"Triton's Python backend needs {libpython}, without which this Python was built.")
    _FOLDER.mkdir(exist_ok=True)
    done = _FOLDER / "installed"
    with (_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_file():
            # An environment of its own, because the backend's processes do not look at PYTHONPATH.
            venv.create(_FOLDER, symlinks=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
            subprocess.run([*pip, "--upgrade", "--target", str(_packages()), *_PACKAGES], check=True)
            server = _packages() / "pytriton" / "tritonserver"
            backend = _FOLDER / "backends" / "python"
            shutil.copytree(server / "backends" / "python", backend, dirs_exist_ok=True)
            shutil.copy(server / "python_backend_stubs" / python / "triton_python_backend_stub", backend)
            done.touch()
    return _FOLDER


def _packages() -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(_FOLDER)}))


class TritonServer:
    """A server process that can be killed and started again on the same port.

    Attributes:
        url: of its gRPC endpoint.
    """

    # Those that run, and how many ended by themselves since the last test began. The server of that wheel does so now
    # and then while it cancels a stream (signal 11, after "HandleCancellation called even when the context was not
    # cancelled"), which says nothing of the code under test.
    _running: ClassVar[list[TritonServer]] = []
    _crashes: ClassVar[int] = 0

    def __init__(
        self,
        repository: Path,
        *,
        environment: Mapping[str, str],
        arguments: Sequence[str] = (),
    ) -> None:
        self._folder = install()
        self._repository = repository
        self._environment = environment
        self._arguments = arguments
        self._port = free_port()
        self._shared_memory = f"triton-{os.getpid()}-{self._port}-"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"127.0.0.1:{self._port}"
        self.log = repository.with_suffix(".log")

    def start(self) -> None:
        """Start it; returns when it listens."""
        packages = _packages()
        environment = {
            **os.environ,
            **self._environment,
            # The backend's processes look for packages as the interpreter does that is first here.
            "PATH": f"{self._folder / 'bin'}:{os.environ['PATH']}",
            # This interpreter's library must come before the system's.
            "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}",
        }
        command = [
            str(packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
            f"--model-repository={self._repository}",
            f"--backend-directory={self._folder / 'backends'}",
            "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
            "--allow-http=false",
            "--allow-metrics=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self._port}",
            *self._arguments,
        ]
        with self.log.open("ab") as log:
            # A session of its own, so that the backend's processes can be ended with it.
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._running.append(self)
        deadline = time.monotonic() + _START_SECONDS
        while not self._listens():
            assert not self._has_crashed(), self._errors()
            assert time.monotonic() < deadline, self._errors()
            time.sleep(0.02)

    @classmethod
    def have_crashed(cls) -> bool:
        """Whether any has ended by itself since the last call of `replace_crashed`."""
        return cls._crashes > 0 or any(server._has_crashed() for server in cls._running)

    @classmethod
    def replace_crashed(cls) -> None:
        """Start those again that have ended by themselves."""
        for server in [server for server in cls._running if server._has_crashed()]:
            server.kill()
            server.start()
        cls._crashes = 0

    def _has_crashed(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._running.remove(self)
            TritonServer._crashes += self._has_crashed()
            # What the backend started may outlive a server that has crashed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        for left in Path("/dev/shm").glob(f"{self._shared_memory}*"):
            left.unlink()

    def freeze(self) -> None:
        """Let it hang."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def _errors(self) -> str:
        return "\n".join(line for line in self.log.read_text().splitlines() if line.startswith("E"))

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

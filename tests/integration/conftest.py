"""One real `bentoml serve .` for all tests here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI

from tests.homes import make_home
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"

_START_SECONDS = 180
_STOP_SECONDS = 20


@dataclass(frozen=True)
class Server:
    """A running service."""

    url: str
    process: psutil.Process
    log: Path

    def state(self) -> dict[str, Any]:
        """What the service says about its model."""
        state: dict[str, Any] = httpx.get(f"{self.url}/v1/health/model").json()
        return state

    def running(self) -> int:
        """Sequences that occupy a slot or wait for one."""
        executor = self.state()["executor"]
        return int(executor["running"] + executor["waiting"])

    def executor(self) -> psutil.Process:
        """The process that runs the model."""
        (process,) = [
            child
            for child in self.process.children(recursive=True)
            if "guidance_core.executors.torch.worker" in child.cmdline()
        ]
        return process


@contextlib.contextmanager
def serving(log: Path, **environment: str) -> Iterator[Server]:
    """A service of its own; nothing of it is left afterwards.

    Args:
        log: where its output goes.
        environment: variables besides those of this process.
    """
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    server = Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid), log)
    try:
        wait_until(lambda: _is_ready(server, process), seconds=_START_SECONDS)
        yield server
    finally:
        children = []
        # A service that ended by itself has been reported above, with its log.
        with contextlib.suppress(psutil.NoSuchProcess):
            children = server.process.children(recursive=True)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        _, left = psutil.wait_procs([server.process, *children], timeout=5)
        for survivor in left:
            survivor.kill()
    assert not left, f"Processes outlived the service: {left}"


@pytest.fixture(scope="session")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # Two threads of one model step wait for each other: where other work takes a core away, one thread is much faster.
    folder = tmp_path_factory.mktemp("server")
    home = make_home(folder / "home", model_path)
    with serving(folder / "log.txt", BENTOML_HOME=str(home), GUIDED_TRTLLM_TORCH__NUM_THREADS="1") as server:
        yield server


def _is_ready(server: Server, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, f"The service ended:\n{server.log.read_text()}"
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{server.url}/readyz", timeout=2).status_code == 200
    return False


def wait_until(condition: Callable[[], bool], *, seconds: float, every: float = 0.05) -> None:
    """Ask until it is so; fail after this long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"Not within {seconds} s"
        time.sleep(every)


@pytest.fixture(scope="session")
def openai(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)

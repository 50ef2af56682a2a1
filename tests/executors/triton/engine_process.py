"""Starts the engine that the stand-in models ask, and asks it what it does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.ports import free_port

_ROOT = Path(__file__).parents[3]


class Engine:
    """The process.

    Attributes:
        port: where it listens.
    """

    def __init__(self, models: Mapping[str, Path]) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "tests.executors.triton.engine", "--port", str(self.port)]
        command += [f"--model={name}={folder}" for name, folder in models.items()]
        self._process = subprocess.Popen(command, cwd=_ROOT)

    def wait(self) -> None:
        """Returns when it listens."""
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def stats(self, model: str) -> dict[str, int]:
        """How many sequences of a model are ``running`` or waiting, and how many tokens were sampled so far."""
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(json.dumps({"stats": model}).encode() + b"\n")
            found: dict[str, int] = json.loads(client.makefile("rb").readline())
            return found

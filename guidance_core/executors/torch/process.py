"""The executor's process, as the service sees it: started, talked to, and seen to die.

The process is a fresh interpreter rather than one of `multiprocessing`'s: those import the main module of their parent
again, which here is a web server. Nothing in this module blocks its caller: one thread writes to the process, one reads
from it and, at the end, waits for it to be gone.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from guidance_core.executors.torch.messages import Command, Load, Report

_log = logging.getLogger(__name__)

_ROOT = Path(__file__).parents[3]
"""The folder that has the ``guidance_core`` package in it."""

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20)}
"""glibc's allocator gives memory back by default when a tensor of some megabytes is freed, only to ask for it again,
page by page, in the next step: sampling for 32 sequences takes four times as long then."""

_LEAVING_SECONDS = 5.0
"""A process that closed its connection is given this long to end."""


class EngineProcess:
    """One process, from its start to its end.

    Attributes:
        last_report: `time.monotonic` of the newest report, or of the start.
    """

    def __init__(self, load: Load, on_report: Callable[[Report], None], on_exit: Callable[[str], None]) -> None:
        """Start it.

        Args:
            load: what it is to load.
            on_report: called with each report, in a thread of its own.
            on_exit: called once, in the same thread, with how the process ended (`` was killed by SIGKILL``).
        """
        self._on_report = on_report
        self._on_exit = on_exit
        self._outbox: queue.SimpleQueue[Load | Command | None] = queue.SimpleQueue()
        self._outbox.put(load)
        self.last_report = time.monotonic()
        self._connection, theirs = Pipe()
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "guidance_core.executors.torch.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else None,
                env={**MALLOC, **os.environ, "PYTHONPATH": path},
            )
        self._writer = threading.Thread(target=self._write, name="engine-writer", daemon=True)
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)
        self._writer.start()
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, command: Command) -> None:
        """Tell it something; ignored when it has ended."""
        self._outbox.put(command)

    def stop(self) -> None:
        """Ask it to end."""
        self._outbox.put(None)

    def kill(self) -> None:
        """End it without asking."""
        self._process.kill()

    def join(self, timeout: float) -> bool:
        """Wait for its end and the last callback; says whether that came. Blocks."""
        self._reader.join(timeout)
        return not self._reader.is_alive()

    def _write(self) -> None:
        while True:
            command = self._outbox.get()
            try:
                self._connection.send(command)
            except OSError:
                return  # It has ended; the reader sees that too.
            if command is None:
                return

    def _read(self) -> None:
        try:
            while True:
                report = self._connection.recv()
                self.last_report = time.monotonic()
                self._on_report(report)
        except (EOFError, OSError):
            pass
        except Exception:
            _log.exception("The model's process sent something that cannot be read.")
            self._process.kill()
        try:
            code = self._process.wait(_LEAVING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._outbox.put(None)
        self._writer.join()
        self._connection.close()
        self._on_exit(_describe(code))


def inbox(connection: Connection) -> queue.SimpleQueue[Command]:
    """The process's side: commands as they come in; ends the process at once when told to, or when the parent is gone.

    It ends in the middle of whatever it does: there is nothing to be saved.
    """
    commands: queue.SimpleQueue[Command] = queue.SimpleQueue()

    def receive() -> None:
        try:
            while (command := connection.recv()) is not None:
                commands.put(command)
        except (EOFError, OSError):
            pass
        os._exit(0)

    threading.Thread(target=receive, name="inbox", daemon=True).start()
    return commands


def _has_descriptor(stream: object) -> bool:
    try:
        stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return False
    return True


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"

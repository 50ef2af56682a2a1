"""The executor's process: it lives as long as the service, and no longer."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

from guidance_core.config import Settings
from guidance_core.executors.torch.messages import Load, LoadFailed, Report
from guidance_core.executors.torch.process import EngineProcess

SERVICE = """
import sys, time
from pathlib import Path
from guidance_core.config import Settings
from guidance_core.executors.torch.messages import Load
from guidance_core.executors.torch.process import EngineProcess

process = EngineProcess(Load(Path(sys.argv[1]), Settings()), on_report=print, on_exit=print)
print(process.pid, flush=True)
time.sleep(60)
"""


def gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            # A process whose parent is dead may stay a zombie where nobody reaps.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_it_ends_when_the_service_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVICE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        pid = int(service.stdout.readline())
        service.kill()
    try:
        assert gone(pid, 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_what_it_reports_comes_before_word_of_its_end(tmp_path: Path) -> None:
    said: queue.SimpleQueue[Report | str] = queue.SimpleQueue()
    process = EngineProcess(Load(tmp_path / "nowhere", Settings()), on_report=said.put, on_exit=said.put)
    assert process.join(60)
    report = said.get_nowait()
    assert isinstance(report, LoadFailed)
    assert "nowhere" in report.message
    assert said.get_nowait() == "ended with exit code 0"
    assert said.empty()
    process.stop()
    process.kill()

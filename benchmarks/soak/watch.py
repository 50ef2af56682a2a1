"""What a service's processes hold."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Held:
    """Of one process.

    Attributes:
        role: what it does.
        rss_mb: resident memory, in MiB.
        descriptors: open files, sockets, pipes.
        threads: of the operating system.
    """

    role: str
    rss_mb: float
    descriptors: int
    threads: int

    def __str__(self) -> str:
        return f"{self.role} {self.rss_mb:.1f} MiB, {self.descriptors} fds, {self.threads} threads"


def held(root: psutil.Process) -> list[Held]:
    """What the processes below one hold now."""
    return [held for process in root.children(recursive=True) if (held := _held(process)) is not None]


def _held(process: psutil.Process) -> Held | None:
    try:
        with process.oneshot():
            return Held(
                _role(process.cmdline()),
                process.memory_info().rss / 2**20,
                process.num_fds(),
                process.num_threads(),
            )
    except psutil.Error:
        return None  # it has just ended


def _role(command: list[str]) -> str:
    line = " ".join(command)
    for part, role in (("torch.worker", "executor"), ("worker.service", "service"), ("trial.py", "trial")):
        if part in line:
            return role
    return "supervisor" if "bentoml" in line else "other"

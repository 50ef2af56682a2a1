"""GPUs: which a name stands for, and which are in this machine."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

_CAPABILITIES = {
    "7.0": ("V100", "V100S"),
    "7.5": ("T4",),
    "8.0": ("A100", "A800", "A30"),
    "8.6": ("A40", "A10", "A10G", "A16", "A2", "A4000", "A4500", "A5000", "A6000"),
    "8.9": ("L2", "L4", "L20", "L40", "L40S"),
    "9.0": ("H20", "H100", "H200", "H800", "GH200"),
    "10.0": ("B100", "B200", "GB200"),
    "10.3": ("B300", "GB300"),
}
"""Compute capability → products (https://developer.nvidia.com/cuda-gpus)."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        name: as its driver or a configuration calls it; empty where only the capability is known.
        compute_capability: such as ``9.0``; None where the name does not tell.
    """

    name: str
    compute_capability: str | None

    def __str__(self) -> str:
        """For messages."""
        capability = f"compute capability {self.compute_capability}" if self.compute_capability else ""
        return f"{self.name} ({capability})" if self.name and capability else self.name or capability


def gpu_named(text: str) -> Gpu:
    """The GPU that a text stands for: ``H100-SXM``, ``NVIDIA H100 80GB HBM3``, ``9.0``, ``sm_90``."""
    if number := re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", text.strip().lower()):
        return Gpu("", f"{number[1]}.{number[2]}")
    words = set(re.split(r"[ \-_/]+", text.upper()))
    for capability, products in _CAPABILITIES.items():
        if words.intersection(products):
            return Gpu(text, capability)
    return Gpu(text, None)


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that this process may use; empty where there is no NVIDIA driver.

    ``nvidia-smi`` is asked and not CUDA, which would take some hundred megabytes on a GPU for as long as the process
    lives. As CUDA does, it heeds ``CUDA_VISIBLE_DEVICES`` (numbers and UUIDs).
    """
    try:
        finished = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid,name,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in row] for row in csv.reader(finished.stdout.splitlines()) if len(row) == 4]
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        wanted = [name.strip() for name in chosen.split(",")]
        rows = [row for row in rows if any(row[0] == name or (name and row[1].startswith(name)) for name in wanted)]
    return [Gpu(name, capability) for _, _, name, capability in rows]

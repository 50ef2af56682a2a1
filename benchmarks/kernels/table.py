"""The results, as JSON and as a table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.kernels.goals import Cell, goals


@dataclass(slots=True)
class Table:
    """All of one run.

    Attributes:
        device: what ran it.
        missing: contenders that could not run, and why.
        empty_launch_seconds: of a kernel that does nothing; only on a GPU.
        copy_bandwidth: bytes per second; only on a GPU.
        cells: one per workload.
        measured: when.
    """

    device: str
    missing: list[str] = field(default_factory=list)
    empty_launch_seconds: float | None = None
    copy_bandwidth: float | None = None
    cells: list[Cell] = field(default_factory=list)
    measured: str = field(default_factory=lambda: datetime.now(timezone.utc).strftime("%Y-%m-%d"))

    def markdown(self) -> str:
        """Microseconds per call."""
        names = list(dict.fromkeys(name for cell in self.cells for name in cell.seconds))
        has_bandwidth = self.copy_bandwidth is not None
        head = ["logits", "vocabulary", "rows", "mask", *(f"{name} (µs)" for name in names)]
        if has_bandwidth:
            head.append("ours: share of copy bandwidth")
        lines = [f"{self.device}, {self.measured}."]
        if self.empty_launch_seconds is not None and self.copy_bandwidth is not None:
            lines[0] += (
                f" Empty launch {self.empty_launch_seconds * 1e6:.1f} µs, copy {self.copy_bandwidth / 1e12:.2f} TB/s."
            )
        lines += [f"Not measured: {why}." for why in self.missing]
        lines += ["", _line(head), _line(["---"] * 4 + ["---:"] * (len(head) - 4))]
        for cell in self.cells:
            fields = [cell.dtype, f"{cell.vocabulary:,}", str(cell.rows), cell.kind]
            fields += [f"{cell.seconds[name] * 1e6:.1f}" if name in cell.seconds else "" for name in names]
            if has_bandwidth:
                assert self.copy_bandwidth is not None
                fields.append(f"{cell.bytes / cell.seconds['ours'] / self.copy_bandwidth:.2f}")
            lines.append(_line(fields))
        judged = goals(self.cells, self.empty_launch_seconds, self.copy_bandwidth)
        if judged:
            lines += ["", _line(["goal", "measured", "met"]), _line(["---"] * 3)]
            lines += [_line([goal.text, goal.measured, "yes" if goal.is_met else "no"]) for goal in judged]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write ``kernels.json`` and ``kernels.md``."""
        folder.mkdir(parents=True, exist_ok=True)
        machine: dict[str, Any] = asdict(self)
        paths = [folder / "kernels.json", folder / "kernels.md"]
        paths[0].write_text(json.dumps(machine, indent=2) + "\n", encoding="utf-8")
        paths[1].write_text(self.markdown(), encoding="utf-8")
        return paths


def _line(fields: list[str]) -> str:
    return f"| {' | '.join(fields)} |"

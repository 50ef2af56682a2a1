"""The results as a table for the eye and as JSON for everything else."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.agreement import Agreement
from benchmarks.streams import Figures


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of one contender at one number of streams."""

    contender: str
    constrained: bool
    streams: int
    figures: Figures


@dataclass(frozen=True, slots=True)
class AddedTime:
    """What a schema adds to the time between tokens.

    Attributes:
        contender: whose.
        streams: how many at once.
        share: of the time that a free answer takes per token; below 0 where the schema makes answers faster. The
            median over rounds, in each of which free and constrained answers were measured one after the other.
    """

    contender: str
    streams: int
    share: float


@dataclass(slots=True)
class Report:
    """All of one run."""

    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    added: list[AddedTime] = field(default_factory=list)
    agreement: Agreement | None = None
    machine: dict[str, Any] = field(default_factory=lambda: describe_machine())

    def figures(self, contender: str, streams: int, *, constrained: bool = False) -> Figures | None:
        """One row's figures, if it was measured."""
        for row in self.rows:
            if (row.contender, row.streams, row.constrained) == (contender, streams, constrained):
                return row.figures
        return None

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def table(self) -> str:
        """Text with a line for each row, and the ratios that matter."""
        header = (
            f"{'contender':<16}{'answer':<9}{'streams':>7}  {'tokens/s':>9}{'first token':>13}"
            f"{'between p50':>13}{'p99':>10}{'forced':>9}{'mask wait':>14}{'vs transformers':>17}{'vs free':>9}"
        )
        rows = (self._line(row) for row in self.rows)
        return "\n".join([header, *rows, *self._added_lines(), *self._agreement_lines()])

    def _line(self, row: Row) -> str:
        figures = row.figures
        yardstick = None if row.constrained else self.figures("transformers", row.streams)
        free = self.figures(row.contender, row.streams) if row.constrained else None
        guided = row.constrained and row.contender.startswith("bare")
        return (
            f"{row.contender:<16}{'schema' if row.constrained else 'free':<9}{row.streams:>7}  "
            f"{figures.tokens_per_second:>9.0f}{figures.first_token_ms:>10.0f} ms"
            f"{figures.between_tokens_p50_ms:>10.1f} ms{figures.between_tokens_p99_ms:>7.0f} ms"
            f"{f'{figures.forced_share:.0%}' if guided else '':>9}"
            f"{f'{figures.mask_wait_us:.0f} µs/token' if guided else '':>14}"
            f"{_ratio(figures, yardstick):>17}{_ratio(figures, free):>9}"
        ).rstrip()

    def _added_lines(self) -> list[str]:
        if not self.added:
            return []
        lines = (f"{each.contender:<16}{each.streams:>7}  {each.share:>+8.1%}" for each in self.added)
        return ["", "Added time between tokens, schema against free:", f"{'contender':<16}{'streams':>7}", *lines]

    def _agreement_lines(self) -> list[str]:
        if self.agreement is None:
            return []
        return [
            "",
            f"Greedy answers in {self.settings['dtype']} against transformers' generate, {self.agreement.prompts} "
            f"questions: {self.agreement.identical_answers:.0%} identical; {self.agreement.equal_prefix:.0%} of the "
            "tokens come before the first difference.",
        ]


def _ratio(figures: Figures, other: Figures | None) -> str:
    return f"{figures.tokens_per_second / other.tokens_per_second:.2f}x" if other else ""


def describe_machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    import torch

    packages = ("torch", "transformers", "llguidance", "bentoml")
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())

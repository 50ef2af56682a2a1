from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.agreement import Agreement
from benchmarks.plot import draw
from benchmarks.report import AddedTime, Report, Row
from benchmarks.streams import Figures


@pytest.fixture
def report() -> Report:
    def row(contender: str, constrained: bool, streams: int, speed: float) -> Row:
        return Row(contender, constrained, streams, Figures(speed, 50.0, 10.0, 20.0, 1000 / speed, 0.25, 12.0))

    return Report(
        settings={"model": "tiny:1", "dtype": "bfloat16", "prompt_tokens": 100, "new_tokens": 128},
        rows=[
            row("bare", False, 1, 60),
            row("bare", False, 8, 300),
            row("bare", True, 1, 90),
            row("bare", True, 8, 330),
            row("transformers", False, 1, 40),
            row("transformers", False, 8, 200),
        ],
        added=[AddedTime("bare", 8, 0.0123), AddedTime("bare, unforced", 8, -0.25)],
        agreement=Agreement(16, 0.5, 0.75),
    )


def test_the_table_compares_with_the_yardstick_and_with_free_answers(report: Report) -> None:
    lines = report.table().splitlines()
    free, constrained = lines[2], lines[4]
    assert free.split()[:3] == ["bare", "free", "8"]
    assert free.endswith("1.50x")
    assert constrained.split()[:3] == ["bare", "schema", "8"]
    assert "25%" in constrained
    assert constrained.endswith("1.10x")
    assert "16 questions: 50% identical; 75%" in report.table()
    assert [line.split()[-2:] for line in lines if line.startswith("bare") and line.endswith("%")][-2:] == [
        ["8", "+1.2%"],
        ["8", "-25.0%"],
    ]


def test_the_json_file_has_every_figure_and_the_machine(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path / "new" / "report.json")
    content = json.loads((tmp_path / "new" / "report.json").read_text())
    assert content["rows"][3]["figures"]["tokens_per_second"] == 330
    assert content["agreement"]["identical_answers"] == 0.5
    assert content["settings"]["model"] == "tiny:1"
    assert {"processor", "cores", "torch", "transformers", "llguidance", "bentoml"} <= set(content["machine"])


def test_the_plot_is_a_picture(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(report, tmp_path / "new" / "report.png")
    assert (tmp_path / "new" / "report.png").read_bytes().startswith(b"\x89PNG")

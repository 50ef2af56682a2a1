from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from benchmarks.kernels import __main__ as kernels
from benchmarks.kernels import contenders, workload
from benchmarks.kernels.contenders import Contender
from benchmarks.kernels.goals import Cell, goals
from benchmarks.kernels.table import Table
from kernels.cuda_device import SOURCE
from kernels.nvrtc import compile_cuda


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the benchmark takes minutes")
def test_it_writes_a_table_of_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> NoReturn:
        raise ImportError("not installed")

    monkeypatch.setattr(contenders, "_llguidance_cpu", lacking)
    small = ["--rows", "2", "--vocabularies", "1024", "--dtypes", "bfloat16", "--seconds", "0"]
    kernels.main([*small, "--kinds", "1/2", "999/1000 in runs", "--out", str(tmp_path)])
    table = json.loads((tmp_path / "kernels.json").read_text())
    assert [(cell["rows"], cell["vocabulary"], cell["kind"]) for cell in table["cells"]] == [
        (2, 1024, "1/2"),
        (2, 1024, "999/1000 in runs"),
    ]
    assert all(taken > 0 for cell in table["cells"] for taken in cell["seconds"].values())
    assert table["cells"][0]["bytes"] == 2 * 128 + 2 * 512 * 2
    text = (tmp_path / "kernels.md").read_text()
    assert text.count("| bfloat16 | 1,024 | 2 |") == 2
    assert "Not measured: llguidance torch.compile: not installed." in text


@pytest.mark.parametrize(
    ("kind", "forbidden"),
    [("none", 0), ("1/20", 102), ("1/2", 1024), ("19/20", 1946), ("1/2 in runs", 1024), ("all", 2048)],
)
def test_masks_forbid_what_their_kind_says(kind: str, forbidden: int) -> None:
    masks = workload.masks(kind, 2, 1024)
    assert workload.forbidden_tokens(masks) == forbidden
    if 0 < forbidden < 2048:
        assert not torch.equal(masks[0], masks[1])


def test_runs_are_runs_that_no_word_of_the_mask_begins() -> None:
    scattered, runs = (workload.masks(kind, 1, 2**16) for kind in ("1/20", "1/20 in runs"))
    assert ((scattered != 0) & (scattered != -1)).sum() > 1000
    assert 51 < ((runs != 0) & (runs != -1)).sum() <= 2 * 51


def test_a_contender_that_masks_wrongly_is_not_measured() -> None:
    lazy = Contender("lazy", lambda logits, bitmask: lambda logits, bitmask: None)
    harsh = Contender("harsh", lambda logits, bitmask: lambda logits, bitmask: logits.fill_(-torch.inf))
    half = torch.tensor([[-1, 0]], dtype=torch.int32)
    for contender in (lazy, harsh):
        with pytest.raises(AssertionError, match=f"{contender.name} masks wrongly"):
            kernels._checked(contender, torch.zeros(1, 64), half)


def test_a_gpu_table_shows_the_share_of_the_copy_bandwidth() -> None:
    cell = Cell("float32", 64, 1, "half", 2_000_000, 2_000_000, {"ours": 1e-6, "other": 3e-6})
    table = Table("A GPU", ["x: not installed"], empty_launch_seconds=2e-6, copy_bandwidth=4e12, cells=[cell])
    text = table.markdown()
    assert "Empty launch 2.0 µs, copy 4.00 TB/s." in text
    assert "Not measured: x: not installed." in text
    assert "| float32 | 64 | 1 | half | 1.0 | 3.0 | 0.50 |" in text


def test_a_gpu_table_says_of_each_goal_whether_it_is_met() -> None:
    names = ("ours", "ours, no overlap", "ours, fused", "block per row", "xgrammar CUDA")

    def cell(rows: int, kind: str, *microseconds: float) -> Cell:
        seconds = dict(zip(names, (each / 1e6 for each in microseconds), strict=True))
        return Cell("float32", 128_256, rows, kind, 80_000_000, 160_000_000, seconds)

    cells = [
        cell(1, "1/2", 2.0, 3.0, 4.0, 12.0, 2.5),
        cell(1, "all", 2.5, 3.1, 4.0, 11.9, 2.5),
        cell(256, "1/2", 50.0, 50.0, 90.0, 90.0, 40.0),
        cell(256, "1/2 in runs", 20.0, 21.0, 90.0, 90.0, 40.0),
    ]
    judged = goals(cells, 2e-6, 4e12)
    assert [(goal.measured.split(" (")[0], goal.is_met) for goal in judged] == [
        ("1.25", True),
        ("1.55", False),
        ("0.80", False),
        ("1.00", True),
        ("at most 1.25 of its time", False),
        ("at most 0.34 of its time", False),
    ]
    assert "| at most 1.25 of its time (float32, 256 x 128256, 1/2); more than 1.00 in 1 of 4 cells | no |" in (
        Table("A GPU", empty_launch_seconds=2e-6, copy_bandwidth=4e12, cells=cells).markdown()
    )


def test_sectors_are_those_that_hold_a_forbidden_logit() -> None:
    mask = torch.tensor([[-1, 0x00FF_FF7F, -(2**31)]], dtype=torch.int32)
    assert workload.forbidden_sectors(mask, 4) == 2 + 4
    assert workload.forbidden_sectors(mask, 2) == 2 + 2


def test_the_yardstick_compiles_after_the_kernels_source() -> None:
    yardstick = Path(kernels.__file__).with_name("block_per_row.cu").read_text()
    compiled = compile_cuda(SOURCE.read_text() + yardstick, "block_per_row.cu", {"LOGIT": "BFloat16"}, (9, 0))
    assert b"block_per_row" in compiled.code

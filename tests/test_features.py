"""Every "yes" of ours in the table of features has a test, and every claim about another system a source."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
HEADER, _, *ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("|")
]


@cache
def functions_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_our_cell_names_a_test_that_exists(row: list[str]) -> None:
    assert len(row) == len(HEADER)
    if row[-1] != "no":
        path, _, name = row[-1].strip("`").partition("::")
        assert name.startswith("test_")
        assert name in functions_in(path)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_is_said_of_another_system_has_a_source(row: list[str]) -> None:
    sources = set(re.findall(r"^\[(\w+)\]: https://", TEXT, re.MULTILINE))
    for cell in row[1:-1]:
        assert cell == "not found" or set(re.findall(r"\[(\w+)\]$", cell)) & sources, cell

"""The comparison of engines: what it counts, on engines that need no other package."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.masks import table
from benchmarks.masks.engines import Llguidance, Ours
from benchmarks.masks.runner import Runner
from benchmarks.masks.walk import Walk, walk_schema

ENTRY: dict[str, Any] = {
    "name": "unique",
    "schema": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    "tests": [{"valid": True, "data": [1, 2]}, {"valid": False, "data": [1, 1]}, {"valid": False, "data": ["a"]}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(['{"a": [1, 2, 3]}'] * 9, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_instances_are_judged_as_a_client_would_get_them(folder: Path) -> None:
    walk = walk_schema(Ours(folder, 300, 0), ENTRY)
    assert (walk.outcome, walk.valid, walk.valid_rejected, walk.invalid, walk.invalid_accepted) == (
        "compiled", 1, 0, 2, 0,
    )  # fmt: skip
    assert walk.compile > 0
    assert walk.compile_again is not None
    assert len(walk.masks) == len(walk.tokens) + 3  # each text ends with a mask after which nothing is consumed


def test_a_refusal_is_counted_with_its_reason(folder: Path) -> None:
    walk = walk_schema(Llguidance(folder, 300, 0), {**ENTRY, "schema": {"type": "array", "uniqueItems": True}})
    assert walk.outcome == "refused"
    assert "uniqueItems" in walk.reason


@pytest.fixture
def runner(folder: Path) -> Iterator[Runner]:
    """An engine in a process of its own."""
    with closing(Runner("llguidance", folder, 300, 0, seconds=1)) as runner:
        yield runner


def test_an_engine_that_does_not_come_back_costs_one_schema_only(runner: Runner) -> None:
    [process] = [child for child in multiprocessing.active_children() if child.pid is not None]
    os.kill(process.pid or 0, signal.SIGSTOP)
    entry = {**ENTRY, "schema": {"type": "array", "items": {"type": "integer"}}}
    assert [runner.walk(entry).outcome for _ in range(2)] == ["timed out", "compiled"]


def test_quantiles_are_values_that_occurred() -> None:
    assert [table.quantile([4, 1, 3, 2], share) for share in (0.25, 0.5, 0.75, 0.99, 1)] == [1, 2, 3, 4, 4]
    assert math.isnan(table.quantile([], 0.5))


def test_tables_compare_what_all_engines_compiled() -> None:
    walks = {
        "one": [Walk("a", compile=0.001, masks=[1e-6], tokens=[2e-6]), Walk("b", compile=1, masks=[1], tokens=[1])],
        "other": [Walk("a", compile=0.002, masks=[3e-6], tokens=[4e-6]), Walk("b", "refused", "why")],
    }
    assert table.common(walks) == {"a"}
    assert "| one | 0 | 0 |" not in table.coverage(walks)
    assert "| other | 1 | 1 | 0 |" in table.coverage(walks)
    assert "| one | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 1.0 |" in table.costs(walks, {"a"})

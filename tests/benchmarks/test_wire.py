from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.wire import Load
from guidance_core.api import served_model
from guidance_core.config import Settings
from guidance_core.executors import create_executor
from guidance_core.generation import GenerationRequest, SamplingParams


@pytest.fixture
def keep_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What importing the benchmark's service replaces comes back."""
    monkeypatch.setattr(served_model, "create_executor", create_executor)


async def test_the_instant_executor_answers_all_tokens_one_by_one(keep_executors: None) -> None:
    from benchmarks import wire_service

    executor = wire_service._instant(Path(), Settings())
    request = GenerationRequest(request_id="1", prompt_ids=(1, 2), sampling=SamplingParams(max_tokens=100))
    deltas = [delta async for delta in executor.generate(request)]
    assert [len(delta.token_ids) for delta in deltas] == [1] * 100
    assert [delta.finish_reason for delta in deltas] == [None] * 99 + ["length"]


def test_a_row_has_the_rate_and_the_cpu_time_of_each() -> None:
    assert Load(count=1000, seconds=2.0, cpu_seconds=0.5).row("requests", 32) == "| requests | 32 | 500 | 500 µs |"

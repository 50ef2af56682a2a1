"""What Prometheus learns about the executor."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest
from prometheus_client.parser import text_string_to_metric_families

from guidance_core.executors.base import ExecutorStats, Health, State
from guidance_core.telemetry import executor_metrics

STATS = ExecutorStats(*range(1, 1 + len(fields(ExecutorStats))))


def test_every_number_of_the_executor_is_a_metric_that_says_what_it_is() -> None:
    families = {
        family.name: family for family in text_string_to_metric_families(executor_metrics(Health("ready"), STATS))
    }
    for name, value in asdict(STATS).items():
        family = families[f"guided_executor_{name}"]
        assert [sample.value for sample in family.samples] == [value]
        assert family.documentation.endswith(".")
        assert " " in family.documentation


def test_what_only_grows_is_a_counter() -> None:
    families = text_string_to_metric_families(executor_metrics(Health("ready"), STATS))
    gauges = {family.name.removeprefix("guided_executor_") for family in families if family.type == "gauge"}
    assert gauges == {"state", "running", "waiting", "slots", "kv_tokens", "kv_capacity"}


@pytest.mark.parametrize("state", ["starting", "ready", "restarting", "failed", "stopped"])
def test_the_executor_is_in_one_state(state: State) -> None:
    [family] = [
        family
        for family in text_string_to_metric_families(executor_metrics(Health(state), STATS))
        if family.name == "guided_executor_state"
    ]
    assert {sample.labels["state"] for sample in family.samples if sample.value} == {state}
    assert len(family.samples) == 5

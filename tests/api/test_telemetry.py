"""What Prometheus learns about constraints."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from guidance_core import telemetry
from guidance_core.generation import GuidanceTimes
from tests.api.conftest import MODEL

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


class Change:
    """How much a sample has grown since it was made."""

    def __init__(self, name: str, **labels: str) -> None:
        self._name, self._labels = name, labels
        self._before = self._value()

    def __call__(self) -> float:
        return self._value() - self._before

    def _value(self) -> float:
        return REGISTRY.get_sample_value(self._name, self._labels) or 0.0


def test_a_delta_is_observed_by_what_it_has() -> None:
    forced = Change("guided_forced_tokens_total")
    masks, wait = Change("guided_mask_seconds_count"), Change("guided_mask_wait_seconds_sum")
    fast_masks = Change("guided_mask_seconds_bucket", le="2e-05")
    mass, half = Change("guided_allowed_mass_count"), Change("guided_allowed_mass_bucket", le="0.5")

    telemetry.observe_guidance(GuidanceTimes(forced_tokens=3))
    assert (forced(), masks(), mass()) == (3, 0, 0)
    telemetry.observe_guidance(GuidanceTimes(0, 15e-6, 4e-6, 0.4))
    telemetry.observe_guidance(GuidanceTimes(0, 3e-3, 0.0, 0.9))
    assert (forced(), masks(), fast_masks(), mass(), half()) == (3, 2, 1, 2, 1)
    assert wait() == pytest.approx(4e-6)


async def test_constraints_are_counted_by_kind_and_route_and_their_grammars_by_whether_they_were_cached(
    client: httpx.AsyncClient,
) -> None:
    exact, refused = (Change("guided_constraints_total", kind="regex", route=route) for route in ("exact", "refused"))
    hits, misses = (Change("guided_grammar_cache_total", result=result) for result in ("hit", "miss"))
    for pattern in ("a", "a", "("):
        await client.post("/v1/chat/completions", json={**CHAT, "guided_regex": pattern})

    assert (exact(), refused()) == (2, 1)
    assert (hits(), misses()) == (1, 1)

"""What Prometheus learns about the service, on ``/metrics``.

Label values are drawn from fixed sets: a scan for paths that do not exist makes no new time series.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from guidance_core.executors.base import ExecutorStats, Health

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

HTTP_REQUESTS = Counter("guided_http_requests", "Requests answered, by route and status.", ["route", "status"])
HTTP_SECONDS = Histogram(
    "guided_http_request_duration_seconds", "From a request's head to the end of its answer.", ["route"],
    buckets=(*_SECONDS, 120.0, 300.0),
)  # fmt: skip
PROMPT_TOKENS = Counter("guided_prompt_tokens", "Prompt tokens of requests that were started.")
CACHED_TOKENS = Counter("guided_cached_prompt_tokens", "Prompt tokens that came out of the prefix cache.")
COMPLETION_TOKENS = Counter("guided_completion_tokens", "Tokens answered.")
FORCED_TOKENS = Counter("guided_forced_tokens", "Tokens answered that the grammar forced.")
CHOICES = Counter("guided_choices", "Choices answered to the end, by finish reason.", ["finish_reason"])
FIRST_TOKEN_SECONDS = Histogram(
    "guided_time_to_first_token_seconds", "From a checked request to its first token.", buckets=_SECONDS
)
TOKEN_SECONDS = Histogram(
    "guided_time_between_tokens_seconds", "Between two deltas of one request.", buckets=_SECONDS[:12]
)
MASK_SECONDS = Counter("guided_mask_seconds", "Time spent on grammar masks, hidden behind the forward pass or not.")
MASK_WAIT_SECONDS = Counter("guided_mask_wait_seconds", "The part of it that the forward pass did not hide.")
GRAMMAR_SECONDS = Histogram(
    "guided_grammar_compile_seconds", "From a constraint to its grammar, by kind; cached ones take microseconds.",
    ["kind"], buckets=(0.00005, 0.0002, *_SECONDS[:12]),
)  # fmt: skip

_COUNTERS = frozenset({"steps", "prompt_tokens", "cached_tokens", "sampled_tokens", "forced_tokens", "restarts"})
_STATES = ("starting", "ready", "restarting", "failed", "stopped")


def executor_metrics(health: Health, stats: ExecutorStats) -> str:
    """The executor's state and its newest numbers, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_ExecutorCollector(health, stats))
    return generate_latest(registry).decode()


class _ExecutorCollector(Collector):
    def __init__(self, health: Health, stats: ExecutorStats) -> None:
        self._health = health
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("guided_executor_state", "1 for the state that the executor is in.", labels=["state"])
        for name in _STATES:
            state.add_metric([name], float(name == self._health.state))
        yield state
        for field in fields(self._stats):
            family = CounterMetricFamily if field.name in _COUNTERS else GaugeMetricFamily
            yield family(
                f"guided_executor_{field.name}",
                f"ExecutorStats.{field.name}.",
                value=getattr(self._stats, field.name),
            )

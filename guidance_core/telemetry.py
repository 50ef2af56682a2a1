"""What Prometheus learns about the service, on ``/metrics``.

Label values are drawn from fixed sets: a scan for paths that do not exist makes no new time series.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from guidance_core.executors.base import ExecutorStats, Health
from guidance_core.generation import GuidanceTimes

_MASK_SECONDS = (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.05)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

HTTP_REQUESTS = Counter("guided_http_requests", "Requests answered, by route and status.", ["route", "status"])
HTTP_SECONDS = Histogram(
    "guided_http_request_duration_seconds", "From a request's head to the end of its answer.", ["route"],
    buckets=(*_SECONDS, 120.0, 300.0),
)  # fmt: skip
PROMPT_TOKENS = Counter("guided_prompt_tokens", "Prompt tokens of requests that were started.")
CACHED_TOKENS = Counter("guided_cached_prompt_tokens", "Prompt tokens that came out of the prefix cache.")
COMPLETION_TOKENS = Counter("guided_completion_tokens", "Tokens generated, those of rejected answers included.")
DISCARDED_TOKENS = Counter("guided_discarded_tokens", "The part of them in answers that a check rejected.")
FORCED_TOKENS = Counter("guided_forced_tokens", "Tokens generated that the grammar forced.")
CHOICES = Counter(
    "guided_choices", "Answers generated to the end, rejected ones included, by finish reason.", ["finish_reason"]
)
FIRST_TOKEN_SECONDS = Histogram(
    "guided_time_to_first_token_seconds", "From a checked request to its first token.", buckets=_SECONDS
)
TOKEN_SECONDS = Histogram(
    "guided_time_between_tokens_seconds", "Between two deltas of one request.", buckets=_SECONDS[:12]
)
MASK_SECONDS = Histogram(
    "guided_mask_seconds", "Computing one sequence's mask for one step, hidden behind the forward pass or not.",
    buckets=_MASK_SECONDS,
)  # fmt: skip
MASK_WAIT_SECONDS = Histogram(
    "guided_mask_wait_seconds", "The part of it that the forward pass did not hide.", buckets=_MASK_SECONDS
)
ALLOWED_MASS = Histogram(
    "guided_allowed_mass",
    "Probability that the model itself gave to what the grammar allowed, by sampled token where it was measured.",
    buckets=(1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0),
)
GRAMMAR_SECONDS = Histogram(
    "guided_grammar_compile_seconds", "From a constraint to its grammar, by kind; cached ones take microseconds.",
    ["kind"], buckets=(0.00005, 0.0002, *_SECONDS[:12]),
)  # fmt: skip
GRAMMAR_CACHE = Counter("guided_grammar_cache", "Look-ups of compiled grammars: hit or miss.", ["result"])
CONSTRAINTS = Counter(
    "guided_constraints", "Requests with a constraint: exact, rewritten, checked, or refused.", ["kind", "route"]
)
CHECKS = Counter("guided_checks", "Whole answers that were checked: passed or failed.", ["result"])
CHECK_ATTEMPTS = Histogram(
    "guided_check_attempts", "Answers that were generated for one choice of a checked grammar.",
    buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32),
)  # fmt: skip

_EXECUTOR_GAUGES = {
    "running": "Sequences in the batch.",
    "waiting": "Sequences admitted but not yet in the batch.",
    "slots": "Most sequences that can run at once.",
    "kv_tokens": "Tokens held in the KV cache, live and reusable.",
    "kv_capacity": "Most tokens that the KV cache can hold.",
}
_EXECUTOR_COUNTERS = {
    "steps": "Forward passes.",
    "prompt_tokens": "Prompt tokens of sequences that were started.",
    "cached_tokens": "Prompt tokens that came out of the prefix cache.",
    "sampled_tokens": "Tokens that were sampled.",
    "forced_tokens": "Tokens that a grammar forced.",
    "grammar_hits": "Matchers copied from a grammar that was compiled before.",
    "grammar_misses": "Grammars compiled where answers are guided or proved.",
    "grammar_evictions": "Compiled grammars dropped to make room (guidance.cache_size).",
    "restarts": "Times that the executor's process, or the server that it asks, was gone and came back.",
}
_STATES = ("starting", "ready", "restarting", "failed", "stopped")


def observe_guidance(times: GuidanceTimes) -> None:
    """What guidance did for one delta. Takes some microseconds: it runs for each token."""
    if times.forced_tokens:
        FORCED_TOKENS.inc(times.forced_tokens)
    if times.mask_seconds > 0:
        MASK_SECONDS.observe(times.mask_seconds)
        MASK_WAIT_SECONDS.observe(times.wait_seconds)
    if times.allowed_mass is not None:
        ALLOWED_MASS.observe(times.allowed_mass)


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
        for name, text in _EXECUTOR_GAUGES.items():
            yield GaugeMetricFamily(f"guided_executor_{name}", text, value=getattr(self._stats, name))
        for name, text in _EXECUTOR_COUNTERS.items():
            yield CounterMetricFamily(f"guided_executor_{name}", text, value=getattr(self._stats, name))

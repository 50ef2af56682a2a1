"""Spans of the run of a model. How they reach a collector: `tests.integration.test_tracing`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from guidance_core import tracing
from guidance_core.errors import GenerationFailed, InvalidGrammar
from guidance_core.generation import GenerationRequest, SamplingParams

REQUEST = GenerationRequest(request_id="cmpl-1", prompt_ids=(1, 2, 3), sampling=SamplingParams(max_tokens=9, n=2))


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.use(trace.NoOpTracerProvider())


def run(error: GenerationFailed | None) -> None:
    span = tracing.GenerationSpan("model:1", REQUEST)
    span.first_token(0.5)
    span.end(cached_tokens=2, completion_tokens=5, forced_tokens=1, finish_reasons=["stop", None], error=error)


def test_it_has_what_was_asked_and_what_came_of_it(exported: InMemorySpanExporter) -> None:
    run(None)
    [span] = exported.get_finished_spans()
    assert span.status.is_unset
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.response.id": "cmpl-1",
        "gen_ai.response.model": "model:1",
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.response.time_to_first_chunk": 0.5,
        "gen_ai.response.finish_reasons": ("stop", "abandoned"),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.usage.output_tokens": 5,
        "guided.forced_tokens": 1,
    }


def test_a_failure_is_told_by_its_code_and_not_by_its_words(exported: InMemorySpanExporter) -> None:
    run(GenerationFailed("of the prompt 'secret'"))
    with pytest.raises(InvalidGrammar), tracing.grammar_span("regex"):
        raise InvalidGrammar("'(secret' is no regex")
    for span, code in zip(exported.get_finished_spans(), ["generation_failed", "invalid_grammar"], strict=True):
        assert not span.status.is_ok
        assert (span.attributes or {})["error.type"] == code
        assert "secret" not in span.to_json()

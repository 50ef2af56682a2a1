"""Traces, as a collector of OpenTelemetry receives them from a running service."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import BadRequestError, OpenAI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.homes import make_home
from tests.integration.conftest import MODEL, ROOT, serving, wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"

Span = dict[str, Any]


class Collector:
    """Takes spans as the protocol's HTTP form sends them."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collected = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collected.extend(_spans(ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, trace: str, number: int) -> list[Span]:
        """The spans of a trace, in the order in which they began, once there are so many."""
        wait_until(lambda: sum(span["trace"] == trace for span in self.spans) >= number, seconds=20)
        return sorted((span for span in self.spans if span["trace"] == trace), key=lambda span: span["start"])


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "name": span.name,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "failed": span.status.code == span.status.STATUS_CODE_ERROR,
                    **{each.key: _value(each.value) for each in span.attributes},
                    "text": str(span),
                }


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def openai(collector: Collector, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """For a service with the configuration that is shipped, and this collector."""
    folder = tmp_path_factory.mktemp("traced")
    settings = yaml.safe_load((ROOT / "deploy" / "tracing.yaml").read_text())
    settings["services"]["GuidedLLM"]["tracing"]["otlp"]["endpoint"] = collector.url
    (folder / "tracing.yaml").write_text(yaml.safe_dump(settings))
    environment = {
        "BENTOML_CONFIG": str(folder / "tracing.yaml"),
        "BENTOML_HOME": str(make_home(folder / "home", model_path)),
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "GUIDED_TRTLLM_TORCH__NUM_THREADS": "1",
    }
    with serving(folder / "log.txt", **environment) as server:
        yield OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def caller(trace: str) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{CALLER}-01"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_callers_trace_has_the_request_its_grammar_and_the_run_of_the_model(
    collector: Collector, openai: OpenAI, stream: bool
) -> None:
    trace = TRACE[:-1] + str(int(stream))
    answer = openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "A secret?"}],
        n=2,
        seed=1,
        max_tokens=20,
        stream=stream,
        extra_body={"guided_regex": f"[a-z]{{3,5}} and so on {trace[-1]}"},
        extra_headers=caller(trace),
    )
    for _ in answer if stream else ():
        pass

    http, grammar, run = collector.of(trace, 3)
    assert (http["name"], http["parent"]) == ("POST /v1/chat/completions", CALLER)
    assert (grammar["name"], grammar["parent"]) == ("compile grammar", http["id"])
    assert (grammar["guided.constraint.kind"], grammar["guided.grammar.route"]) == ("regex", "exact")
    assert grammar["guided.grammar.cached"] is False
    assert (run["name"], run["parent"]) == ("generate", http["id"])
    assert run["gen_ai.response.model"].startswith(MODEL)
    assert (run["gen_ai.request.choice.count"], run["gen_ai.request.seed"]) == (2, 1)
    assert run["gen_ai.response.finish_reasons"] == ["stop", "stop"]
    assert run["gen_ai.usage.input_tokens"] > 5
    assert 0 < run["guided.forced_tokens"] < run["gen_ai.usage.output_tokens"] <= 40
    assert 0 < run["gen_ai.response.time_to_first_chunk"] <= (run["end"] - run["start"]) / 1e9
    assert http["start"] <= grammar["start"] <= grammar["end"] <= run["start"] <= run["end"] <= http["end"]
    assert not any(span["failed"] for span in (http, grammar, run))
    assert all(said not in span["text"] for span in (http, grammar, run) for said in ("secret", "so on"))


def test_a_grammar_that_is_refused_is_a_failed_span_that_does_not_quote_it(
    collector: Collector, openai: OpenAI
) -> None:
    trace = TRACE[:-1] + "2"
    with pytest.raises(BadRequestError):
        openai.completions.create(
            model=MODEL, prompt="Hi", extra_body={"guided_regex": "(secret"}, extra_headers=caller(trace)
        )
    _, grammar = collector.of(trace, 2)
    assert grammar["failed"]
    assert grammar["error.type"] == "invalid_grammar"
    assert "secret" not in grammar["text"]

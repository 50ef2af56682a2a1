"""What a collector of traces learns about a request: a span for its grammar, and one for each run of the model.

They are children of the span that BentoML makes for the HTTP request, which continues the caller's trace
(``traceparent``). Attributes have OpenTelemetry's names for generative AI (semantic conventions, ``gen_ai.*``) where
there are some. No text of prompts, answers or grammars is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode, TracerProvider
from opentelemetry.util.types import AttributeValue

from guidance_core.errors import RequestError
from guidance_core.generation import GenerationRequest

_tracer = trace.get_tracer("guided_trtllm")


def use(provider: TracerProvider) -> None:
    """Send all further spans there."""
    global _tracer
    _tracer = trace.get_tracer("guided_trtllm", tracer_provider=provider)


@contextmanager
def grammar_span(kind: str) -> Iterator[Span]:
    """The span of a constraint of some kind that becomes a grammar, or fails to."""
    # An exception is not recorded as it is: its message may quote the grammar.
    with _tracer.start_as_current_span(
        "compile grammar",
        attributes={"guided.constraint.kind": kind},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except RequestError as error:
            _fail(span, error)
            raise


class GenerationSpan:
    """The span of one run of the model."""

    def __init__(self, model: str, request: GenerationRequest) -> None:
        """Begin it.

        Args:
            model: tag of the model.
            request: what is run.
        """
        self._span = _tracer.start_span("generate")
        # BentoML's sampler has spans recorded that nobody receives.
        self._sampled = self._span.get_span_context().trace_flags.sampled
        if self._sampled:
            self._span.set_attributes(_of_request(model, request))

    def first_token(self, seconds: float) -> None:
        """The first token has come, so many seconds after the beginning."""
        if self._sampled:
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", seconds)

    def end(
        self,
        *,
        cached_tokens: int,
        completion_tokens: int,
        forced_tokens: int,
        finish_reasons: Iterable[str | None],
        error: RequestError | None,
    ) -> None:
        """End it.

        Args:
            cached_tokens: prompt tokens out of the prefix cache.
            completion_tokens: generated, all choices together.
            forced_tokens: how many of them the grammar forced.
            finish_reasons: by choice; None for those that have not come to their end.
            error: what ended it, or None where it was its end or the client's leaving.
        """
        if self._sampled:
            self._span.set_attributes(
                {
                    "gen_ai.usage.cache_read.input_tokens": cached_tokens,
                    "gen_ai.usage.output_tokens": completion_tokens,
                    "guided.forced_tokens": forced_tokens,
                    "gen_ai.response.finish_reasons": [reason or "abandoned" for reason in finish_reasons],
                }
            )
            if error is not None:
                _fail(self._span, error)
        self._span.end()


def _fail(span: Span, error: RequestError) -> None:
    span.set_attribute("error.type", error.code)
    span.set_status(StatusCode.ERROR)


def _of_request(model: str, request: GenerationRequest) -> dict[str, AttributeValue]:
    sampling = request.sampling
    attributes: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.response.id": request.request_id,
        "gen_ai.response.model": model,
        "gen_ai.request.choice.count": sampling.n,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.usage.input_tokens": len(request.prompt_ids),
        "guided.grammar.route": None if request.grammar is None else request.grammar.route,
        "guided.adapter": None if request.lora is None else request.lora.name,
    }
    return {name: value for name, value in attributes.items() if value is not None}

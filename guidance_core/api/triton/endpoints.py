"""The endpoints."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from guidance_core.api.endpoint import Answer as Handler
from guidance_core.api.endpoint import Dialect, Endpoint
from guidance_core.api.events import data_event, event_stream
from guidance_core.api.openai.bodies import RequestBody
from guidance_core.api.openai.examples import MODEL
from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.api.streaming import started
from guidance_core.api.triton.answers import OutputWriter, stream_events, whole_response
from guidance_core.api.triton.bodies import IndexBody, TritonGenerateBody
from guidance_core.api.triton.errors import error_response
from guidance_core.api.triton.metadata import model_config, model_index, model_metadata, server_metadata
from guidance_core.api.triton.requests import answer_of
from guidance_core.api.triton.schemas import (
    TritonError,
    TritonGenerated,
    TritonModel,
    TritonModelConfig,
    TritonModelState,
    TritonServer,
)
from guidance_core.errors import InvalidRequest, ModelNotFound, Unsupported

_OTHER_NAMES = ("ensemble", "tensorrt_llm_bls")
"""What TensorRT-LLM's repositories call the models with these inputs: existing clients send these names."""


def _model(served: ServedModel, request: Request) -> tuple[str, LoadedModel]:
    """The model that the path names, and by which name."""
    name = _name(served, request)
    return name, served.get()


def _name(served: ServedModel, request: Request) -> str:
    name: str = request.path_params["model"]
    version = request.path_params.get("version", "1")
    if name not in (served.name, *_OTHER_NAMES) or version != "1":
        raise ModelNotFound(
            f"Request for unknown model: '{name}' version {version} is not found. This service serves version 1 of "
            f"'{served.name}', also called {' and '.join(map(repr, _OTHER_NAMES))} here."
        )
    return name


async def generate(served: ServedModel, request: Request) -> Response:
    """All sequences as one response."""
    name, model = _model(served, request)
    body = await TritonGenerateBody.from_http_request(request, None)
    if body.stream:
        raise InvalidRequest(
            "generate expects model to produce exactly 1 response: leave 'stream' out, or use generate_stream.",
            param="stream",
        )
    answer = await answer_of(served, model, body)
    return JSONResponse(await whole_response(OutputWriter(body, name, answer), answer, body.num_return_sequences))


async def generate_stream(served: ServedModel, request: Request) -> Response:
    """With ``stream`` piece by piece, else all sequences as one event."""
    name, model = _model(served, request)
    body = await TritonGenerateBody.from_http_request(request, None)
    answer = await answer_of(served, model, body)
    writer = OutputWriter(body, name, answer)
    if body.stream:
        events = stream_events(writer, await started(answer.pieces()))
    else:
        events = _one_event(await whole_response(writer, answer, body.num_return_sequences))
    return event_stream(
        events,
        failure=lambda error: data_event({"error": error.message}),
        choices=body.num_return_sequences,
        comments_every=served.settings.guidance.held_stream_comments if answer.held else None,
    )


async def _one_event(response: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    yield data_event(response)


async def live(served: ServedModel, request: Request) -> Response:
    """Whether the service should be left running."""
    return Response(status_code=200 if served.health().state != "failed" else 400)


async def ready(served: ServedModel, request: Request) -> Response:
    """Whether requests are answered now."""
    return Response(status_code=200 if served.health().state == "ready" else 400)


async def model_ready(served: ServedModel, request: Request) -> Response:
    """Whether requests to this model are answered now."""
    _name(served, request)
    return await ready(served, request)


async def server(served: ServedModel, request: Request) -> Response:
    """What this server is."""
    return JSONResponse(server_metadata())


async def model(served: ServedModel, request: Request) -> Response:
    """The model's inputs and outputs."""
    if request.path_params["model"] == "stats" != served.name:
        raise Unsupported(_NO_STATISTICS)  # GET /v2/models/stats asks for those of all models
    return JSONResponse(model_metadata(_name(served, request)))


async def repository_index(served: ServedModel, request: Request) -> Response:
    """The model by each of its names, and whether it can be asked."""
    body = await IndexBody.from_http_request(request, None) if await request.body() else IndexBody()
    return JSONResponse(model_index((served.name, *_OTHER_NAMES), served.health(), only_ready=body.ready))


async def config(served: ServedModel, request: Request) -> Response:
    """The model's configuration."""
    return JSONResponse(model_config(_name(served, request), served.stats().slots))


_NO_STATISTICS = "Triton's statistics are not counted here: GET /metrics has the service's own, for Prometheus."
_AS_IT_STARTED = "The service serves one model, for as long as it runs."
DIALECT = Dialect(
    "Triton",
    "/v2",
    error_response,
    TritonError,
    absent={
        "/stats": _NO_STATISTICS,
        "/infer": "Tensors are not taken: POST …/generate or …/generate_stream takes the inputs as JSON.",
        "/load": _AS_IT_STARTED,
        "/unload": _AS_IT_STARTED,
        "sharedmemory/status": "No memory is shared: requests bring their inputs.",
        "/trace/setting": "Traces are set by BentoML's configuration.",
        "/logging": "Logs are set by BentoML's configuration.",
    },
)

_GUIDED = {
    "text_input": "A person as JSON: ",
    "max_tokens": 64,
    "guided_decoding_guide_type": "json_schema",
    "guided_decoding_guide": '{"type": "object", "properties": {"age": {"type": "integer", "maximum": 120}}, '
    '"required": ["age"], "additionalProperties": false}',
}
_EXAMPLES = {"plain": {"text_input": "The capital of France is", "max_tokens": 8}, "JSON schema": _GUIDED}
_STREAM_EXAMPLES = {name: {**example, "stream": True} for name, example in _EXAMPLES.items()}


def _endpoint(
    method: Any,
    suffix: str,
    name: str,
    description: str,
    answer: Handler,
    *,
    body: type[RequestBody] | None = None,
    examples: Any = (),
    answer_type: Any = None,
    streams: bool = False,
) -> Endpoint:
    """An endpoint of one model, by name or by name and version."""
    return Endpoint(
        DIALECT,
        method,
        f"/v2/models/{{model}}{suffix}",
        name,
        description,
        answer,
        body=body,
        examples=dict(examples),
        parameters={"model": MODEL},
        aliases=(f"/v2/models/{{model}}/versions/{{version}}{suffix}",),
        answer_type=answer_type,
        streams=streams,
    )  # fmt: skip


ENDPOINTS = (
    Endpoint(DIALECT, "GET", "/v2", "triton_server", "What this server is.", server, answer_type=TritonServer),
    Endpoint(
        DIALECT,
        "GET",
        "/v2/health/live",
        "triton_live",
        "Whether the service should be left running.",
        live,
    ),
    Endpoint(
        DIALECT,
        "GET",
        "/v2/health/ready",
        "triton_ready",
        "Whether requests are answered now; 400 while the model loads.",
        ready,
    ),
    Endpoint(
        DIALECT,
        "POST",
        "/v2/repository/index",
        "triton_repository_index",
        "The model by each of its names, and whether it can be asked.",
        repository_index,
        body=IndexBody,
        examples={"plain": {}},
        answer_type=list[TritonModelState],
        may_be_empty=True,
    ),
    _endpoint("GET", "", "triton_model", "The model's inputs and outputs.", model, answer_type=TritonModel),
    _endpoint("GET", "/config", "triton_config", "The model's configuration.", config, answer_type=TritonModelConfig),
    _endpoint(
        "GET", "/ready", "triton_model_ready", "Whether requests to the model are answered now.", model_ready
    ),
    _endpoint(
        "POST", "/generate", "triton_generate", "Continue a prompt.", generate,
        body=TritonGenerateBody, examples=_EXAMPLES, answer_type=TritonGenerated,
    ),
    _endpoint(
        "POST", "/generate_stream", "triton_generate_stream", "Continue a prompt, as server-sent events.",
        generate_stream, body=TritonGenerateBody, examples=_STREAM_EXAMPLES, streams=True,
    ),
)  # fmt: skip

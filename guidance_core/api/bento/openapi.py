"""The OpenAPI document behind Swagger UI: BentoML's, with what every endpoint takes and answers as it really is.

BentoML calls its document 3.0.2, but writes pydantic's schemas into it, which are those of 3.1; and of the kinds that a
field may have it keeps the first one only (its ``_flatten_field``). So schemas are made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from guidance_core.api.bento import generate
from guidance_core.api.bento.authentication import needs_key
from guidance_core.api.dialects import ENDPOINTS
from guidance_core.api.endpoint import Endpoint
from guidance_core.api.openai import examples
from guidance_core.api.openai.schemas import HealthReport, Model, ModelHealth, ModelList, OpenAIError

_JSON = "application/json"
_EVENTS = "text/event-stream"
_TEXT = {"schema": {"type": "string"}}


@dataclass(frozen=True, slots=True)
class Method:
    """One of BentoML's methods.

    Attributes:
        path: its route.
        body: what it takes.
        answer: what it answers.
        media_type: of the answer.
        streams: whether there are answers of server-sent events.
    """

    path: str
    body: Any
    answer: Any
    media_type: str
    streams: bool


@dataclass(frozen=True, slots=True)
class _Lookup:
    name: str
    description: str
    answer: Any
    parameter: str | None = None
    failure: Any = None
    failures: Mapping[str, str] = field(default_factory=dict)


_LOADING = {"503": "The model is loading or restarting, or failed to load."}

_LOOKUPS = {
    "/v1/models": _Lookup("models", "The served models.", ModelList),
    "/v1/models/{model}": _Lookup(
        "model", "One model by name.", Model, "model", OpenAIError, {"404": "No such model."}
    ),
    "/v1/health/live": _Lookup(
        "live",
        "Whether the service should be left running.",
        HealthReport,
        None,
        HealthReport,
        {"503": "The model can never serve."},
    ),
    "/v1/health/ready": _Lookup(
        "ready",
        "Whether requests are answered now; 503 while the model loads.",
        HealthReport,
        None,
        HealthReport,
        _LOADING,
    ),
    "/v1/health/model": _Lookup("model_health", "The state of the model and of its executor, in numbers.", ModelHealth),
}

_ERRORS = {
    "400": "A field is missing, wrong or not supported, or the grammar does not compile.",
    "404": "No such model.",
    "413": "The body is larger than accepted.",
    "422": "No attempt at an answer that is checked as a whole was valid.",
    "429": "Too many requests are waiting.",
    "500": "The answer failed.",
    **_LOADING,
}

_EXAMPLES = {**examples.BY_PATH, "/generate": generate.EXAMPLES}

_PROBES = {
    "/livez": ("livez", "Whether the service should be left running."),
    "/healthz": ("healthz", "The same."),
    "/readyz": ("readyz", "Whether requests are answered now."),
}
"""BentoML's, of which it does not say that they may fail."""


@dataclass(frozen=True)
class Document:
    """A finished document, in the form that BentoML asks for it."""

    content: dict[str, Any]

    def asdict(self) -> dict[str, Any]:
        """As JSON."""
        return self.content


class _Schemas:
    """References to the schemas of types, which lie together in the document."""

    def __init__(self, types: Iterable[Any]) -> None:
        adapters = {repr(each): TypeAdapter(each) for each in types}
        inputs = [(name, "validation", adapter) for name, adapter in adapters.items()]
        references, definitions = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        self.components: dict[str, Any] = definitions["$defs"]
        self._references = {name: schema for (name, _), schema in references.items()}

    def of(self, kind: Any) -> dict[str, Any]:
        return {"schema": self._references[repr(kind)]}


def described(specification: Any, methods: Iterable[Method], *, with_keys: bool = False) -> Document:
    """BentoML's document, completed.

    Args:
        specification: BentoML's.
        methods: those of its service.
        with_keys: requests need an API key.
    """
    methods = list(methods)
    schemas = _Schemas(_types(methods))
    content: dict[str, Any] = specification.asdict()
    content["openapi"] = "3.1.0"
    content["components"] = {"schemas": schemas.components}
    paths: dict[str, Any] = content["paths"]
    for path, (name, description) in _PROBES.items():
        paths[path]["get"] |= {"operationId": name, "description": description}
        paths[path]["get"]["responses"]["503"] = {"description": "No."}
    paths["/metrics"]["get"]["operationId"] = "metrics"
    for method in methods:
        paths[method.path]["post"] |= _method(method, schemas)
    for path, lookup in _LOOKUPS.items():
        paths[path] = {"get": _lookup(lookup, schemas)}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _endpoint(endpoint, schemas)
    if with_keys:
        _ask_for_keys(content, schemas)
    return Document(content)


def _ask_for_keys(content: dict[str, Any], schemas: _Schemas) -> None:
    """Say which operations need an API key. Swagger UI then has a button to give it one."""
    content["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    content["security"] = [{"key": []}]
    refused = {"description": "No API key came, or one that is not known.", "content": {_JSON: schemas.of(OpenAIError)}}
    for path, operations in content["paths"].items():
        for operation in operations.values():
            if not needs_key(path):
                operation["security"] = []
            elif "default" not in operation["responses"]:  # which says it in the dialect's own shape
                operation["responses"]["401"] = refused


def _types(methods: Iterable[Method]) -> list[Any]:
    types: list[Any] = [OpenAIError]
    for method in methods:
        types += [method.body] + ([method.answer] if method.media_type == _JSON else [])
    for lookup in _LOOKUPS.values():
        types += [lookup.answer, lookup.failure]
    for endpoint in ENDPOINTS:
        types += [endpoint.body, endpoint.answer_type, endpoint.dialect.failure_type]
    return [each for each in types if each is not None]


def _method(method: Method, schemas: _Schemas) -> dict[str, Any]:
    success = {method.media_type: schemas.of(method.answer) if method.media_type == _JSON else _TEXT}
    if method.streams:
        success[_EVENTS] = _TEXT
    failure = {_JSON: schemas.of(OpenAIError)}
    return {
        "requestBody": _request_body(method.body, _EXAMPLES.get(method.path, {}), schemas),
        "responses": {
            "200": {"description": "OK", "content": success},
            **{status: {"description": description, "content": failure} for status, description in _ERRORS.items()},
        },
    }


def _endpoint(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    """An endpoint of another dialect."""
    success: dict[str, Any] = {} if endpoint.answer_type is None else {_JSON: schemas.of(endpoint.answer_type)}
    if endpoint.streams:
        success[_EVENTS] = _TEXT
    operation: dict[str, Any] = {
        "tags": [endpoint.dialect.name],
        "operationId": endpoint.name,
        "description": endpoint.description,
        "responses": {
            "200": {"description": "OK", **({"content": success} if success else {})},
            "default": {
                "description": "A failure, in the dialect's own shape.",
                "content": {_JSON: schemas.of(endpoint.dialect.failure_type)},
            },
        },
    }
    if endpoint.parameters:
        operation["parameters"] = [_path_parameter(name, value) for name, value in endpoint.parameters.items()]
    if endpoint.body is not None:
        operation["requestBody"] = _request_body(
            endpoint.body, endpoint.examples, schemas, required=not endpoint.may_be_empty
        )
    return operation


def _request_body(body: Any, named: Mapping[str, Any], schemas: _Schemas, *, required: bool = True) -> dict[str, Any]:
    content = schemas.of(body)
    if named:
        content["examples"] = {name: {"summary": name, "value": value} for name, value in named.items()}
    return {"required": required, "content": {_JSON: content}}


def _path_parameter(name: str, example: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": example}


def _lookup(lookup: _Lookup, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "OK", "content": {_JSON: schemas.of(lookup.answer)}}}
    for status, description in lookup.failures.items():
        responses[status] = {"description": description, "content": {_JSON: schemas.of(lookup.failure)}}
    operation: dict[str, Any] = {
        "tags": ["Service APIs"],
        "operationId": lookup.name,
        "description": lookup.description,
        "responses": responses,
    }
    if lookup.parameter is not None:
        operation["parameters"] = [_path_parameter(lookup.parameter, examples.MODEL)]
    return operation

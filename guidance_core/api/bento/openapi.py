"""The OpenAPI document behind Swagger UI: BentoML's, completed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guidance_core.api.dialects import ENDPOINTS
from guidance_core.api.endpoint import Endpoint
from guidance_core.api.openai import examples

_JSON = "application/json"

_LOOKUPS = {
    "/v1/models": ("models", "The served models.", None),
    "/v1/models/{model}": ("model", "One model by name.", "model"),
    "/v1/health/live": ("live", "Whether the service should be left running.", None),
    "/v1/health/ready": ("ready", "Whether requests are answered now; 503 while the model loads.", None),
    "/v1/health/model": ("model_health", "The state of the model and of its executor, in numbers.", None),
}

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": "string", "nullable": True},
                "code": {"type": "string", "nullable": True},
            },
        }
    },
}

_ERRORS = {
    "400": "A field is missing, wrong or not supported, or the grammar does not compile.",
    "404": "No such model.",
    "422": "No attempt at an answer that is checked as a whole was valid.",
    "429": "Too many requests are waiting.",
    "503": "The model is loading or restarting.",
}


@dataclass(frozen=True)
class Document:
    """A finished document, in the form that BentoML asks for it."""

    content: dict[str, Any]

    def asdict(self) -> dict[str, Any]:
        """As JSON."""
        return self.content


def described(specification: Any) -> Document:
    """BentoML's document with examples, with the GET endpoints, and with errors as they really are."""
    content: dict[str, Any] = specification.asdict()
    content["components"]["schemas"]["Error"] = _ERROR_SCHEMA
    for path, item in content["paths"].items():
        if (operation := item.get("post")) is None:
            continue
        operation["responses"] = {"200": _success(operation), **_errors()}
        if named := examples.BY_PATH.get(path):
            body = operation["requestBody"]["content"][_JSON]
            body["examples"] = _named(named)
    for path, (name, description, parameter) in _LOOKUPS.items():
        content["paths"][path] = {"get": _lookup(name, description, parameter)}
    for endpoint in ENDPOINTS:
        item = content["paths"].setdefault(endpoint.path, {})
        item[endpoint.method.lower()] = _operation(endpoint, content["components"]["schemas"])
    return Document(content)


def _success(operation: dict[str, Any]) -> dict[str, Any]:
    responses = operation["responses"]
    response: dict[str, Any] = responses.get("200") or responses[200]
    return response


def _errors() -> dict[str, Any]:
    content = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": description, "content": content} for status, description in _ERRORS.items()}


def _operation(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    """An endpoint of another dialect; the models that its body is made of go to ``schemas``."""
    success: dict[str, Any] = {"description": "OK"}
    if endpoint.media_type is not None:
        kind = "object" if endpoint.media_type == _JSON else "string"
        success["content"] = {endpoint.media_type: {"schema": {"type": kind}}}
    operation: dict[str, Any] = {
        "tags": [endpoint.dialect.name],
        "operationId": endpoint.name,
        "description": endpoint.description,
        "responses": {"200": success, "default": {"description": "A failure, in the dialect's own shape."}},
    }
    if endpoint.parameters:
        operation["parameters"] = [_path_parameter(name, value) for name, value in endpoint.parameters.items()]
    if endpoint.body is not None:
        schema = endpoint.body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        content = {"schema": schema, "examples": _named(endpoint.examples)}
        operation["requestBody"] = {"required": True, "content": {_JSON: content}}
    return operation


def _named(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"summary": name, "value": value} for name, value in named.items()}


def _path_parameter(name: str, example: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": example}


def _lookup(name: str, description: str, parameter: str | None) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": ["Service APIs"],
        "operationId": name,
        "description": description,
        "responses": {"200": {"description": "OK", "content": {_JSON: {"schema": {"type": "object"}}}}},
    }
    if parameter is not None:
        operation["parameters"] = [_path_parameter(parameter, examples.MODEL)]
    return operation

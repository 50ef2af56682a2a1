"""The OpenAPI document: that it is one, that it has everything, and that it is true."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from guidance_core.api.bento.middleware import route_of
from tests.api.conftest import MODEL

Document = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Document:
    """As ``/docs.json`` answers it."""
    import service

    written: Document = service.GuidedLLM.openapi_spec.asdict()
    return written


def check(document: Document, schema: dict[str, Any], value: Any) -> None:
    """Raises: it does not validate."""
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


@pytest.fixture(scope="module")
def closed(document: Document) -> Document:
    """The same, without fields that it does not name."""
    written = copy.deepcopy(document)
    for schema in written["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return written


def posts(document: Document) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """(path, operation, body that runs as it is)."""
    for path, item in document["paths"].items():
        if "post" in item:
            for example in item["post"]["requestBody"]["content"]["application/json"]["examples"].values():
                yield path, item["post"], example["value"]


async def test_it_has_every_endpoint(document: Document) -> None:
    routes = {route_of(path) for path in document["paths"]}
    assert routes >= {
        "/generate",
        "/detokenize",
        "/livez",
        "/metrics",
        "/tgi",
        "/tgi/generate",
        "/tgi/generate_stream",
        "/tgi/health",
        "/tgi/info",
        "/tgi/v1/chat/completions",
        "/tokenize",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/health/live",
        "/v1/health/model",
        "/v1/health/ready",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/responses",
        "/v1/run",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model}",
        "/v2/models/{model}/config",
        "/v2/models/{model}/generate",
        "/v2/models/{model}/generate_stream",
        "/v2/models/{model}/ready",
    }


async def test_its_schemas_are_those_of_its_version(document: Document) -> None:
    assert document["openapi"].startswith("3.1.")  # whose schemas are JSON Schema's 2020-12
    Draft202012Validator.check_schema({"$defs": document["components"]["schemas"]})


async def test_every_example_is_valid_and_answered_as_described(
    document: Document, closed: Document, client: httpx.AsyncClient
) -> None:
    for path, operation, body in posts(document):
        check(document, operation["requestBody"]["content"]["application/json"]["schema"], body)
        response = await client.post(path.replace("{model}", MODEL), json=body)
        assert response.status_code == 200, (path, body, response.text)
        kind = response.headers["content-type"].partition(";")[0]
        described = operation["responses"]["200"]["content"][kind]["schema"]
        if kind == "application/json":
            check(closed, described, response.json())


async def test_every_lookup_is_answered_as_described(closed: Document, client: httpx.AsyncClient) -> None:
    for path, item in closed["paths"].items():
        if "get" not in item or path == "/metrics":
            continue
        response = await client.get(path.replace("{model}", MODEL))
        assert response.status_code == 200, path
        content = item["get"]["responses"]["200"].get("content", {})
        if "application/json" in content:
            check(closed, content["application/json"]["schema"], response.json())


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/v1/chat/completions", {}, "400"), ("/v1/responses", {"model": "nobody", "input": "Hi"}, "404"),
     ("/tokenize", {}, "default"), ("/tgi/generate", {}, "default"), ("/v2/models/{model}/generate", {}, "default"),
     ("/v1/run", {}, "default")],
)  # fmt: skip
async def test_failures_are_as_described(
    document: Document, client: httpx.AsyncClient, path: str, body: dict[str, Any], status: str
) -> None:
    response = await client.post(path.replace("{model}", MODEL), json=body)

    assert response.status_code >= 400
    described = document["paths"][path]["post"]["responses"][status]["content"]["application/json"]["schema"]
    check(document, described, response.json())


@pytest.mark.parametrize("body", ["ChatBody", "Message", "TGIGenerateBody", "GenerateParameters", "CallItem"])
async def test_a_field_that_need_not_be_given_may_be_null(document: Document, body: str) -> None:
    schema = document["components"]["schemas"][body]

    for name, field in schema["properties"].items():
        if name not in schema.get("required", ()):
            check(document, field, None)
        else:
            with pytest.raises(ValidationError):
                check(document, field, None)

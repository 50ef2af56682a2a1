"""Every endpoint of the dialects that are not OpenAI's."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from guidance_core.api import guidance, tgi, tokenizer, triton
from guidance_core.api.endpoint import Dialect
from guidance_core.api.openai.errors import failure_response, http_error_response
from guidance_core.errors import RequestError

ENDPOINTS = (*tokenizer.ENDPOINTS, *tgi.ENDPOINTS, *triton.ENDPOINTS, *guidance.ENDPOINTS)

_DIALECTS = tuple({endpoint.dialect.name: endpoint.dialect for endpoint in ENDPOINTS}.values())

_OWNERS = {path: endpoint.dialect for endpoint in ENDPOINTS for path in (endpoint.path, *endpoint.aliases)}

_METHODS = {path: [each.method for each in ENDPOINTS if path in (each.path, *each.aliases)] for path in _OWNERS}


async def http_failure(request: Request, error: Exception) -> Response:
    """The answer to a request that no endpoint takes, in the shape of the dialect that the path belongs to."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 405 and path in _METHODS:
        # Starlette names the methods of the first endpoint only.
        head = ["HEAD"] if "GET" in _METHODS[path] else []
        error = HTTPException(405, headers={"Allow": ", ".join(sorted({*_METHODS[path], *head}))})
    owner = _owner(path)
    if owner is not None:
        return owner.http_failure(request, error)
    return await http_error_response(request, error)


def failure_at(path: str, error: RequestError) -> Response:
    """The answer to a request that fails before it reaches an endpoint, in the shape of the path's dialect."""
    owner = _owner(path)
    return failure_response(error) if owner is None else owner.failure(error)


def _owner(path: str) -> Dialect | None:
    """The dialect that a path belongs to; None for OpenAI's."""
    return _OWNERS.get(path) or next((dialect for dialect in _DIALECTS if dialect.owns(path)), None)

"""Failures as OpenAI writes them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from guidance_core.errors import RequestError


def error_object(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of an error answer, or the data of an error event."""
    return {"error": {"message": message, "type": _type_of(status), "param": param, "code": code}}


def error_response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error answer."""
    return JSONResponse(error_object(status, message, param=param, code=code), status, headers)


def failure_response(error: RequestError) -> JSONResponse:
    """The answer to a request that failed before its first token."""
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return error_response(error.status, error.message, param=error.param, code=error.code, headers=headers)


async def http_error_response(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that no endpoint takes, as an exception handler of Starlette."""
    assert isinstance(error, HTTPException)
    message, code = error.detail, None
    if error.status_code == 404:
        message, code = f"Unknown URL: {request.method} {request.url.path}. GET / lists the endpoints.", "unknown_url"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{request.url.path} does not answer {request.method}: use {allowed}."
    return error_response(error.status_code, message, code=code, headers=error.headers)


def failure_object(error: RequestError) -> dict[str, Any]:
    """The data of the event that ends a stream which failed after its first token."""
    return error_object(error.status, error.message, param=error.param, code=error.code)


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"

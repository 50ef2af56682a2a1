"""Failures as text-generation-inference writes them: ``{"error", "error_type"}``, with statuses of its own."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from guidance_core.errors import AnswerRejected, GenerationFailed, InvalidGrammar, RequestError

_PREFIXES = {
    "validation": "Input validation error: ",
    "generation": "Request failed during generation: ",
    "overloaded": "Model is overloaded: ",
}
"""Its messages begin with these, and clients look at them."""


def error_response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error answer. There is no field for ``param``: the message names it."""
    status, error_type = _translated(status, code)
    if code == InvalidGrammar.code:
        message = f"grammar is not valid: {message}"
    return JSONResponse(error_object(error_type, message), status, headers)


def failure_object(error: RequestError) -> dict[str, str]:
    """The data of the event that ends a stream which failed after its first token."""
    return error_object(_translated(error.status, error.code)[1], error.message)


def error_object(error_type: str, message: str) -> dict[str, str]:
    """The body of an error answer."""
    return {"error": _PREFIXES.get(error_type, "") + message, "error_type": error_type}


def _translated(status: int, code: str | None) -> tuple[int, str]:
    """(its status, its ``error_type``)."""
    match status:
        case 401:
            return 401, "authentication"
        case 404 | 405 if code is None:
            return status, "not_found"
        case 429:
            return 429, "overloaded"
        case 503:
            return 503, "healthcheck"
        case _ if code in (GenerationFailed.code, AnswerRejected.code):
            return 424, "generation"
        case _ if status < 500:
            return 422, "validation"
    return 500, "incomplete_generation"

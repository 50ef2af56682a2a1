"""Failures as llgtrt writes them: ``{"error": message}``."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse


def error_response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error answer. There is no field for ``param`` and ``code``: the message names what is wrong."""
    return JSONResponse({"error": message}, status, headers)

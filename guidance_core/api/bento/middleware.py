"""What happens around every HTTP request: its id, its size limit, its metrics."""

from __future__ import annotations

import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guidance_core import telemetry
from guidance_core.api.dialects import ENDPOINTS
from guidance_core.errors import RequestTooLarge

ROUTES = frozenset(
    {
        "/",
        "/docs.json",
        "/generate",
        "/health",
        "/health_check",
        "/healthz",
        "/livez",
        "/metrics",
        "/readyz",
        "/schema.json",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/health/live",
        "/v1/health/model",
        "/v1/health/ready",
        "/v1/models",
        "/v1/responses",
        "/v1/responses/input_tokens",
    }
)
"""Paths that metrics know by name."""

_PATTERNS = {path: compile_path(path)[0] for endpoint in ENDPOINTS for path in (endpoint.path, *endpoint.aliases)}


class RequestMiddleware:
    """Gives each answer an ``x-request-id``, refuses large bodies, and counts."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        """Wrap an application."""
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = f"req_{uuid.uuid4().hex}"
        status = 500
        declared = Headers(scope=scope).get("content-length", "")
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            # Raised where the body is read, so that the endpoint writes it in its own shape.
            if declared.isdecimal() and int(declared) > self.max_body_bytes:
                raise self._too_large()
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.max_body_bytes:
                    raise self._too_large()
            return message

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.perf_counter() - started) * 1000))
            await send(message)

        try:
            await self.app(scope, limited_receive, observed_send)
        finally:
            route = route_of(scope["path"])
            telemetry.HTTP_REQUESTS.labels(route, str(status)).inc()
            telemetry.HTTP_SECONDS.labels(route).observe(time.perf_counter() - started)

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"The body is larger than {self.max_body_bytes:,} bytes, the most accepted here.")


def route_of(path: str) -> str:
    """A path as metrics name it."""
    if path in ROUTES:
        return path
    if path.startswith("/v1/models/"):
        return "/v1/models/{model}"
    return next((name for name, pattern in _PATTERNS.items() if pattern.match(path)), "other")

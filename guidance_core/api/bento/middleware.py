"""What happens around every HTTP request: its id, its size limit, its metrics."""

from __future__ import annotations

import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guidance_core import telemetry
from guidance_core.api.openai.errors import failure_response
from guidance_core.errors import RequestTooLarge

ROUTES = frozenset(
    {
        "/",
        "/docs.json",
        "/generate",
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
    }
)
"""Paths that metrics know by name."""


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
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
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
            length = Headers(scope=scope).get("content-length", "")
            if length.isdecimal() and int(length) > self.max_body_bytes:
                await failure_response(self._too_large())(scope, receive, observed_send)
            else:
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
    return "/v1/models/{model}" if path.startswith("/v1/models/") else "other"

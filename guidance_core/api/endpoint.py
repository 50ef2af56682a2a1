"""Endpoints that BentoML's methods cannot be: with parameters in their path, or with failures of another shape.

An `Endpoint` says everything about one of them once; the routes, the OpenAPI document and the metrics are made of it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from guidance_core.api.openai.bodies import RequestBody
from guidance_core.api.served_model import ServedModel
from guidance_core.api.streaming import unless_disconnected
from guidance_core.errors import RequestError

logger = logging.getLogger(__name__)

Answer = Callable[[ServedModel, Request], Awaitable[Response]]


class ErrorResponse(Protocol):
    """Writes a failure in a dialect's own shape."""

    def __call__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer; ``status`` is ours, which a dialect may translate."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the endpoints of one dialect share.

    Attributes:
        name: heading in the OpenAPI document.
        prefix: of all its paths, also of those that it does not have; empty where there is no common one.
        error: how it writes failures.
        failure_type: what such an answer is made of.
        absent: what other servers of the dialect have and this one has not: the end of its path → what there is
            instead, as a sentence.
    """

    name: str
    prefix: str
    error: ErrorResponse
    failure_type: type[BaseModel]
    absent: Mapping[str, str] = field(default_factory=dict)

    def failure(self, error: RequestError) -> Response:
        """The answer to a request that failed before its first token."""
        headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
        return self.error(error.status, error.message, param=error.param, code=error.code, headers=headers)

    def owns(self, path: str) -> bool:
        """Whether a path lies in this dialect's part of the tree."""
        return bool(self.prefix) and (path == self.prefix or path.startswith(self.prefix + "/"))

    def http_failure(self, request: Request, error: HTTPException) -> Response:
        """The answer to a request that none of its endpoints takes."""
        path = request.url.path
        if error.status_code == 404:
            instead = next((words for end, words in self.absent.items() if path.endswith(end)), None)
            message = f"Unknown URL: {request.method} {path}. {instead or 'GET / lists the endpoints.'}"
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            message = f"{path} does not answer {request.method}: use {allowed}."
        else:
            message = error.detail
        return self.error(error.status_code, message, headers=error.headers)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint.

    Attributes:
        dialect: whose.
        method: of HTTP.
        path: as Starlette writes it.
        name: unique among all endpoints.
        description: one sentence.
        answer: what it does; a `RequestError` becomes the dialect's failure.
        body: what a POST takes.
        examples: bodies that run as they are, by name.
        parameters: path parameter → a value that runs as it is.
        aliases: further paths that do the same; the OpenAPI document leaves them out.
        answer_type: what a JSON answer is made of; None where there is none.
        streams: whether there are answers of server-sent events.
        may_be_empty: whether the body may be left out.
    """

    dialect: Dialect
    method: Literal["GET", "POST"]
    path: str
    name: str
    description: str
    answer: Answer
    body: type[RequestBody] | None = None
    examples: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    aliases: Sequence[str] = ()
    answer_type: Any = None
    streams: bool = False
    may_be_empty: bool = False

    def routes(self) -> list[Route]:
        """For a Starlette application whose ``state.served`` is a `ServedModel`."""
        return [Route(path, self._handle, methods=[self.method]) for path in (self.path, *self.aliases)]

    async def _handle(self, request: Request) -> Response:
        try:
            await request.body()  # from here on, `receive` tells of nothing but a disconnect
            return await unless_disconnected(request.receive, self._answer(request))
        except RequestError as error:
            return self.dialect.failure(error)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it; logs and metrics do (nginx's number)
        except Exception:
            logger.exception("Unexpected error in %s", self.path)
            return self.dialect.error(500, "The service failed unexpectedly; its log says why.", code="internal_error")

    async def _answer(self, request: Request) -> Response:
        return await self.answer(request.app.state.served, request)

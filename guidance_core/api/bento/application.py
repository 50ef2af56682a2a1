"""BentoML's application, with three things changed.

As it comes, errors have shapes of BentoML's own, work goes on for a client that has left, and every streamed chunk is
traced. The hooks to change that are not public: look at them again when BentoML's version changes.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar, cast

import bentoml
from _bentoml_impl.server.app import ServiceAppFactory
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from guidance_core import tracing
from guidance_core.api.bento.authentication import ApiKeyMiddleware, ApiKeys
from guidance_core.api.bento.middleware import RequestMiddleware
from guidance_core.api.bento.openapi import Method, described
from guidance_core.api.dialects import http_failure
from guidance_core.api.openai.errors import error_response, failure_response
from guidance_core.api.streaming import unless_disconnected
from guidance_core.config import Settings, load_settings
from guidance_core.errors import RequestError

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=object)

_UNEXPECTED = "The service failed unexpectedly; its log says why."


class OpenAIService(bentoml.Service[T]):
    """A BentoML service whose every error is an OpenAI error object. Use as ``@bentoml.service(service_class=…)``."""

    def to_asgi(self, is_main: bool = True) -> Starlette:
        """The application that a worker runs."""
        self.inject_config()
        _log_as_bentoml()
        settings = _settings()
        keys = ApiKeys(settings.server) if settings.server.needs_keys else None
        app = cast(Starlette, _AppFactory(self, is_main=is_main, keys=keys)())
        tracing.use(BentoMLContainer.tracer_provider.get())
        app.add_exception_handler(HTTPException, http_failure)
        app.add_exception_handler(RequestError, _request_error)
        app.add_exception_handler(Exception, _unexpected_error)
        app.add_middleware(RequestMiddleware, max_body_bytes=settings.server.max_body_bytes)
        return app

    @property
    def openapi_spec(self) -> Any:
        """The OpenAPI document, completed."""
        methods = [
            Method(
                api.route,
                api.input_spec,
                api.output_spec,
                media_type=api.output_spec.mime_type(),
                streams="stream" in api.input_spec.model_fields,
            )
            for api in self.apis.values()
        ]
        settings = _settings()
        return described(super().openapi_spec, methods, with_keys=settings.server.needs_keys)


def _settings() -> Settings:
    return load_settings(arguments=vars(bentoml.use_arguments()))


def _log_as_bentoml() -> None:
    """Show what our own loggers say, in BentoML's format and at its level."""
    ours, bentos = logging.getLogger("guidance_core"), logging.getLogger("bentoml")
    ours.handlers, ours.propagate = bentos.handlers, bentos.propagate
    ours.setLevel(bentos.level)


class _AppFactory(ServiceAppFactory):
    def __init__(self, service: bentoml.Service[Any], is_main: bool, keys: ApiKeys | None) -> None:
        super().__init__(service, is_main=is_main)
        self._keys = keys
        # BentoML's timer would outlive its request and keep it in memory; our queue bounds the wait instead.
        self.timeout = None

    @property
    def middlewares(self) -> list[Middleware]:
        middlewares: list[Middleware] = []
        for middleware in super().middlewares:
            if middleware.cls.__name__ == "RunnerTrafficMetricsMiddleware":
                continue  # labels by raw path: every path that anybody tries would be a time series for ever
            if middleware.cls is OpenTelemetryMiddleware:
                # By default each SSE chunk is a span of its own, which costs more than the chunk.
                middleware.kwargs["exclude_spans"] = ["send", "receive"]
            middlewares.append(middleware)
        if self._keys is not None:
            # Innermost: a page of another origin asks without a key whether it may ask, and reads a refusal.
            middlewares.append(Middleware(ApiKeyMiddleware, keys=self._keys))
        return middlewares

    async def api_endpoint(self, name: str, request: Request) -> Response:
        """Run an `@bentoml.api` method; errors become answers here, because BentoML would reword them."""
        try:
            await request.body()  # from here on, `receive` tells of nothing but a disconnect
            return await unless_disconnected(request.receive, super().api_endpoint(name, request))
        except RequestError as error:
            return failure_response(error)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it; logs and metrics do (nginx's number)
        except BentoMLException as error:
            return error_response(error.error_code.value, str(error))
        except Exception:
            logger.exception("Unexpected error in %s", name)
            return error_response(500, _UNEXPECTED, code="internal_error")


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return failure_response(error)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    # Starlette logs the error itself after this answer.
    return error_response(500, _UNEXPECTED, code="internal_error")

"""What `@bentoml.api` methods cannot be, as a Starlette application: the GET endpoints, and those of other dialects."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from guidance_core.api.dialects import ENDPOINTS, http_failure
from guidance_core.api.openai.errors import failure_response
from guidance_core.api.openai.model_list import model_card, model_list
from guidance_core.api.served_model import ServedModel
from guidance_core.errors import ModelNotFound


def lookups() -> Starlette:
    """The application. Set its ``state.served`` to a `ServedModel` before the first request."""
    return Starlette(
        routes=[
            Route("/v1/models", _models),
            Route("/v1/models/", _models),  # else a model without a name
            Route("/v1/models/{model:path}", _model),
            Route("/health", _ready),  # vLLM's and trtllm-serve's
            Route("/health_check", _ready),  # openai_trtllm's
            Route("/v1/health/live", _live),
            Route("/v1/health/ready", _ready),
            Route("/v1/health/model", _model_health),
            *(route for endpoint in ENDPOINTS for route in endpoint.routes()),
        ],
        exception_handlers={HTTPException: http_failure},
    )


def _served(request: Request) -> ServedModel:
    served: ServedModel = request.app.state.served
    return served


async def _models(request: Request) -> JSONResponse:
    """The served model, and its adapters."""
    return JSONResponse(model_list(_served(request)))


async def _model(request: Request) -> JSONResponse:
    """One model by name."""
    served, name = _served(request), request.path_params["model"]
    card = model_card(served, name)
    if card is None:
        return failure_response(
            ModelNotFound(f"The model {name!r} does not exist: this service serves {served.name!r}.", param="model")
        )
    return JSONResponse(card)


async def _live(request: Request) -> JSONResponse:
    """Whether the service should be left running: 503 once its model can never serve."""
    return _health(request, healthy=_served(request).health().state != "failed")


async def _ready(request: Request) -> JSONResponse:
    """Whether requests are answered now: 503 while the model loads or restarts."""
    return _health(request, healthy=_served(request).health().state == "ready")


def _health(request: Request, *, healthy: bool) -> JSONResponse:
    health = _served(request).health()
    body = {"object": "health", "status": health.state, "message": health.detail or "The model is ready."}
    return JSONResponse(body, 200 if healthy else 503)


async def _model_health(request: Request) -> JSONResponse:
    """The state of the model and of its executor, in numbers; 200 in any state."""
    served = _served(request)
    health, stats = served.health(), served.stats()
    return JSONResponse(
        {
            "object": "health",
            "model": served.name,
            "status": health.state,
            "message": health.detail or "The model is ready.",
            "executor": {"name": served.settings.executor, **{n: getattr(stats, n) for n in stats.__slots__}},
        }
    )

"""The endpoint."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from guidance_core.api.endpoint import Dialect, Endpoint
from guidance_core.api.events import event_stream
from guidance_core.api.grammar_log import GrammarLog
from guidance_core.api.guidance.bodies import RunBody
from guidance_core.api.guidance.errors import error_response
from guidance_core.api.guidance.run import RunWriter, answer_of, run_events
from guidance_core.api.guidance.schemas import GuidanceError
from guidance_core.api.served_model import ServedModel
from guidance_core.api.streaming import started


async def run(served: ServedModel, request: Request) -> Response:
    """Answer in a grammar, with what llguidance reports on it."""
    body = await RunBody.from_http_request(request, None)
    model = served.get()
    answer, grammar = await answer_of(served, model, body)
    writer = RunWriter(answer, await GrammarLog.of(model, grammar, choices=1), served.name)
    return event_stream(
        run_events(writer, await started(answer.pieces())),
        failure=writer.failure,
        choices=1,
        comments_every=served.settings.guidance.held_stream_comments if answer.held else None,
    )


DIALECT = Dialect("Guidance (llgtrt)", "/guidance", error_response, GuidanceError)

_GRAMMAR = {
    "grammars": [{"lark_grammar": 'start: "My name is " name "."\nname[capture]: /[A-Z][a-z]{1,8}/\n'}],
}

ENDPOINTS = (
    Endpoint(
        DIALECT,
        "POST",
        "/v1/run",
        "guidance_run",
        "Answer in a grammar of llguidance, as server-sent events with its captures.",
        run,
        body=RunBody,
        examples={
            "capture": {
                "controller": "llguidance",
                "controller_arg": {"grammar": _GRAMMAR},
                "messages": [{"role": "user", "content": "What is your name?"}],
                "max_tokens": 32,
            }
        },
        aliases=("/guidance",),
        streams=True,
    ),
)

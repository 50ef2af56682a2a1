"""The endpoints."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from guidance_core.api.endpoint import Dialect, Endpoint
from guidance_core.api.events import data_event, event_stream
from guidance_core.api.example_schemas import PERSON
from guidance_core.api.json_text import JsonBody
from guidance_core.api.openai.schemas import ChatCompletion, Completion, ModelList
from guidance_core.api.served_model import ServedModel
from guidance_core.api.streaming import started
from guidance_core.api.tgi.answers import TokenWriter, Whole, prefill_tokens, stream_events, wholes
from guidance_core.api.tgi.bodies import TGICompatGenerateBody, TGIGenerateBody
from guidance_core.api.tgi.errors import error_response, failure_object
from guidance_core.api.tgi.openai import MessagesBody, TextBody, chat, models, text
from guidance_core.api.tgi.requests import seeded_answers, with_details
from guidance_core.api.tgi.schemas import TGIChatTokenized, TGIError, TGIGenerated, TGIInfo, TGISimpleToken
from guidance_core.api.tgi.tokenize import chat_tokenize, tokenize
from guidance_core.errors import ExecutorUnavailable
from guidance_core.output.stop_strings import MAX_STOP_STRINGS

_API_VERSION = "3.3.6"
"""The release of text-generation-inference whose API this is."""


async def compat_generate(served: ServedModel, request: Request) -> Response:
    """`generate_stream` with ``stream``, else `generate` in a list."""
    body = await TGICompatGenerateBody.from_http_request(request, None)
    return await _streamed(served, body) if body.stream else JsonBody([await _generated(served, body)])


async def generate(served: ServedModel, request: Request) -> Response:
    """Continue a prompt."""
    return JsonBody(await _generated(served, await TGIGenerateBody.from_http_request(request, None)))


async def generate_stream(served: ServedModel, request: Request) -> Response:
    """Continue a prompt, token by token."""
    return await _streamed(served, await TGIGenerateBody.from_http_request(request, None))


async def _generated(served: ServedModel, body: TGIGenerateBody) -> dict[str, Any]:
    answers = await seeded_answers(served, body, stream=False)
    detailed = with_details(body.parameters)
    with_tokens = detailed or len(answers) > 1
    finished = await wholes(answers, served.get(), with_tokens=with_tokens)
    best, *others = sorted(finished, key=Whole.mean_logprob, reverse=True)
    prompt = _full_text_prompt(body)
    generated = {"generated_text": prompt + best.output.text}
    if not detailed:
        return generated
    prefill = prefill_tokens(await answers[0].answer.scored_prompt())
    details = best.details(prefill)
    if others:
        details["best_of_sequences"] = [
            {"generated_text": prompt + other.output.text, **other.details(prefill)} for other in others
        ]
    return {**generated, "details": details}


async def _streamed(served: ServedModel, body: TGIGenerateBody) -> Response:
    (seeded,) = await seeded_answers(served, body, stream=True)
    pieces = await started(seeded.answer.pieces())
    events = stream_events(
        seeded,
        pieces,
        TokenWriter(served.get(), in_ascii=True),
        prompt=_full_text_prompt(body),
        details=body.parameters.details,
    )
    return event_stream(
        events,
        failure=lambda error: data_event(failure_object(error)),
        choices=1,
        comments_every=served.settings.guidance.held_stream_comments if seeded.answer.held else None,
    )


def _full_text_prompt(body: TGIGenerateBody) -> str:
    return body.inputs if body.parameters.return_full_text else ""


async def info(served: ServedModel, request: Request) -> Response:
    """What is served, and its limits."""
    model = served.get()
    settings, context = served.settings, model.executor.limits().max_model_len
    return JSONResponse(
        {
            "model_id": served.name,
            "model_sha": model.fingerprint,
            "model_pipeline_tag": None,
            "max_concurrent_requests": served.stats().slots + settings.server.max_queue_size,
            "max_best_of": settings.server.max_choices,
            "max_stop_sequences": MAX_STOP_STRINGS,
            "max_input_tokens": context - 1,
            "max_total_tokens": context,
            "validation_workers": 1,
            "max_client_batch_size": 1,
            "router": "guided-trtllm",
            "version": _API_VERSION,
            "sha": None,
            "docker_label": None,
        }
    )


async def health(served: ServedModel, request: Request) -> Response:
    """200 with no body while requests are answered."""
    state = served.health()
    if state.state != "ready":
        raise ExecutorUnavailable(state.detail)
    return Response()


DIALECT = Dialect(
    "Text Generation Inference",
    "/tgi",
    error_response,
    TGIError,
    absent={
        "/metrics": "GET /metrics tells of the whole service.",
        "/invocations": "It is for SageMaker: POST /tgi answers the same bodies, and /tgi/v1/chat/completions chats.",
        "/vertex": "It is for Vertex AI: POST /tgi/generate for each of the instances.",
    },
)

_EXAMPLES = {
    "plain": {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 8, "details": True}},
    "JSON schema": {
        "inputs": "A person as JSON: ",
        "parameters": {"max_new_tokens": 64, "grammar": {"type": "json", "value": PERSON}},
    },
    "regular expression": {
        "inputs": "An ISO date: ",
        "parameters": {"max_new_tokens": 16, "grammar": {"type": "regex", "value": "[0-9]{4}-[0-9]{2}-[0-9]{2}"}},
    },
}
_CHAT_EXAMPLES = {
    "plain": {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 8}
}

ENDPOINTS = (
    Endpoint(
        DIALECT,
        "POST",
        "/tgi/generate",
        "tgi_generate",
        "Continue a prompt.",
        generate,
        body=TGIGenerateBody,
        examples=_EXAMPLES,
        answer_type=TGIGenerated,
    ),
    Endpoint(
        DIALECT,
        "POST",
        "/tgi/generate_stream",
        "tgi_generate_stream",
        "Continue a prompt, as server-sent events.",
        generate_stream,
        body=TGIGenerateBody,
        examples=_EXAMPLES,
        streams=True,
    ),
    Endpoint(
        DIALECT,
        "POST",
        "/tgi",
        "tgi",
        "Continue a prompt: with `stream` as server-sent events, else as a list of one answer.",
        compat_generate,
        body=TGICompatGenerateBody,
        examples=_EXAMPLES,
        aliases=("/tgi/",),  # clients post to their base URL as they were given it
        answer_type=list[TGIGenerated],
        streams=True,
    ),
    Endpoint(
        DIALECT,
        "POST",
        "/tgi/v1/chat/completions",
        "tgi_chat",
        "Answer a conversation, as OpenAI's chat completions do; any `model` means the one that is served.",
        chat,
        body=MessagesBody,
        examples=_CHAT_EXAMPLES,
        answer_type=ChatCompletion,
        streams=True,
    ),
    Endpoint(
        DIALECT,
        "POST",
        "/tgi/v1/completions",
        "tgi_completions",
        "Continue a prompt, as OpenAI's completions do; any `model` means the one that is served.",
        text,
        body=TextBody,
        examples={"plain": {"prompt": "The capital of France is", "max_tokens": 8}},
        answer_type=Completion,
        streams=True,
    ),
    Endpoint(
        DIALECT,
        "GET",
        "/tgi/v1/models",
        "tgi_models",
        "The served model, and its adapters.",
        models,
        answer_type=ModelList,
    ),
    Endpoint(
        DIALECT,
        "POST",
        "/tgi/tokenize",
        "tgi_tokenize",
        "Turn a prompt into tokens, and tell where each lies in it.",
        tokenize,
        body=TGIGenerateBody,
        examples={"plain": {"inputs": "The capital of France is"}},
        answer_type=list[TGISimpleToken],
    ),
    Endpoint(
        DIALECT,
        "POST",
        "/tgi/chat_tokenize",
        "tgi_chat_tokenize",
        "Write a conversation as the chat template does, turn it into tokens, and tell where each lies in it.",
        chat_tokenize,
        body=MessagesBody,
        examples=_CHAT_EXAMPLES,
        answer_type=TGIChatTokenized,
    ),
    Endpoint(DIALECT, "GET", "/tgi/info", "tgi_info", "What is served, and its limits.", info, answer_type=TGIInfo),
    Endpoint(
        DIALECT,
        "GET",
        "/tgi/health",
        "tgi_health",
        "Whether requests are answered now; 503 while the model loads.",
        health,
        aliases=("/tgi", "/tgi/", "/tgi/ping"),
    ),
)

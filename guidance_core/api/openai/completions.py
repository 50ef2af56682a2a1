"""`POST /v1/completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response

from guidance_core.api.answer import Answer, merged
from guidance_core.api.attempt import Piece, TextOptions
from guidance_core.api.grammar_log import GrammarLog
from guidance_core.api.openai.bodies import CompletionBody
from guidance_core.api.openai.constraints import constraint_of
from guidance_core.api.openai.events import DONE, ChunkWriter, event_stream
from guidance_core.api.openai.requests import (
    check_budget,
    compilation_of,
    generation_request,
    logged_grammar,
    remaining_context,
)
from guidance_core.api.openai.usage import usage_of
from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.api.streaming import started
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.errors import InvalidRequest
from guidance_core.generation import Grammar
from guidance_core.output import TextDelta, TokenTextLogprob

_DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


async def completion(served: ServedModel, body: CompletionBody) -> Response:
    """Continue one prompt or several, at once or as a stream. Choices are numbered prompt by prompt.

    Raises:
        RequestError: before the first token; later failures become the stream's last event.
    """
    model = served.get(body.model)
    settings = served.settings.server
    if len(body.prompt) * body.n > settings.max_choices:
        raise InvalidRequest(
            f"{len(body.prompt)} prompts with {body.n} choices each are more than the {settings.max_choices} choices "
            "that one request may have.",
            param="prompt" if len(body.prompt) > 1 else "n",
        )
    compilation = await compilation_of(model, served.settings.guidance, constraint_of(body), stream=body.stream)
    grammar = None if compilation is None else compilation.grammar
    answers = [await _answer(served, model, body, prompt, grammar) for prompt in body.prompt]
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": model.fingerprint,
    }
    usage = partial(usage_of, answers, compilation, with_guidance=body.include_guidance)
    log = await GrammarLog.of(model, logged_grammar(body, grammar), choices=len(answers) * body.n)
    if body.stream:
        pieces = await started(merged(answers))
        events = _events(ChunkWriter(head, body.stream_options), body, answers, usage, log, pieces)
        return event_stream(
            events,
            choices=len(answers) * body.n,
            comments_every=served.settings.guidance.held_stream_comments if answers[0].held else None,
        )
    return JSONResponse({**head, "choices": await _choices(body, answers, log), "usage": usage()})


async def _answer(
    served: ServedModel, model: LoadedModel, body: CompletionBody, prompt: str | list[int], grammar: Grammar | None
) -> Answer:
    context = model.executor.limits().max_model_len
    prompt_ids = await off_the_loop(len(prompt), lambda: model.prompts.completion(prompt, context=context))
    if not prompt_ids:
        raise InvalidRequest("'prompt' is empty: give it at least one token.", param="prompt")
    remaining = remaining_context(model, len(prompt_ids), param="prompt")
    request = generation_request(
        model,
        served.settings.server,
        body,
        prompt_ids=prompt_ids,
        max_tokens=body.max_tokens,
        default_max_tokens=min(_DEFAULT_MAX_TOKENS, remaining),
        logprobs=body.logprobs,
        grammar=grammar,
    )
    text = TextOptions(skip_special_tokens=body.skip_special_tokens, keep_leading_space=True)
    return Answer(model, request, text, check_budget(served.settings.guidance, body))


async def _events(
    writer: ChunkWriter,
    body: CompletionBody,
    answers: Sequence[Answer],
    usage: Callable[[], dict[str, Any]],
    log: GrammarLog,
    pieces: AsyncGenerator[tuple[Answer, Piece], None],
) -> AsyncGenerator[bytes, None]:
    first_index = {id(answer): i * body.n for i, answer in enumerate(answers)}
    async with aclosing(pieces):
        async for answer, (index, piece) in pieces:
            number = first_index[id(answer)] + index
            yield writer.chunk(_choice(body, number, [piece], await log.lines(number, piece)))
    if writer.include_usage:
        yield writer.usage(usage())
    yield DONE


async def _choices(body: CompletionBody, answers: Sequence[Answer], log: GrammarLog) -> list[dict[str, Any]]:
    first_index = {id(answer): i * body.n for i, answer in enumerate(answers)}
    received: list[list[TextDelta]] = [[] for _ in range(len(answers) * body.n)]
    logs = [""] * len(received)
    async with aclosing(merged(answers)) as pieces:
        async for answer, (index, piece) in pieces:
            number = first_index[id(answer)] + index
            received[number].append(piece)
            logs[number] += await log.lines(number, piece)
    return [_choice(body, i, choice, lines) for i, (choice, lines) in enumerate(zip(received, logs, strict=True))]


def _choice(body: CompletionBody, index: int, pieces: Sequence[TextDelta], logs: str) -> dict[str, Any]:
    logprobs = None
    if body.logprobs is not None:
        logprobs = _logprobs_object([entry for piece in pieces for entry in piece.logprobs or ()])
    return {
        "index": index,
        "text": "".join(piece.text for piece in pieces),
        "logprobs": logprobs,
        "finish_reason": pieces[-1].finish_reason,
        **({"llg_logs": logs} if logs else {}),
    }


def _logprobs_object(entries: Sequence[TokenTextLogprob]) -> dict[str, Any]:
    """Parallel lists; offsets are in characters of the choice's own text."""
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [_finite(entry.logprob) for entry in entries],
        "top_logprobs": [
            # The answered token is always among them, as in OpenAI's answers.
            {**{top.token: _finite(top.logprob) for top in entry.top}, entry.token: _finite(entry.logprob)}
            for entry in entries
        ],
        "text_offset": [entry.text_offset for entry in entries],
    }


def _finite(logprob: float) -> float:
    # JSON has no infinity; OpenAI writes -9999 for a token that is as good as impossible.
    return max(logprob, -9999.0)

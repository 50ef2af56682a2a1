"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response

from guidance_core.api.answer import Answer
from guidance_core.api.attempt import Piece, TextOptions, Thinking
from guidance_core.api.openai.bodies import ChatBody
from guidance_core.api.openai.constraints import constraint_of
from guidance_core.api.openai.conversation import prompt_of
from guidance_core.api.openai.events import DONE, ChunkWriter, event_stream
from guidance_core.api.openai.message import MessageReader, joined_message
from guidance_core.api.openai.reasoning import thoughts_of, with_thoughts
from guidance_core.api.openai.requests import check_budget, compilation_of, generation_request, remaining_context
from guidance_core.api.openai.tools import choose, tools_constraint
from guidance_core.api.openai.usage import usage_of
from guidance_core.api.served_model import ServedModel
from guidance_core.api.streaming import started
from guidance_core.errors import InvalidRequest
from guidance_core.generation import FinishReason
from guidance_core.output import TextDelta, TokenText, TokenTextLogprob


async def chat_completion(served: ServedModel, body: ChatBody) -> Response:
    """Answer a conversation, at once or as a stream.

    Raises:
        RequestError: before the first token; later failures become the stream's last event.
    """
    model = served.get(body.model)
    settings = served.settings.guidance
    max_tokens = _max_tokens(body)
    logprobs = _logprobs(body)
    tools, required, one = choose(body.tools, body.tool_choice)
    wanted = constraint_of(body)
    prompt = await prompt_of(model, served.settings.model, body, tools, wanted)
    remaining = remaining_context(model, len(prompt.ids), param="messages")
    thinking = None if model.reasoning is None else Thinking(model.reasoning, model.reasoning.begun(prompt.ids))
    thoughts = thoughts_of(
        thinking,
        served.settings.model.reasoning_budgets,
        effort=body.reasoning_effort,
        min_tokens=body.min_thinking_tokens,
        max_tokens=body.max_thinking_tokens,
    )
    found = wanted
    if tools:
        found = tools_constraint(
            model.tool_use, tools, required=required, parallel=body.parallel_tool_calls and not one, answer=wanted
        )
    found = with_thoughts(thoughts, found)
    compilation = await compilation_of(model, settings, found, stream=body.stream)
    request = generation_request(
        model,
        served.settings.server,
        body,
        prompt_ids=prompt.ids,
        max_tokens=max_tokens,
        default_max_tokens=remaining,
        logprobs=logprobs,
        grammar=None if compilation is None else compilation.grammar,
    )
    # Calls and thoughts may begin with a special token; where there are any, the grammar allows no other one.
    marked = bool(tools) or thinking is not None
    text = TextOptions(skip_special_tokens=body.skip_special_tokens and not marked, thinking=thinking)
    tool_format = model.tool_use.format if tools else None
    readers = [MessageReader(tool_format=tool_format, thinking=thinking) for _ in range(body.n)]
    answer = Answer(model, request, text, check_budget(settings, body))
    usage = partial(usage_of, [answer], compilation, with_guidance=body.include_guidance)
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if body.stream else "chat.completion",
        "created": int(time.time()),
        "model": served.name,
        "service_tier": "default",
        "system_fingerprint": model.fingerprint,
    }
    if body.return_expanded_prompt:
        head["expanded_prompt"] = prompt.text
    if body.stream:
        pieces = await started(answer.pieces())
        writer = ChunkWriter(head, body.stream_options)
        events = _events(writer, usage, pieces, readers, with_logprobs=body.logprobs)
        return event_stream(
            events, choices=body.n, comments_every=settings.held_stream_comments if answer.held else None
        )
    choices = await _choices(body, answer, readers)
    return JSONResponse({**head, "choices": choices, "usage": usage()})


async def _events(
    writer: ChunkWriter,
    usage: Callable[[], dict[str, Any]],
    pieces: AsyncGenerator[Piece, None],
    readers: Sequence[MessageReader],
    *,
    with_logprobs: bool,
) -> AsyncGenerator[bytes, None]:
    begun: set[int] = set()
    async with aclosing(pieces):
        async for index, piece in pieces:
            # What belongs to one step is written at once.
            events = b""
            if index not in begun:
                begun.add(index)
                events += writer.chunk(_chunk_choice(index, {"role": "assistant", "content": "", "refusal": None}))
            deltas = readers[index].read(piece.text, last=piece.finish_reason is not None)
            # Text that may become a call is held back; what is known of its tokens is not.
            logprobs = _logprobs_object(piece.logprobs) if with_logprobs and piece.logprobs else None
            for delta in deltas or ([{}] if logprobs else []):
                events += writer.chunk(_chunk_choice(index, delta, logprobs=logprobs))
                logprobs = _logprobs_object(()) if with_logprobs else None
            if piece.finish_reason is not None:
                reason = _finish_reason(piece.finish_reason, readers[index])
                events += writer.chunk(_chunk_choice(index, {}, finish_reason=reason))
            if events:
                yield events
    if writer.include_usage:
        yield writer.usage(usage())
    yield DONE


def _chunk_choice(
    index: int,
    delta: dict[str, Any],
    *,
    logprobs: dict[str, Any] | None = None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _finish_reason(reason: FinishReason, reader: MessageReader) -> str:
    return "tool_calls" if reason == "stop" and reader.called else reason


async def _choices(body: ChatBody, answer: Answer, readers: Sequence[MessageReader]) -> list[dict[str, Any]]:
    received: list[list[TextDelta]] = [[] for _ in range(body.n)]
    async with aclosing(answer.pieces()) as pieces:
        async for index, piece in pieces:
            received[index].append(piece)
    choices = []
    for index, (choice, reader) in enumerate(zip(received, readers, strict=True)):
        message = joined_message(reader.read("".join(piece.text for piece in choice), last=True))
        reason = choice[-1].finish_reason
        assert reason is not None, "a choice's last piece has one"
        logprobs = _logprobs_object([entry for piece in choice for entry in piece.logprobs or ()])
        choices.append(
            {
                "index": index,
                "message": message,
                "logprobs": logprobs if body.logprobs else None,
                "finish_reason": _finish_reason(reason, reader),
            }
        )
    return choices


def _max_tokens(body: ChatBody) -> int | None:
    if body.max_tokens is None or body.max_completion_tokens in (None, body.max_tokens):
        return body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    raise InvalidRequest(
        f"'max_tokens' ({body.max_tokens}) and 'max_completion_tokens' ({body.max_completion_tokens}) are two names of "
        "one thing and differ: leave one out.",
        param="max_tokens",
    )


def _logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs is not None:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    return None


def _logprobs_object(entries: Sequence[TokenTextLogprob]) -> dict[str, Any]:
    return {
        "content": [{**_token(entry), "top_logprobs": [_token(top) for top in entry.top]} for entry in entries],
        "refusal": None,
    }


def _token(token: TokenText) -> dict[str, Any]:
    # JSON has no infinity; OpenAI writes -9999 for a token that is as good as impossible.
    return {"token": token.token, "logprob": max(token.logprob, -9999.0), "bytes": list(token.bytes)}

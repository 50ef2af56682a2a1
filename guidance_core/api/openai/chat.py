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
from guidance_core.api.attempt import Piece, TextOptions
from guidance_core.api.openai.bodies import ChatBody, Message
from guidance_core.api.openai.constraints import FieldConstraint, constraint_of
from guidance_core.api.openai.events import DONE, ChunkWriter, event_stream
from guidance_core.api.openai.requests import check_budget, compilation_of, generation_request, remaining_context
from guidance_core.api.openai.tools import MessageReader, Tool, choose, joined_message, tools_constraint
from guidance_core.api.openai.usage import usage_of
from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.api.streaming import started
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.errors import InvalidRequest, Unsupported
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
    prompt_ids = await _prompt_ids(model, body, tools)
    remaining = remaining_context(model, len(prompt_ids), param="messages")
    found = constraint_of(body)
    if tools:
        parallel = body.parallel_tool_calls and not one
        answer_constraint = None if found is None else found.constraint
        may_call = tools_constraint(
            model.tool_use, tools, required=required, parallel=parallel, answer=answer_constraint
        )
        found = FieldConstraint(may_call, "tools")
    compilation = await compilation_of(model, settings, found, stream=body.stream)
    request = generation_request(
        model,
        served.settings.server,
        body,
        prompt_ids=prompt_ids,
        max_tokens=max_tokens,
        default_max_tokens=remaining,
        logprobs=logprobs,
        grammar=None if compilation is None else compilation.grammar,
    )
    # Calls may begin with a special token; where there are tools, no other one is ever answered.
    text = TextOptions(skip_special_tokens=body.skip_special_tokens and not tools)
    readers = [MessageReader(model.tool_use.format if tools else None) for _ in range(body.n)]
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
    if body.stream:
        pieces = await started(answer.pieces())
        writer = ChunkWriter(head, body.stream_options)
        events = _events(writer, usage, pieces, readers, with_logprobs=body.logprobs)
        return event_stream(
            events, choices=body.n, comments_every=settings.held_stream_comments if answer.held else None
        )
    return JSONResponse({**head, "choices": await _choices(body, answer, readers), "usage": usage()})


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


async def _prompt_ids(model: LoadedModel, body: ChatBody, tools: Sequence[Tool]) -> tuple[int, ...]:
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    _check_messages(body.messages)
    context = model.executor.limits().max_model_len
    described = [tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in tools]
    chat = partial(model.tool_use.chat, tools=described, context=context)
    chars = sum(len(str(message.content)) for message in body.messages)
    ids = await off_the_loop(chars, partial(chat, messages))
    for i, message in enumerate(body.messages):
        if message.name is None:
            continue
        # Templates are free to ignore a name, and most do. Then it would be dropped silently.
        nameless = [{**other, "name": None} if i == j else other for j, other in enumerate(messages)]
        if await off_the_loop(chars, partial(chat, nameless)) == ids:
            raise Unsupported(
                f"The model's chat template ignores 'messages[{i}].name': leave it out, or write the name into the "
                "content.",
                param=f"messages[{i}].name",
            )
    return ids


def _check_messages(messages: Sequence[Message]) -> None:
    """Refuse messages that are incomplete, or answer calls that nobody made."""
    called: set[str] = set()
    for i, message in enumerate(messages):
        param = f"messages[{i}]"
        if message.role == "function":
            raise Unsupported(
                f"'{param}.role' is 'function', which OpenAI has replaced: use 'tool' and 'tool_call_id'.",
                param=f"{param}.role",
            )
        if message.tool_calls is not None and message.role != "assistant":
            raise InvalidRequest(
                f"'{param}.tool_calls' is for messages of the role 'assistant'.", param=f"{param}.tool_calls"
            )
        called.update(call.id for call in message.tool_calls or ())
        if (message.role == "tool") != (message.tool_call_id is not None):
            raise InvalidRequest(
                f"'{param}.tool_call_id' goes with the role 'tool', and only with it.", param=f"{param}.tool_call_id"
            )
        if message.tool_call_id is not None and message.tool_call_id not in called:
            raise InvalidRequest(
                f"'{param}.tool_call_id' is {message.tool_call_id!r}; no message before has a call of that id.",
                param=f"{param}.tool_call_id",
            )
        if message.content is None and not message.tool_calls:
            raise InvalidRequest(f"'{param}.content' is missing: give it text.", param=f"{param}.content")
        _check_parts(message.content, param)


def _check_parts(content: str | list[dict[str, Any]] | None, param: str) -> None:
    for j, part in enumerate(content if isinstance(content, list) else ()):
        for key in part.keys() - {"type", "text"}:
            if part.get("type") == "text" and part[key] is not None:
                path = f"{param}.content[{j}].{key}"
                raise InvalidRequest(f"Unknown field {path!r}: leave it out.", param=path, code="unknown_parameter")


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

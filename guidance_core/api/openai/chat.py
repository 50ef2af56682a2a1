"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.responses import Response

from guidance_core.api.answer import Answer, joined
from guidance_core.api.attempt import Piece
from guidance_core.api.grammar_log import GrammarLog
from guidance_core.api.json_text import Json, JsonBody, json_unicode
from guidance_core.api.openai.bodies import ChatBody
from guidance_core.api.openai.chat_run import prepare
from guidance_core.api.openai.events import DONE, ChunkWriter, event_stream
from guidance_core.api.openai.functions import called, called_message, rename, with_tools
from guidance_core.api.openai.logprobs import TokenNames, logprobs_object, prompt_logprobs, token_logprobs
from guidance_core.api.openai.message import MessageReader, joined_message
from guidance_core.api.openai.requests import logged_grammar
from guidance_core.api.openai.usage import usage_of
from guidance_core.api.served_model import ServedModel
from guidance_core.api.streaming import started
from guidance_core.errors import RequestError
from guidance_core.generation import FinishReason
from guidance_core.output import TextDelta


async def chat_completion(served: ServedModel, body: ChatBody) -> Response:
    """Answer a conversation, at once or as a stream.

    Raises:
        RequestError: before the first token; later failures become the stream's last event.
    """
    asked = with_tools(body)
    try:
        run = await prepare(served, asked)
    except RequestError as error:
        if body.functions:
            rename(error)
        raise
    usage = partial(usage_of, [run.answer], run.compilation, with_guidance=body.include_guidance)
    head: dict[str, Any] = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if body.stream else "chat.completion",
        "created": int(time.time()),
        "model": body.model,
        "service_tier": "default",
        "system_fingerprint": run.model.fingerprint,
    }
    if body.return_expanded_prompt:
        head["expanded_prompt"] = run.prompt.text
    grammar = None if run.compilation is None else run.compilation.grammar
    log = await GrammarLog.of(run.model, logged_grammar(body, grammar), choices=body.n)
    if body.stream:
        pieces = await started(run.answer.pieces())
        writer = ChunkWriter(head, body.stream_options)
        prompt_ids = list(run.answer.prompt_ids) if body.return_token_ids else None
        events = _events(writer, body, usage, pieces, run.readers, log, prompt_ids)
        comments_every = served.settings.guidance.held_stream_comments if run.answer.held else None
        return event_stream(events, choices=body.n, comments_every=comments_every)
    choices = await _choices(body, run.answer, run.readers, log)
    if body.prompt_logprobs is not None:
        head["prompt_logprobs"] = await prompt_logprobs(await run.answer.scored_prompt(), body.prompt_logprobs)
    if body.return_token_ids:
        head["prompt_token_ids"] = list(run.answer.prompt_ids)
    return JsonBody({**head, "choices": choices, "usage": usage()})


async def _events(
    writer: ChunkWriter,
    body: ChatBody,
    usage: Callable[[], dict[str, Any]],
    pieces: AsyncGenerator[Piece, None],
    readers: Sequence[MessageReader],
    log: GrammarLog,
    prompt_ids: list[int] | None,
) -> AsyncGenerator[bytes, None]:
    names = TokenNames(by_id=body.return_tokens_as_token_ids, in_ascii=True)
    begun: set[int] = set()
    async with aclosing(pieces):
        async for index, piece in pieces:
            # What belongs to one step is written at once.
            chunks: list[bytes] = []
            choices: list[dict[str, Any]] = []
            if index not in begun:
                begun.add(index)
                first = _chunk_choice(index, {"role": "assistant", "content": "", "refusal": None})
                chunks.append(writer.chunk(first, None if prompt_ids is None else {"prompt_token_ids": prompt_ids}))
            deltas = readers[index].read(piece)
            if body.functions:
                deltas = list(map(called, deltas))
            # Text that may become a call is held back; what is known of its tokens is not.
            logprobs = None
            if body.logprobs and piece.logprobs:
                logprobs = logprobs_object(token_logprobs(piece.logprobs, names))
            for delta in deltas or ([{}] if logprobs else []):
                choices.append(_chunk_choice(index, delta, logprobs=logprobs))
                logprobs = logprobs_object([]) if body.logprobs else None
            if piece.finish_reason is not None:
                reason = _finish_reason(piece.finish_reason, readers[index], body)
                choices.append(_chunk_choice(index, {}, finish_reason=reason))
            if logs := await log.lines(index, piece):
                if not choices:
                    choices.append(_chunk_choice(index, {}))
                choices[-1]["llg_logs"] = logs
            if piece.token_ids:
                if not choices:
                    choices.append(_chunk_choice(index, {}))
                choices[0]["token_ids"] = list(piece.token_ids)
            chunks += map(writer.chunk, choices)
            if chunks:
                yield b"".join(chunks)
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


def _finish_reason(reason: FinishReason, reader: MessageReader, body: ChatBody) -> str:
    if reason == "stop" and reader.called:
        return "function_call" if body.functions else "tool_calls"
    return reason


async def _choices(body: ChatBody, answer: Answer, readers: Sequence[MessageReader], log: GrammarLog) -> list[Json]:
    names = TokenNames(by_id=body.return_tokens_as_token_ids)
    received: list[list[TextDelta]] = [[] for _ in range(body.n)]
    logprobs: list[list[Json]] = [[] for _ in range(body.n)]
    logs = [""] * body.n
    async with aclosing(answer.pieces()) as pieces:
        async for index, piece in pieces:
            # Written as they come: all at the end would hold up everybody else.
            if body.logprobs and piece.logprobs:
                logprobs[index] += token_logprobs(piece.logprobs, names)
            received[index].append(piece if piece.logprobs is None else replace(piece, logprobs=None))
            logs[index] += await log.lines(index, piece)
    choices = []
    for index, (parts, reader) in enumerate(zip(received, readers, strict=True)):
        await asyncio.sleep(0)  # others' turn
        whole = joined(parts)
        message = joined_message(reader.read(whole))
        if body.functions:
            message = called_message(message)
        assert whole.finish_reason is not None, "a choice's last piece has one"
        choice = {
            "index": index,
            "message": message,
            "logprobs": logprobs_object(logprobs[index]) if body.logprobs else None,
            "finish_reason": _finish_reason(whole.finish_reason, reader, body),
            **({"llg_logs": logs[index]} if logs[index] else {}),
            **({"token_ids": list(whole.token_ids)} if body.return_token_ids else {}),
        }
        choices.append(json_unicode(choice))
    return choices

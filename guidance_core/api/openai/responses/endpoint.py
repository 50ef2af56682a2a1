"""The endpoint: one JSON body, or events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from guidance_core.api.attempt import Piece
from guidance_core.api.events import event_stream
from guidance_core.api.grammar_log import GrammarLog
from guidance_core.api.json_text import Json, JsonBody, json_ascii
from guidance_core.api.openai.chat_run import ChatRun, prepare
from guidance_core.api.openai.guidance_details import guidance_details
from guidance_core.api.openai.logprobs import TokenNames, token_logprobs
from guidance_core.api.openai.requests import logged_grammar
from guidance_core.api.openai.responses.bodies import ResponsesBody
from guidance_core.api.openai.responses.output import Event, Output
from guidance_core.api.openai.responses.translation import chat_body, rename
from guidance_core.api.openai.responses.truncation import shortened
from guidance_core.api.served_model import ServedModel
from guidance_core.api.streaming import started
from guidance_core.errors import RequestError
from guidance_core.generation import FinishReason


async def create_response(served: ServedModel, body: ResponsesBody) -> Response:
    """Answer an input, at once or as a stream.

    Raises:
        RequestError: before the first token; later failures become the stream's last event.
    """
    try:
        asked = await shortened(served, body) if body.truncation == "auto" else body
        run = await prepare(served, chat_body(asked))
    except RequestError as error:
        rename(error, body)
        raise
    grammar = None if run.compilation is None else run.compilation.grammar
    writer = _Writer(body, run, await GrammarLog.of(run.model, logged_grammar(body, grammar), choices=1))
    pieces = await started(run.answer.pieces())
    if body.stream:
        comments_every = served.settings.guidance.held_stream_comments if run.answer.held else None
        return event_stream(writer.events(pieces), failure=writer.failure, choices=1, comments_every=comments_every)
    async for _ in writer.told(pieces):
        pass
    return JsonBody(writer.response())


class _Writer:
    """Writes one response."""

    def __init__(self, body: ResponsesBody, run: ChatRun, log: GrammarLog) -> None:
        self._run = run
        self._log = log
        self._log_lines = ""
        self._with_guidance = body.include_guidance
        self._with_logprobs = body.with_logprobs
        self._names = TokenNames(in_ascii=body.stream)
        self._output = Output()
        self._finish_reason: FinishReason | None = None
        self._error: dict[str, Any] | None = None
        self._sequence = 0
        self._head = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "background": False,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": body.model,
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": None,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": None if body.reasoning is None else body.reasoning.effort, "summary": None},
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": False,
            "temperature": body.temperature,
            "text": {"format": _format(body), "verbosity": "medium"},
            "tool_choice": _dumped(body.tool_choice) or "auto",
            "tools": [{"description": None, "strict": None, **tool.model_dump()} for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p,
            "truncation": body.truncation,
            "user": body.user,
        }
        if body.return_expanded_prompt:
            self._head["expanded_prompt"] = run.prompt.text

    def response(self) -> dict[str, Any]:
        """The response as it stands."""
        done = self._finish_reason is not None
        status = "in_progress"
        if self._error is not None:
            status = "failed"
        elif done:
            status = "incomplete" if self._finish_reason == "length" else "completed"
        return {
            **self._head,
            "status": status,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": self._output.items,
            "usage": self._usage() if done else None,
            **({"llg_logs": self._log_lines} if self._log_lines else {}),
        }

    async def told(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[list[Event], None]:
        """What each piece of the answer is to be told as."""
        [reader] = self._run.readers
        async with aclosing(pieces):
            async for _, piece in pieces:
                logprobs: list[Json] = []
                if self._with_logprobs:
                    logprobs = token_logprobs(piece.logprobs or (), self._names)
                events: list[Event] = []
                for delta in reader.read(piece):
                    events += self._output.add(delta, logprobs)
                    logprobs = []
                self._log_lines += await self._log.lines(0, piece)
                if piece.finish_reason is not None:
                    self._finish_reason = piece.finish_reason
                    events += self._output.finish(complete=piece.finish_reason == "stop")
                yield events

    async def events(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
        """The whole stream."""
        yield self._written({"type": "response.created", "response": self.response()}) + self._written(
            {"type": "response.in_progress", "response": self.response()}
        )
        async for events in self.told(pieces):
            if events:
                yield b"".join(map(self._written, events))
        response = self.response()
        yield self._written({"type": f"response.{response['status']}", "response": response})

    def failure(self, error: RequestError) -> bytes:
        """The event that ends a stream which failed."""
        self._error = {"code": "server_error" if error.status >= 500 else error.code, "message": error.message}
        self._output.abandon()
        return self._written({"type": "response.failed", "response": self.response()})

    def _written(self, event: Event) -> bytes:
        numbered = {**event, "sequence_number": self._sequence}
        self._sequence += 1
        return f"event: {event['type']}\ndata: {json_ascii(numbered)}\n\n".encode("ascii")

    def _usage(self) -> dict[str, Any]:
        answer, compilation = self._run.answer, self._run.compilation
        usage: dict[str, Any] = {
            "input_tokens": answer.prompt_tokens,
            "input_tokens_details": {"cached_tokens": answer.cached_tokens},
            "output_tokens": answer.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        }
        if self._with_guidance:
            usage["guidance"] = None if compilation is None else guidance_details([answer], compilation)
        return usage


def _format(body: ResponsesBody) -> Any:
    wanted = None if body.text is None else body.text.format
    return {"type": "text"} if wanted is None else wanted.model_dump(by_alias=True, exclude_unset=True)


def _dumped(choice: Any) -> Any:
    return choice if choice is None or isinstance(choice, str) else choice.model_dump()

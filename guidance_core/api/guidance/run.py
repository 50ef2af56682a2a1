"""A checked body → a generation request, and its answer as events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from guidance_core.api.answer import Answer
from guidance_core.api.attempt import Piece, TextOptions
from guidance_core.api.constrained import compiled
from guidance_core.api.events import data_event
from guidance_core.api.grammar_log import GrammarLog
from guidance_core.api.guidance.bodies import RunBody
from guidance_core.api.json_text import finite
from guidance_core.api.openai.bodies import ChatBody
from guidance_core.api.openai.conversation import prompt_of
from guidance_core.api.resampling import CheckBudget
from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.errors import ContextLengthExceeded, RequestError
from guidance_core.generation import GenerationRequest, Grammar, PromptImage, SamplingParams
from guidance_core.grammar import constraint
from guidance_core.output import TextDelta, TokenTextLogprob

_SPACE = " "
"""Llgtrt's prompt where there is none and the model has no token that begins a text."""

DONE = b"data: [DONE]\n\n"


async def answer_of(served: ServedModel, model: LoadedModel, body: RunBody) -> tuple[Answer, Grammar]:
    """What to generate for a body.

    Raises:
        RequestError: as `Executor.check`.
    """
    settings = served.settings.guidance
    found = constraint.llguidance(body.controller_arg.grammar)
    grammar = (await compiled(model, settings, found, param="controller_arg.grammar", stream=True)).grammar
    prompt_ids, images = await _prompt(served, model, body)
    context = model.executor.limits().max_model_len
    if len(prompt_ids) >= context:
        raise ContextLengthExceeded(
            f"The prompt has {len(prompt_ids)} tokens; the model's context of {context} tokens leaves no room for an "
            "answer: shorten the prompt."
        )
    request = GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompt_ids=prompt_ids,
        sampling=SamplingParams(
            max_tokens=body.max_tokens or context - len(prompt_ids),
            temperature=body.temperature,
            top_p=body.top_p,
            logprobs=0,
        ),
        grammar=grammar,
        images=images,
    )
    budget = CheckBudget(settings.check_attempts, settings.check_tokens)
    return Answer(model, request, TextOptions(keep_leading_space=True), budget), grammar


async def _prompt(
    served: ServedModel, model: LoadedModel, body: RunBody
) -> tuple[tuple[int, ...], tuple[PromptImage, ...]]:
    context = model.executor.limits().max_model_len
    if body.messages is not None:
        conversation = ChatBody(model=served.name, messages=body.messages)
        written = await prompt_of(model, served.settings.model, conversation, [], None)
        return written.ids, written.images
    prompt = body.prompt or ""
    prompt_ids = await off_the_loop(len(prompt), lambda: model.prompts.completion(prompt, context=context))
    return prompt_ids or model.prompts.completion(_SPACE), ()


class RunWriter:
    """Writes the events of one run."""

    def __init__(self, answer: Answer, log: GrammarLog, model_name: str) -> None:
        """Take the answer and what follows it through its grammar."""
        self._answer = answer
        self._log = log
        self._model_name = model_name

    def initial(self) -> bytes:
        """The first event."""
        return data_event(
            {
                "id": f"run-{uuid.uuid4()}",
                "object": "initial-run",
                "created": int(time.time()),
                "model": self._model_name,
            }
        )

    async def piece(self, piece: TextDelta) -> bytes:
        """The event of the next piece."""
        entries = piece.logprobs or ()
        finish_reason = {} if piece.finish_reason is None else {"finish_reason": piece.finish_reason}
        return self._run(
            {
                "index": 0,
                **finish_reason,
                "text": piece.text,
                "error": "",
                "logs": await self._log.lines(0, piece),
                "storage": [],
                "micros": 0,
                "logprobs": {"content": [_logprob(entry) for entry in entries]} if entries else None,
            }
        )

    def failure(self, error: RequestError) -> bytes:
        """The event that ends a run which failed after its first token."""
        return self._run(
            {"index": 0, "text": "", "error": error.message, "logs": "", "storage": [], "micros": 0, "logprobs": None}
        )

    def _run(self, fork: dict[str, Any]) -> bytes:
        forced = self._answer.guidance[0].forced_tokens
        sampled = self._answer.completion_tokens - forced
        # In AICI, where this protocol comes from, the tokens of the prompt count as forced ones.
        fast_forward = self._answer.prompt_tokens + forced
        usage = {"sampled_tokens": sampled, "ff_tokens": fast_forward, "cost": 2 * sampled + fast_forward}
        return data_event({"object": "run", "forks": [fork], "usage": usage})


async def run_events(writer: RunWriter, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
    """All events of a run."""
    yield writer.initial()
    async with aclosing(pieces):
        async for _, piece in pieces:
            yield await writer.piece(piece)
    yield DONE


def _logprob(entry: TokenTextLogprob) -> dict[str, Any]:
    chosen = {"token": entry.token, "logprob": finite(entry.logprob), "bytes": list(entry.spelling.raw)}
    return {**chosen, "top_logprobs": [chosen]}

"""An executor that answers what a test tells it to: no model, every delta and every failure at will."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from guidance_core.errors import ContextLengthExceeded, QueueFull
from guidance_core.executors.base import Executor, ExecutorStats, Health, ModelLimits
from guidance_core.generation import FinishReason, GenerationRequest, TokenDelta, TokenLogprob

Script = Callable[[GenerationRequest, int], Sequence[TokenDelta | Exception]]
"""(request, choice index) → what happens, step by step."""


class ScriptedExecutor(Executor):
    """Steps through a script per choice, round robin.

    Attributes:
        script: set by the test.
        pause_at: the step before which every answer waits for ever, or None.
        running: requests that are being answered.
        requests: every request so far.
        finished_choices: what `finish_choice` was told.
        full: refuse everything, as if the queue were full.
    """

    name = "scripted"

    def __init__(self, limits: ModelLimits) -> None:
        self.script: Script = lambda request, index: [TokenDelta(index=index, finish_reason="stop")]
        self.pause_at: int | None = None
        self.running: set[str] = set()
        self.requests: list[GenerationRequest] = []
        self.finished_choices: list[tuple[str, int]] = []
        self.full = False
        self.state = Health("ready")
        self._limits = limits

    async def start(self) -> None: ...

    async def shutdown(self) -> None:
        self.state = Health("stopped", "Shut down.")

    def limits(self) -> ModelLimits:
        return self._limits

    def check(self, request: GenerationRequest) -> None:
        if self.full:
            raise QueueFull("256 requests are waiting already: try again later.", retry_after=2)
        if len(request.prompt_ids) + request.sampling.max_tokens > self._limits.max_model_len:
            raise ContextLengthExceeded("Too long.", param="max_tokens")

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        self.check(request)
        self.requests.append(request)
        self.running.add(request.request_id)
        try:
            scripts = [list(self.script(request, index)) for index in range(request.sampling.n)]
            for position in range(max(map(len, scripts))):
                for script in scripts:
                    if position < len(script):
                        await (asyncio.sleep(0) if position != self.pause_at else asyncio.Event().wait())
                        item = script[position]
                        if isinstance(item, Exception):
                            raise item
                        yield item
        finally:
            self.running.discard(request.request_id)

    def finish_choice(self, request_id: str, index: int) -> None:
        self.finished_choices.append((request_id, index))

    def health(self) -> Health:
        return self.state

    def stats(self) -> ExecutorStats:
        return ExecutorStats(running=len(self.running), slots=8, steps=41, grammar_misses=2)


def answer(*token_ids: int, finish_reason: FinishReason = "stop", stop_token_id: int | None = 2) -> Script:
    """Answer these tokens, one a step, with the first one out of a prefix cache hit of three tokens."""

    def script(request: GenerationRequest, index: int) -> list[TokenDelta]:
        deltas = [
            TokenDelta(
                index=index,
                token_ids=(token_id,),
                logprobs=_logprobs(request, token_id),
                cached_tokens=3 if i == 0 else None,
                prompt_logprobs=prompt_logprobs(request) if i == index == 0 else None,
            )
            for i, token_id in enumerate(token_ids)
        ]
        end = stop_token_id if finish_reason == "stop" else None
        return [*deltas, TokenDelta(index=index, finish_reason=finish_reason, stop_token_id=end)]

    return script


def prompt_logprobs(request: GenerationRequest) -> tuple[TokenLogprob, ...] | None:
    """Of the i-th token -i, and its likeliest rivals are the tokens after it by id."""
    k = request.sampling.prompt_logprobs
    if k is None:
        return None
    rivals = range(1, k + 1)
    return tuple(
        TokenLogprob(token_id, -float(i), tuple((token_id + j, -i + 0.5 / j) for j in rivals), rank=k + 1)
        for i, token_id in enumerate(request.prompt_ids[1:], start=1)
    )


def _logprobs(request: GenerationRequest, token_id: int) -> tuple[TokenLogprob, ...] | None:
    k = request.sampling.logprobs
    if k is None:
        return None
    return (TokenLogprob(token_id, -0.5, tuple((token_id + i, -0.5 - i) for i in range(k))),)

"""How tests ask an executor: requests, whole answers (the form of their streams is checked), and statistics."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from guidance_core.executors.base import Executor, ExecutorStats
from guidance_core.generation import FinishReason, GenerationRequest, Grammar, SamplingParams, TokenLogprob

_ids = itertools.count()


@dataclass
class Answer:
    """One choice, put together from its deltas."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    forced_tokens: int = 0
    seen_at: list[float] = field(default_factory=list)


def make_request(prompt_ids: Sequence[int], grammar: Grammar | None = None, **sampling: object) -> GenerationRequest:
    """A request with an id of its own, greedy and of 12 tokens unless told otherwise."""
    params = SamplingParams(**{"max_tokens": 12, "temperature": 0.0, **sampling})  # type: ignore[arg-type]
    return GenerationRequest(
        request_id=f"request-{next(_ids)}", prompt_ids=tuple(prompt_ids), sampling=params, grammar=grammar
    )


async def choices(executor: Executor, request: GenerationRequest) -> list[Answer]:
    """All choices of a request; the form of the stream is checked on the way."""
    answers = [Answer() for _ in range(request.sampling.n)]
    async for delta in executor.generate(request):
        answer = answers[delta.index]
        assert answer.finish_reason is None, "nothing comes after the finish reason"
        if delta.cached_tokens is not None:
            assert not answer.seen_at, "cached_tokens is on the first delta only"
            answer.cached_tokens = delta.cached_tokens
        else:
            assert answer.seen_at, "cached_tokens is on the first delta"
        if delta.prompt_logprobs is not None:
            assert not answer.seen_at, "prompt_logprobs are on the first delta only"
            answer.prompt_logprobs = delta.prompt_logprobs
        if request.sampling.logprobs is None:
            assert delta.logprobs is None
        else:
            assert delta.logprobs is not None
            assert [entry.token_id for entry in delta.logprobs] == list(delta.token_ids)
            answer.logprobs += delta.logprobs
        assert (delta.guidance is not None) == (request.grammar is not None)
        if delta.guidance is not None:
            answer.forced_tokens += delta.guidance.forced_tokens
            assert 0 <= delta.guidance.wait_seconds <= delta.guidance.mask_seconds + 1e-9
            assert delta.guidance.allowed_mass is None or 0 <= delta.guidance.allowed_mass <= 1
        assert delta.token_ids or delta.finish_reason is not None
        answer.token_ids += delta.token_ids
        answer.finish_reason = delta.finish_reason
        answer.stop_token_id = delta.stop_token_id
        answer.seen_at.append(time.monotonic())
    for answer in answers:
        assert answer.finish_reason is not None
        assert len(answer.token_ids) <= request.sampling.max_tokens
        if answer.finish_reason == "length" and answer.stop_token_id is None:
            assert len(answer.token_ids) == request.sampling.max_tokens
    return answers


async def answer(
    executor: Executor, prompt_ids: Sequence[int], grammar: Grammar | None = None, **sampling: object
) -> Answer:
    """The only choice of a request."""
    [only] = await choices(executor, make_request(prompt_ids, grammar, **sampling))
    return only


async def settled(executor: Executor, holds: Callable[[ExecutorStats], bool]) -> ExecutorStats:
    """The statistics, as soon as they are as expected."""
    deadline = time.monotonic() + 10
    while not holds(executor.stats()):
        assert time.monotonic() < deadline, executor.stats()
        await asyncio.sleep(0.005)
    return executor.stats()

"""One run of the executor, as text."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

from guidance_core import telemetry, tracing
from guidance_core.api.choice_guidance import ChoiceGuidance
from guidance_core.api.served_model import LoadedModel
from guidance_core.errors import RequestError
from guidance_core.generation import GenerationRequest, Grammar, TokenDelta, TokenLogprob
from guidance_core.output import ChoiceOutput, StopStrings, TextDelta
from guidance_core.output.reasoning import ReasoningParser
from guidance_core.reasoning import ReasoningMarkers

Piece = tuple[int, TextDelta]
"""(choice index, the next piece of its text)."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """The answer may begin with thoughts.

    Attributes:
        markers: the model's.
        begun: the prompt has begun them.
        gap: line breaks right after them are no part of the answer.
    """

    markers: ReasoningMarkers
    begun: bool
    gap: bool = True

    def parser(self) -> ReasoningParser:
        """For one choice's text."""
        return ReasoningParser(self.markers, begun=self.begun, gap=self.gap)


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How tokens become text; see `ChoiceOutput`."""

    skip_special_tokens: bool = True
    keep_leading_space: bool = False
    include_stop_string: bool = False
    thinking: Thinking | None = None


class Attempt:
    """Runs one `GenerationRequest` and turns its deltas into text.

    Attributes:
        outputs: by choice of the answer.
        guidance: by choice of the answer; only its forced tokens if the request does not ask for ``measure_mass``.
        cached_tokens: prompt tokens out of the prefix cache, once the first piece has come.
        prompt_logprobs: of the prompt's tokens after the first, where the request asks for them, once the first piece
            has come.
    """

    def __init__(
        self, model: LoadedModel, request: GenerationRequest, text: TextOptions, *, choices: Sequence[int]
    ) -> None:
        """Prepare; nothing runs before `pieces` is iterated.

        Args:
            model: answers it.
            request: what is asked.
            text: how tokens become text.
            choices: which choices of the answer the request's choices 0 … n-1 are.
        """
        stop = StopStrings(request.stop) if request.stop else None
        self.outputs = {
            choice: ChoiceOutput(
                model.detokenizer,
                stop=stop,
                skip_special_tokens=text.skip_special_tokens,
                keep_leading_space=text.keep_leading_space,
                include_stop_string=text.include_stop_string,
                under_grammar=request.grammar is not None,
                with_token_ids=request.token_ids,
                markers=None if text.thinking is None else text.thinking.markers,
            )
            for choice in choices
        }
        self.guidance = {choice: ChoiceGuidance() for choice in choices}
        self.cached_tokens = 0
        self.prompt_logprobs: tuple[TokenLogprob, ...] | None = None
        self._model_tag = model.tag
        self._executor = model.executor
        self._request = request
        self._choices = choices
        self._grammars = model.grammars

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The choices' pieces, interleaved; ends after the last choice's last one. Closing it stops the work.

        Raises:
            RequestError: as `Executor.generate`.
        """
        request = self._request
        unfinished = len(self.outputs)
        telemetry.PROMPT_TOKENS.inc(len(request.prompt_ids))
        span, failure = tracing.GenerationSpan(self._model_tag, request), None
        try:
            async with aclosing(self._executor.generate(request)) as deltas:
                timed = _timed(deltas, span)
                async for delta in timed if request.sampling.prompt_logprobs is None else self._after_prompt(timed):
                    choice = self._choices[delta.index]
                    output = self.outputs[choice]
                    if output.finish_reason is not None:
                        continue
                    self._count(choice, delta)
                    piece = output.push(delta)
                    if output.stop_string is not None:
                        self._executor.finish_choice(request.request_id, delta.index)
                        if request.grammar is not None:
                            complete = await self._is_complete(request.grammar, output.text)
                            piece = replace(piece, finish_reason=output.end_at_stop_string(complete=complete))
                    if piece.text or piece.logprobs or piece.token_ids or piece.finish_reason is not None:
                        yield choice, piece
                    if piece.finish_reason is not None:
                        telemetry.CHOICES.labels(piece.finish_reason).inc()
                        unfinished -= 1
                        if not unfinished:
                            break
        except RequestError as error:
            failure = error
            raise
        finally:
            tokens = sum(output.completion_tokens for output in self.outputs.values())
            telemetry.COMPLETION_TOKENS.inc(tokens)
            span.end(
                cached_tokens=self.cached_tokens,
                completion_tokens=tokens,
                forced_tokens=sum(guidance.forced_tokens for guidance in self.guidance.values()),
                finish_reasons=[output.finish_reason for output in self.outputs.values()],
                error=failure,
            )

    async def _after_prompt(self, deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        """The same deltas, but none before the prompt's log-probabilities, which are asked for, are known."""
        held: list[TokenDelta] = []
        async for delta in deltas:
            held.append(delta)
            if delta.prompt_logprobs is not None:
                self.prompt_logprobs = delta.prompt_logprobs
            if self.prompt_logprobs is not None:
                for each in held:
                    yield each
                held.clear()

    async def _is_complete(self, grammar: Grammar, text: str) -> bool:
        return await self._grammars.run(grammar, partial(self._grammars.accepts, grammar, text.encode()))

    def _count(self, choice: int, delta: TokenDelta) -> None:
        if delta.cached_tokens is not None and not self.cached_tokens:
            self.cached_tokens = delta.cached_tokens
            telemetry.CACHED_TOKENS.inc(delta.cached_tokens)
        if delta.guidance is not None:
            telemetry.observe_guidance(delta.guidance)
            if self._request.measure_mass:
                self.guidance[choice].add(delta.guidance)
            else:
                self.guidance[choice].forced_tokens += delta.guidance.forced_tokens


async def _timed(deltas: AsyncGenerator[TokenDelta, None], span: tracing.GenerationSpan) -> AsyncIterator[TokenDelta]:
    """The same deltas; the time between them goes to telemetry, the first one's to the span too."""
    histogram = telemetry.FIRST_TOKEN_SECONDS
    last = time.perf_counter()
    async for delta in deltas:
        now = time.perf_counter()
        histogram.observe(now - last)
        if histogram is telemetry.FIRST_TOKEN_SECONDS:
            span.first_token(now - last)
        histogram, last = telemetry.TOKEN_SECONDS, now
        yield delta

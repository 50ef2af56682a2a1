"""One request's answer as text: what dialects have in common between an executor and the wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from guidance_core import telemetry
from guidance_core.api.served_model import LoadedModel
from guidance_core.generation import GenerationRequest, TokenDelta
from guidance_core.output import ChoiceOutput, StopStrings, TextDelta

Piece = tuple[int, TextDelta]
"""(choice index, the next piece of its text)."""


class Answer:
    """The choices of one request, as text.

    Attributes:
        cached_tokens: prompt tokens out of the prefix cache, once the first piece has come.
    """

    def __init__(
        self,
        model: LoadedModel,
        request: GenerationRequest,
        *,
        skip_special_tokens: bool = True,
        keep_leading_space: bool = False,
    ) -> None:
        """Check a request; nothing runs before `pieces` is iterated.

        Args:
            model: answers it.
            request: what is asked.
            skip_special_tokens: see `ChoiceOutput`.
            keep_leading_space: see `ChoiceOutput`.

        Raises:
            RequestError: as `Executor.check`.
        """
        model.executor.check(request)
        stop = StopStrings(request.stop) if request.stop else None
        grammar = request.grammar
        in_grammar = None if grammar is None else lambda text: model.grammars.accepts(grammar, text.encode())
        self.cached_tokens = 0
        self._executor = model.executor
        self._request = request
        self._outputs = [
            ChoiceOutput(
                model.detokenizer,
                stop=stop,
                skip_special_tokens=skip_special_tokens,
                keep_leading_space=keep_leading_space,
                in_grammar=in_grammar,
            )
            for _ in range(request.sampling.n)
        ]

    @property
    def prompt_tokens(self) -> int:
        """Tokens in the prompt."""
        return len(self._request.prompt_ids)

    @property
    def completion_tokens(self) -> int:
        """Tokens answered so far, all choices together."""
        return sum(output.completion_tokens for output in self._outputs)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The choices' pieces, interleaved; ends after the last choice's last one. Closing it stops the work.

        Raises:
            RequestError: as `Executor.generate`.
        """
        unfinished = len(self._outputs)
        before = self.completion_tokens
        telemetry.PROMPT_TOKENS.inc(self.prompt_tokens)
        try:
            async with aclosing(self._executor.generate(self._request)) as deltas:
                async for delta in _timed(deltas):
                    output = self._outputs[delta.index]
                    if output.finish_reason is not None:
                        continue
                    self._count(delta)
                    piece = output.push(delta)
                    if output.stop_string is not None:
                        self._executor.finish_choice(self._request.request_id, delta.index)
                    if piece.text or piece.logprobs or piece.finish_reason is not None:
                        yield delta.index, piece
                    if piece.finish_reason is not None:
                        telemetry.CHOICES.labels(piece.finish_reason).inc()
                        unfinished -= 1
                        if not unfinished:
                            break
        finally:
            telemetry.COMPLETION_TOKENS.inc(self.completion_tokens - before)

    def _count(self, delta: TokenDelta) -> None:
        if delta.cached_tokens is not None and not self.cached_tokens:
            self.cached_tokens = delta.cached_tokens
            telemetry.CACHED_TOKENS.inc(delta.cached_tokens)
        if delta.guidance is not None:
            telemetry.FORCED_TOKENS.inc(delta.guidance.forced_tokens)
            telemetry.MASK_SECONDS.inc(delta.guidance.mask_seconds)
            telemetry.MASK_WAIT_SECONDS.inc(delta.guidance.wait_seconds)


async def _timed(deltas: AsyncGenerator[TokenDelta, None]) -> AsyncIterator[TokenDelta]:
    """The same deltas; the time between them goes to telemetry."""
    histogram = telemetry.FIRST_TOKEN_SECONDS
    last = time.perf_counter()
    async for delta in deltas:
        now = time.perf_counter()
        histogram.observe(now - last)
        histogram, last = telemetry.TOKEN_SECONDS, now
        yield delta


async def merged(answers: Sequence[Answer]) -> AsyncGenerator[tuple[Answer, Piece], None]:
    """The pieces of several answers as they come. The first failure ends them all; closing it stops them all."""
    if len(answers) == 1:
        async with aclosing(answers[0].pieces()) as pieces:
            async for piece in pieces:
                yield answers[0], piece
        return
    arrived: asyncio.Queue[tuple[Answer, Piece] | BaseException | None] = asyncio.Queue()

    async def run(answer: Answer) -> None:
        try:
            async with aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    arrived.put_nowait((answer, piece))
            arrived.put_nowait(None)
        except Exception as error:
            arrived.put_nowait(error)

    tasks = [asyncio.create_task(run(answer)) for answer in answers]
    unfinished = len(tasks)
    try:
        while unfinished:
            item = await arrived.get()
            if item is None:
                unfinished -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

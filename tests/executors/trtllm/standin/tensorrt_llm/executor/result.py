"""``tensorrt_llm/executor/result.py``: what a request answers, response by response."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tensorrt_llm.executor.utils import RequestError
from tensorrt_llm.sampling_params import SamplingParams

if TYPE_CHECKING:
    from tensorrt_llm.executor.proxy import GenerationExecutorProxy


@dataclass(slots=True)
class CompletionOutput:
    """One output of a request."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[Any] = field(default_factory=list)
    prompt_logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    generation_logits: Any = None
    _last_token_ids_len: int = field(default=0, init=False, repr=False)

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self.token_ids)

    @property
    def token_ids_diff(self) -> list[int]:
        """Tokens of the last response."""
        return self.token_ids[self._last_token_ids_len :]


@dataclass(frozen=True)
class Response:
    """What the worker sends: new tokens (the end token among them), or an error."""

    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None
    cached_tokens: int = 0
    error: str | None = None


class GenerationResult:
    """An async iterator over itself, growing."""

    def __init__(
        self, prompt_token_ids: list[int], params: SamplingParams, streaming: bool, executor: GenerationExecutorProxy
    ) -> None:
        self.request_id = -1
        self.prompt_token_ids = prompt_token_ids
        self.sampling_params = params
        self.outputs = [CompletionOutput(index) for index in range(params.best_of or 1)]
        self.cached_tokens = 0
        self._streaming = streaming
        self._executor = executor
        self._done = False
        self._aborted = False
        self.aqueue: asyncio.Queue[Response] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()

    @property
    def finished(self) -> bool:
        """Whether the last response has been handled."""
        return self._done

    def abort(self) -> None:
        """Ask the worker to stop; a last response says ``cancelled``, unless the request was still queued."""
        self._executor.abort_request(self.request_id)
        self._aborted = True

    def aborted(self) -> bool:
        """Whether `abort` was called."""
        return self._aborted

    async def aresult(self) -> GenerationResult:
        """The whole answer."""
        while not self._done:
            await self._step()
        return self

    def __aiter__(self) -> GenerationResult:
        return self

    async def __anext__(self) -> GenerationResult:
        if self._done:
            raise StopAsyncIteration
        await self._step()
        return self

    async def _step(self) -> None:
        response = await self.aqueue.get()
        if response.error is not None:
            # `_handle_response` raises here before it takes note of the end.
            raise RequestError(response.error)
        [output] = self.outputs
        self.cached_tokens = response.cached_tokens
        output._last_token_ids_len = len(output.token_ids)
        output.token_ids.extend(response.token_ids)
        self._done = response.finish_reason is not None
        if response.finish_reason == "stop_words":
            output.finish_reason = "stop"
            last = output.token_ids[-1]
            if last in (self.sampling_params.stop_token_ids or ()):
                output.stop_reason = last
                output.token_ids = output.token_ids[:-1]
        elif response.finish_reason == "end_id":
            output.finish_reason = "stop"
        else:
            output.finish_reason = response.finish_reason

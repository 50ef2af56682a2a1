"""One choice on its way through the engine: followed to its end, and aborted where nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from guidance_core.errors import GenerationFailed, RequestError
from guidance_core.executors.proof import Proof
from guidance_core.executors.trtllm.choice import Choice
from guidance_core.executors.trtllm.task import Failure, Report, Task
from guidance_core.generation import TokenDelta

_log = logging.getLogger(__name__)

_REPORT_SECONDS = 10.0
"""A report is sent before the engine samples; it comes later than the token only where the service is busy."""

Deltas = asyncio.Queue[TokenDelta | RequestError]
"""What a request's caller has yet to take: the deltas of all choices, and an error that ends them all."""


@dataclass(slots=True)
class Counts:
    """Totals since the service started; see `ExecutorStats`.

    Attributes:
        responses: of the engine.
    """

    responses: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    sampled_tokens: int = 0


class Flight:
    """A choice that the engine works on.

    Attributes:
        task: what our processors do for it.
        client_id: the engine's id of it.

    Args:
        task: see the attribute.
        result: the engine's ``RequestOutput`` (``tensorrt_llm/executor/result.py``, ``GenerationResult``).
        end_ids: tokens that end the answer; the first is what the engine knows as ``end_id``.
        proof: of the grammar, where there is one.
        deltas: where what is answered goes.
        counts: where it is counted.
        abort_timeout: seconds to wait until the engine has confirmed that it let go.
        explain: makes an error for the caller out of the engine's.
    """

    def __init__(
        self,
        task: Task,
        result: Any,
        *,
        end_ids: Sequence[int],
        proof: Proof | None,
        deltas: Deltas,
        counts: Counts,
        abort_timeout: float,
        explain: Callable[[Exception], RequestError],
    ) -> None:
        self.task = task
        self.client_id: int = result.request_id
        self._result = result
        self._end_id = next(iter(end_ids), None)
        stop_token_ids = task.request.sampling.stop_token_ids
        self._choice = Choice(
            task.request,
            task.index,
            own_ends=[token for token in end_ids if token not in stop_token_ids],
            proof=proof,
            report=self._drawn if task.draws else None,
        )
        self._deltas = deltas
        self._counts = counts
        self._abort_timeout = abort_timeout
        self._explain = explain
        self._is_open = True
        self._has_failed = False
        self._reports: dict[int, Report] = {}
        self._reported = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    def start(self, on_end: Callable[[Flight], None]) -> None:
        """Begin to follow it.

        Args:
            on_end: called once the engine has let go of it.
        """

        def end(_: object) -> None:
            # A task that is cancelled before its first step never runs.
            if self._runs and not self._result.aborted():
                self._result.abort()
            on_end(self)

        self._work = asyncio.create_task(self._follow())
        self._work.add_done_callback(end)

    def release(self) -> None:
        """Let it go: nobody waits for it any more. What has ended is left alone."""
        if self._is_open and self._work is not None:
            self._is_open = False
            self._work.cancel()

    def cut_off(self) -> None:
        """End it with ``stop``, and let it go."""
        if self._is_open:
            self._deltas.put_nowait(self._choice.cut_off())
            self.release()

    def take(self, report: Report | Failure) -> None:
        """Hear from our processors."""
        if isinstance(report, Failure):
            self._deltas.put_nowait(GenerationFailed(report.message))
        else:
            # Every rank of a tensor-parallel group says the same.
            self._reports[report.position] = report
            self._reported.set()

    async def _follow(self) -> None:
        try:
            await self._answer()
            if self._is_open:
                self._deltas.put_nowait(GenerationFailed("TensorRT-LLM gave the request up."))
        except Exception as error:
            self._deltas.put_nowait(error if isinstance(error, RequestError) else self._explain(error))
        finally:
            self._is_open = False
            if self._runs:
                self._result.abort()
                await self._confirm()

    @property
    def _runs(self) -> bool:
        """Whether the engine still has it. What failed in the engine never becomes ``finished``: `_handle_response` in
        ``tensorrt_llm/executor/result.py`` raises before it says so.
        """
        return not (self._result.finished or self._has_failed)

    async def _next(self) -> Any:
        """What the engine says next, None at the end; raises what failed in it."""
        try:
            return await anext(self._result, None)
        except Exception:
            self._has_failed = True
            raise

    async def _answer(self) -> None:
        """Turn what the engine says into deltas, up to the one with a finish reason."""
        choice, counts = self._choice, self._counts
        seen = 0
        while (output := await self._next()) is not None:
            counts.responses += 1
            [completion] = output.outputs
            if completion.finish_reason == "cancelled":
                return
            new_ids = completion.token_ids[seen:]
            # 1.2 counts cached tokens on the PyTorch backend; compiled engines do not say.
            cached = getattr(output, "cached_tokens", 0)
            if not seen:
                counts.prompt_tokens += len(self.task.request.prompt_ids)
                counts.cached_tokens += cached
            seen += len(new_ids)
            stop = completion.stop_reason if isinstance(completion.stop_reason, int) else self._end_id
            before = choice.sampled
            delta = await choice.take(
                new_ids, engine_finish=completion.finish_reason, engine_stop=stop, cached_tokens=cached
            )
            counts.sampled_tokens += choice.sampled - before
            if delta is not None:
                self._deltas.put_nowait(delta)
                if delta.finish_reason is not None:
                    self._is_open = False
                    return

    async def _confirm(self) -> None:
        """Wait until the engine has let go, so that statistics say what is so."""

        async def drain() -> None:
            async for _ in self._result:
                pass

        try:
            await asyncio.wait_for(drain(), self._abort_timeout)
        except asyncio.TimeoutError:
            # One that was still queued is dropped without a word (`PyExecutor._handle_canceled_requests`).
            _log.debug("TensorRT-LLM did not confirm that a request was aborted.")
        except Exception as error:
            _log.debug("A request that was aborted failed: %s", error)

    async def _drawn(self, position: int, token: int) -> Report:
        """What our processor drew, which must be the engine's token.

        For a prompt that is run in chunks there are several reports on the first position: the last one counts.
        """
        deadline = time.monotonic() + _REPORT_SECONDS
        while True:
            report = self._reports.get(position)
            if report is not None and report.token_id == token:
                del self._reports[position]
                return report
            self._reported.clear()
            try:
                await asyncio.wait_for(self._reported.wait(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise GenerationFailed(
                    "TensorRT-LLM answered a token that our logits processor did not draw; its worker's log says why."
                ) from None

"""The embedded executor: looks after the process that runs the model, and talks to it. Importing it brings no torch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from guidance_core.config import Settings
from guidance_core.errors import ExecutorUnavailable, RequestError, Unsupported
from guidance_core.executors.base import Executor, ExecutorStats, Health, ModelLimits, State
from guidance_core.executors.request_limits import check_request, check_room, refuse_images, refuse_lora
from guidance_core.executors.torch.messages import (
    Abort,
    FinishChoice,
    Load,
    LoadFailed,
    Ready,
    Report,
    Stepped,
    Submit,
)
from guidance_core.executors.torch.process import EngineProcess
from guidance_core.generation import GenerationRequest, TokenDelta

T = TypeVar("T")

_log = logging.getLogger(__name__)

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 30.0
_HEALTHY_SECONDS = 60.0
"""A process that served for so long starts with a clean record: the next crash does not count as a further one."""

_STOPPING_SECONDS = 5.0

_SHUTTING_DOWN = "The service is shutting down."


class TorchExecutor(Executor):
    """Runs a Hugging Face model in a process of its own, and starts it again when it dies.

    Args:
        model_path: a checkpoint folder.
        settings: all of them; the process gets them too.
    """

    name = "torch"

    def __init__(self, model_path: Path, settings: Settings) -> None:
        self._load = Load(model_path, settings)
        self._settings = settings
        self._health = Health("stopped", "The model has not been loaded.")
        self._process: EngineProcess | None = None
        self._ready: asyncio.Future[Ready] | None = None
        self._loaded: Ready | None = None
        self._streams: dict[int, _Stream] = {}
        self._keys: dict[str, int] = {}
        self._next_key = itertools.count()
        self._open_choices = 0
        self._busy_since = 0.0
        self._stats = ExecutorStats()
        self._earlier_stats = ExecutorStats()
        self._restarts = 0
        self._crashes = 0
        self._ready_since = 0.0
        self._load_seconds = 1.0
        self._killed_because: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """See `Executor.start`."""
        if self._health.state not in ("stopped", "failed"):
            raise RuntimeError("The executor has been started already.")
        self._set_state("starting", "The model is being loaded.")
        try:
            await self._launch()
        except ExecutorUnavailable as error:
            if self.health().state == "starting":  # and not shut down meanwhile
                self._set_state("failed", error.message)
            raise
        except asyncio.CancelledError:
            self._set_state("stopped", "The start was cancelled.")
            raise
        self._spawn(self._watch())

    async def shutdown(self) -> None:
        """See `Executor.shutdown`."""
        self._set_state("stopped", "The executor is shut down.")
        for task in list(self._tasks):
            task.cancel()
        self._fail_streams(ExecutorUnavailable(_SHUTTING_DOWN))
        process, self._process = self._process, None
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(ExecutorUnavailable(_SHUTTING_DOWN))
        if process is not None:
            process.stop()
            if not await asyncio.to_thread(process.join, _STOPPING_SECONDS):
                process.kill()
                await asyncio.to_thread(process.join, _STOPPING_SECONDS)

    def limits(self) -> ModelLimits:
        """See `Executor.limits`."""
        return self._loaded_or_raise().limits

    def check(self, request: GenerationRequest) -> None:
        """See `Executor.check`."""
        loaded = self._loaded_or_raise()
        if self._health.state != "ready":
            raise self._unavailable()
        check_request(request, loaded.limits, max_choices=self._settings.server.max_choices)
        if request.grammar is not None and loaded.no_grammars is not None:
            raise Unsupported(f"This model cannot be constrained by a grammar. {loaded.no_grammars}")
        if request.images and loaded.no_images is not None:
            refuse_images(request, loaded.no_images)
        if self._settings.lora.folder is None:
            refuse_lora(request, "set lora.folder, where adapters are.")
        capacity = loaded.stats.slots + self._settings.server.max_queue_size
        check_room(request, in_flight=self._keys, open_choices=self._open_choices, capacity=capacity)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        """See `Executor.generate`."""
        self.check(request)
        process = self._process
        assert process is not None
        key = next(self._next_key)
        stream = self._streams[key] = _Stream(request.sampling.n)
        self._keys[request.request_id] = key
        if not self._open_choices:
            self._busy_since = time.monotonic()
        self._open_choices += stream.open_choices
        process.send(Submit(key, request))
        try:
            async for delta in stream:
                yield delta
        finally:
            del self._keys[request.request_id]
            # A failed stream is forgotten already; one that is not has choices to stop only if it was left early.
            if self._streams.pop(key, None) is not None and stream.open_choices:
                self._open_choices -= stream.open_choices
                process.send(Abort(key))

    def finish_choice(self, request_id: str, index: int) -> None:
        """See `Executor.finish_choice`."""
        key = self._keys.get(request_id)
        if key is not None and self._process is not None:
            self._process.send(FinishChoice(key, index))

    def no_images(self) -> str | None:
        """See `Executor.no_images`."""
        return self._loaded_or_raise().no_images

    def details(self) -> dict[str, str]:
        """See `Executor.details`."""
        return {"images": "yes"} if self._loaded is not None and self._loaded.no_images is None else {}

    def health(self) -> Health:
        """See `Executor.health`."""
        return self._health

    def stats(self) -> ExecutorStats:
        """See `Executor.stats`."""
        return _add(self._earlier_stats, self._stats, self._restarts)

    def _loaded_or_raise(self) -> Ready:
        if self._loaded is None:
            raise self._unavailable()
        return self._loaded

    def _unavailable(self) -> ExecutorUnavailable:
        health = self._health
        if health.state in ("failed", "stopped"):
            return ExecutorUnavailable(health.detail)
        return ExecutorUnavailable(f"{health.detail} Try again.", retry_after=math.ceil(self._load_seconds))

    def _set_state(self, state: State, detail: str = "") -> None:
        self._health = Health(state, detail)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _launch(self) -> None:
        """Start a process and wait until it has loaded the model."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Ready] = loop.create_future()
        self._ready = ready
        started = time.monotonic()

        def tell(callback: Callable[[EngineProcess, T], None], what: T) -> None:
            # The loop is closed when the service ends without a shutdown.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(callback, process, what)

        try:
            process = EngineProcess(
                self._load,
                on_report=lambda report: tell(self._on_report, report),
                on_exit=lambda how: tell(self._on_exit, how),
            )
        except OSError as error:
            raise ExecutorUnavailable(f"The model's process could not be started: {error}") from error
        self._process = process
        timeout = self._settings.torch.start_timeout
        try:
            self._loaded = await asyncio.wait_for(ready, timeout)
        except asyncio.TimeoutError:
            raise ExecutorUnavailable(
                f"Loading the model took longer than {timeout:g} s: raise torch.start_timeout, or serve a smaller one."
            ) from None
        finally:
            if not ready.done() or ready.cancelled() or ready.exception() is not None:
                process.kill()
                if self._process is process:
                    self._process = None
        if self._process is not process:  # it was ready at the very moment of a shutdown
            raise ExecutorUnavailable(_SHUTTING_DOWN)
        self._stats = self._loaded.stats
        self._load_seconds = time.monotonic() - started
        self._ready_since = time.monotonic()
        self._set_state("ready")

    def _on_report(self, process: EngineProcess, report: Report) -> None:
        if process is not self._process:
            return
        if isinstance(report, Stepped):
            self._stats = report.stats
            for key, delta in report.deltas:
                stream = self._streams.get(key)
                if stream is not None:
                    if delta.finish_reason is not None:
                        self._open_choices -= 1
                    stream.put(delta)
            for key, error in report.failures:
                stream = self._streams.pop(key, None)
                if stream is not None:
                    self._open_choices -= stream.open_choices
                    stream.fail(error)
        elif self._ready is not None and not self._ready.done():
            if isinstance(report, LoadFailed):
                self._ready.set_exception(ExecutorUnavailable(report.message))
            else:
                self._ready.set_result(report)

    def _on_exit(self, process: EngineProcess, how: str) -> None:
        if process is not self._process:
            return
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(
                ExecutorUnavailable(f"The model's process {how} while it was loading; its output has more.")
            )
            return
        self._process = None
        why, self._killed_because = self._killed_because or f"The model's process {how}", None
        _log.error("%s with %d answers in flight; it is being restarted.", why, self._open_choices)
        if time.monotonic() - self._ready_since > _HEALTHY_SECONDS:
            self._crashes = 0
        self._set_state("restarting", f"{why} and is being restarted.")
        self._earlier_stats, self._stats = self.stats(), ExecutorStats()
        self._fail_streams(self._unavailable())
        self._spawn(self._restart(why))

    async def _restart(self, why: str) -> None:
        ended = time.monotonic()
        while True:
            delay = min(_FIRST_DELAY * 2**self._crashes, _LONGEST_DELAY)
            self._crashes += 1
            await asyncio.sleep(delay)
            self._restarts += 1
            try:
                await self._launch()
            except ExecutorUnavailable as error:
                # Python 3.10 and 3.11 drop a cancellation that meets the end of what `wait_for` waits for.
                if self.health().state == "stopped":
                    return
                _log.error("The model could not be loaded again: %s", error.message)
                self._set_state("restarting", f"{why} and could not be restarted yet: {error.message}")
            else:
                _log.info("The model answers again, %.1f s after its process ended.", time.monotonic() - ended)
                return

    async def _watch(self) -> None:
        """Kill a process that has work and does not get on with it."""
        timeout = self._settings.torch.step_timeout
        while True:
            await asyncio.sleep(min(1.0, timeout / 4))
            if self._process is None or not self._open_choices or self._health.state != "ready":
                continue
            if time.monotonic() - max(self._busy_since, self._process.last_report) > timeout:
                self._killed_because = f"The model's process hung (no step in {timeout:g} s, torch.step_timeout)"
                self._process.kill()

    def _fail_streams(self, error: RequestError) -> None:
        streams, self._streams = list(self._streams.values()), {}
        self._open_choices = 0
        for stream in streams:
            stream.fail(error)


class _Stream:
    """What a request's caller has yet to take.

    Attributes:
        open_choices: how many choices the process has not finished.
    """

    __slots__ = ("_deltas", "_error", "_waiter", "open_choices")

    def __init__(self, choices: int) -> None:
        self.open_choices = choices
        self._deltas: deque[TokenDelta] = deque()
        self._error: RequestError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, delta: TokenDelta) -> None:
        """One more delta."""
        if delta.finish_reason is not None:
            self.open_choices -= 1
        self._deltas.append(delta)
        self._wake()

    def fail(self, error: RequestError) -> None:
        """No more deltas will come."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> TokenDelta:
        while not self._deltas:
            if self._error is not None:
                # One error may end many requests, and raising it adds to its traceback.
                raise copy(self._error)
            if not self.open_choices:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._deltas.popleft()


def _add(earlier: ExecutorStats, now: ExecutorStats, restarts: int) -> ExecutorStats:
    """The present, with the counters of earlier processes added."""
    return replace(
        now,
        steps=earlier.steps + now.steps,
        prompt_tokens=earlier.prompt_tokens + now.prompt_tokens,
        cached_tokens=earlier.cached_tokens + now.cached_tokens,
        sampled_tokens=earlier.sampled_tokens + now.sampled_tokens,
        forced_tokens=earlier.forced_tokens + now.forced_tokens,
        grammar_hits=earlier.grammar_hits + now.grammar_hits,
        grammar_misses=earlier.grammar_misses + now.grammar_misses,
        grammar_evictions=earlier.grammar_evictions + now.grammar_evictions,
        restarts=restarts,
    )

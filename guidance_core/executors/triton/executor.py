"""The executor of models on a Triton server: admission, streams, and the server's health."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import replace
from pathlib import Path

import grpc
from tokenizers import Tokenizer

from guidance_core.config import Settings
from guidance_core.errors import ExecutorUnavailable, GenerationFailed, RequestError
from guidance_core.executors.base import Executor, ExecutorStats, Health, ModelLimits, State
from guidance_core.executors.proof import Proofs
from guidance_core.executors.request_limits import (
    check_request,
    check_room,
    refuse_bad_words,
    refuse_images,
    refuse_lora,
    refuse_priority,
    refuse_prompt_logprobs,
)
from guidance_core.executors.triton.checkpoint import read_limits
from guidance_core.executors.triton.connection import Connection, Responses
from guidance_core.executors.triton.discovery import discover
from guidance_core.executors.triton.interface import ModelInterface, StopModel, UnknownInterface, deviation
from guidance_core.generation import GenerationRequest, GuidanceTimes, TokenDelta
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from guidance_core.prompt.model_folder import load_tokenizer

_log = logging.getLogger(__name__)

_FIRST_DELAY = 0.1
_STOP_AGAIN = (0.0, 0.2, 1.0, 5.0)
"""Seconds between the attempts to stop a request that has no answer yet: it may not have reached the model."""

_STOPPING_SECONDS = 1.0
"""How long a shutdown waits for the server to take note of what it need not do any more."""


class TritonExecutor(Executor):
    """Lets a Triton server generate, one streamed request for each choice.

    Args:
        model_path: folder of the model that the server runs; weights are not needed.
        settings: all of them.
    """

    name = "triton"

    def __init__(self, model_path: Path, settings: Settings) -> None:
        self._model_path = model_path
        self._settings = settings
        self._health = Health("stopped", "The Triton server has not been asked yet.")
        self._connection: Connection | None = None
        self._interface: ModelInterface | None = None
        self._limits: ModelLimits | None = None
        self._tokenizer: Tokenizer | None = None
        self._proofs: Proofs | None = None
        self._slots = asyncio.Semaphore(settings.triton.max_concurrency)
        self._requests: dict[str, list[_Choice]] = {}
        self._open_choices = 0
        self._stats = ExecutorStats(slots=settings.triton.max_concurrency)
        # TensorRT-LLM's C++ backend reads ids as numbers where they start with digits: only whole numbers stay unique.
        self._next_id = itertools.count(secrets.randbits(62))
        self._suspect = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stops: weakref.WeakSet[asyncio.Task[None]] = weakref.WeakSet()

    async def start(self) -> None:
        """See `Executor.start`."""
        if self._health.state not in ("stopped", "failed"):
            raise RuntimeError("The executor has been started already.")
        self._set_state("starting", f"The Triton server at {self._settings.triton.url} is being waited for.")
        try:
            model = self._settings.model
            limits = read_limits(
                self._model_path,
                self._settings.triton.max_model_len,
                eos_token=model.eos_token,
                vocab_size=model.n_vocab_override,
            )
            self._tokenizer = await asyncio.to_thread(load_tokenizer, self._model_path)
            ll_tokenizer = await asyncio.to_thread(
                load_ll_tokenizer, self._model_path, limits.vocab_size, limits.eos_token_ids
            )
            self._proofs = Proofs(ll_tokenizer, self._settings.guidance, deviation)
            self._connection = Connection(self._settings.triton)
            self._interface = await self._wait_for_server(self._connection, limits)
            if self.health().state != "starting":
                raise ExecutorUnavailable("The service is shutting down.")
        except (ExecutorUnavailable, ValueError, OSError) as error:
            if self.health().state == "starting":  # and not shut down meanwhile
                self._set_state("failed", str(error))
            await self._close()
            raise ExecutorUnavailable(str(error)) from error
        except asyncio.CancelledError:
            self._set_state("stopped", "The start was cancelled.")
            await self._close()
            raise
        self._limits = limits
        self._set_state("ready")
        self._spawn(self._watch_server())
        self._spawn(self._watch_streams())

    async def shutdown(self) -> None:
        """See `Executor.shutdown`."""
        self._set_state("stopped", "The executor is shut down.")
        choices = list(itertools.chain.from_iterable(self._requests.values()))
        for choice in choices:
            choice.give_up(ExecutorUnavailable("The service is shutting down."))
        await asyncio.gather(*(choice.task for choice in choices if choice.task is not None), return_exceptions=True)
        if self._stops:
            await asyncio.wait(self._stops, timeout=_STOPPING_SECONDS)
        for task in list(self._tasks):
            task.cancel()
        await self._close()

    def limits(self) -> ModelLimits:
        """See `Executor.limits`."""
        if self._limits is None:
            raise self._unavailable()
        return self._limits

    def check(self, request: GenerationRequest) -> None:
        """See `Executor.check`."""
        limits = self.limits()
        if self._health.state != "ready" or self._interface is None:
            raise self._unavailable()
        check_request(request, limits, max_choices=self._settings.server.max_choices)
        refuse_lora(request, "the executor 'triton' applies none; 'torch' and 'trtllm' do.")
        refuse_priority(request, self.name)
        refuse_images(request, str(self.no_images()))
        refuse_bad_words(request, self.name)
        refuse_prompt_logprobs(request, self.name)
        self._interface.check(request)
        capacity = self._settings.triton.max_concurrency + self._settings.server.max_queue_size
        check_room(request, in_flight=self._requests, open_choices=self._open_choices, capacity=capacity)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        """See `Executor.generate`."""
        self.check(request)
        arrived: asyncio.Queue[TokenDelta | RequestError] = asyncio.Queue()
        seed = request.sampling.seed if request.sampling.seed is not None else secrets.randbits(64)
        choices = [_Choice(request, index, seed, arrived.put_nowait) for index in range(request.sampling.n)]
        self._requests[request.request_id] = choices
        self._open_choices += len(choices)
        for choice in choices:
            choice.start(self._answer(choice), self._forget)
        unfinished = len(choices)
        try:
            while unfinished:
                item = await arrived.get()
                if isinstance(item, RequestError):
                    # One error may end many requests, and raising it adds to its traceback.
                    raise copy(item)
                unfinished -= item.finish_reason is not None
                yield item
        finally:
            del self._requests[request.request_id]
            for choice in choices:
                self._forget(choice)
                choice.give_up()

    def finish_choice(self, request_id: str, index: int) -> None:
        """See `Executor.finish_choice`."""
        choices = self._requests.get(request_id, [])
        if index < len(choices):
            choices[index].give_up(choices[index].delta(TokenDelta(index=index, finish_reason="stop")))

    def health(self) -> Health:
        """See `Executor.health`."""
        return self._health

    def stats(self) -> ExecutorStats:
        """See `Executor.stats`."""
        grammars = None if self._proofs is None else self._proofs.prototypes
        return replace(
            self._stats,
            waiting=max(0, self._open_choices - self._stats.running),
            grammar_hits=0 if grammars is None else grammars.hits,
            grammar_misses=0 if grammars is None else grammars.misses,
            grammar_evictions=0 if grammars is None else grammars.evictions,
        )

    def _unavailable(self) -> ExecutorUnavailable:
        return ExecutorUnavailable(
            self._health.detail, retry_after=None if self._health.state in ("failed", "stopped") else 1
        )

    def _set_state(self, state: State, detail: str = "") -> None:
        if state != self._health.state and state in ("ready", "restarting"):
            _log.log(logging.INFO if state == "ready" else logging.ERROR, "Triton: %s", detail or "the model is ready.")
        self._health = Health(state, detail)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, choice: _Choice) -> None:
        """Generate one choice; a failure is raised."""
        async with self._slots:
            connection, interface, request = self._connection, self._interface, choice.request
            assert connection is not None
            assert interface is not None
            assert self._proofs is not None
            proof = None if request.grammar is None else await self._proofs.start(request.grammar)
            request_id = str(next(self._next_id))
            message = await interface.request(request, choice.index, request_id, choice.seed)
            reader = interface.reader(request, choice.index, proof)
            self._count(running=1, prompt_tokens=len(request.prompt_ids))
            call = connection.stream(message)
            answered = False
            last: TokenDelta | None = None
            choice.heard = time.monotonic()
            try:
                async for response in call:
                    choice.heard = time.monotonic()
                    answered = True
                    if response.error_message:
                        raise connection.failure(response.error_message)
                    delta = reader.read(response.infer_response)
                    if delta is None:
                        continue
                    self._count(sampled_tokens=len(delta.token_ids))
                    if delta.finish_reason is not None:
                        last = delta
                        break
                    choice.put(choice.delta(delta))
                if not answered:
                    raise GenerationFailed("The Triton server ended the answer before it began.")
                last = last or reader.end()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._suspect.set()
                raise connection.failure(error.details() or "", error.code()) from error
            finally:
                self._count(running=-1)
                choice.heard = None
                if last is not None:
                    self._spawn(_drain(call))
                else:
                    call.cancel()
                    if interface.stop_with is not None:
                        stopping = self._stop(connection, interface.stop_with, request_id, again=not answered)
                        self._stops.add(self._spawn(stopping))
        choice.put(choice.delta(last))

    async def _stop(self, connection: Connection, model: StopModel, request_id: str, *, again: bool) -> None:
        """Stop a request whose work goes on where its stream is cancelled, as the steps of an ensemble do."""
        for delay in _STOP_AGAIN if again else _STOP_AGAIN[:1]:
            await asyncio.sleep(delay)
            with suppress(ExecutorUnavailable):
                await connection.send(model.request(request_id))

    def _forget(self, choice: _Choice) -> None:
        self._open_choices -= choice.is_open
        choice.is_open = False

    def _count(self, *, running: int = 0, prompt_tokens: int = 0, sampled_tokens: int = 0, restarts: int = 0) -> None:
        self._stats = replace(
            self._stats,
            running=self._stats.running + running,
            prompt_tokens=self._stats.prompt_tokens + prompt_tokens,
            sampled_tokens=self._stats.sampled_tokens + sampled_tokens,
            restarts=self._stats.restarts + restarts,
        )

    async def _wait_for_server(self, connection: Connection, limits: ModelLimits) -> ModelInterface:
        """Ask until the server and its model are ready."""
        timeout = self._settings.triton.start_timeout
        deadline = time.monotonic() + timeout
        for delay in _delays(self._settings.triton.longest_backoff):
            try:
                return await self._discover(connection, limits)
            except UnknownInterface:
                raise
            except ExecutorUnavailable as error:
                if self._health.state != "starting":
                    raise ExecutorUnavailable("The service is shutting down.") from error
                if time.monotonic() + delay > deadline:
                    raise ExecutorUnavailable(
                        f"{error.message} It was waited for {timeout:g} s (triton.start_timeout)."
                    ) from error
                self._set_state("starting", error.message)
            await asyncio.sleep(delay)
        raise AssertionError("the delays never end")

    async def _discover(self, connection: Connection, limits: ModelLimits) -> ModelInterface:
        assert self._tokenizer is not None
        return await discover(connection, self._settings.triton.model, limits, self._tokenizer)

    async def _watch_server(self) -> None:
        """Probe the server now and then, and at once when a stream broke; wait for it while it is gone."""
        assert self._connection is not None
        assert self._limits is not None
        triton = self._settings.triton
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._suspect.wait(), triton.probe_interval)
            try:
                if not self._suspect.is_set():
                    await self._connection.check_ready(triton.model)
                    continue
                self._suspect.clear()
                self._interface = await self._discover(self._connection, self._limits)
                continue
            except ExecutorUnavailable as error:
                self._set_state("restarting", error.message)
            for delay in _delays(triton.longest_backoff):
                await asyncio.sleep(delay)
                try:
                    self._interface = await self._discover(self._connection, self._limits)
                except ExecutorUnavailable as error:
                    self._set_state("restarting", error.message)
                else:
                    break
            self._suspect.clear()
            self._count(restarts=1)
            self._set_state("ready")

    async def _watch_streams(self) -> None:
        """Give up answers that do not get on."""
        timeout = self._settings.triton.response_timeout
        while True:
            await asyncio.sleep(min(1.0, timeout / 4))
            late = time.monotonic() - timeout
            for choice in list(itertools.chain.from_iterable(self._requests.values())):
                if choice.heard is not None and choice.heard < late:
                    choice.give_up(
                        GenerationFailed(
                            f"The Triton server sent nothing for {timeout:g} s (triton.response_timeout): the answer "
                            "was given up."
                        )
                    )

    async def _close(self) -> None:
        if self._proofs is not None:
            self._proofs.close()
        if self._connection is not None:
            await self._connection.close()


class _Choice:
    """One choice of a request that is being answered.

    Attributes:
        request: as it came.
        index: which choice.
        seed: the request's, or a fresh one.
        put: takes deltas, and the error that ends the request.
        is_open: it counts towards what fits.
        heard: when the server last sent something; None while it is not to send anything.
    """

    def __init__(
        self, request: GenerationRequest, index: int, seed: int, put: Callable[[TokenDelta | RequestError], None]
    ) -> None:
        self.request = request
        self.index = index
        self.seed = seed
        self.put = put
        self.is_open = True
        self.heard: float | None = None
        self.task: asyncio.Task[None] | None = None
        self._outcome: TokenDelta | RequestError | None = None
        self._first = True

    def start(self, work: Coroutine[None, None, None], forget: Callable[[_Choice], None]) -> None:
        """Run ``work``, and tell how it failed or was given up."""
        self.task = asyncio.create_task(work)

        def done(task: asyncio.Task[None]) -> None:
            forget(self)
            if task.cancelled():
                self.put(self._outcome or ExecutorUnavailable("The connection to the Triton server was closed."))
            elif (error := task.exception()) is not None:
                if not isinstance(error, RequestError):
                    _log.error("A request to Triton failed.", exc_info=error)
                    error = GenerationFailed("The request failed for a reason that the service's log tells.")
                self.put(error)

        self.task.add_done_callback(done)

    def give_up(self, outcome: TokenDelta | RequestError | None = None) -> None:
        """Stop the work; ``outcome`` is what the caller gets instead. Nothing happens where it is done already."""
        if self.task is not None and not self.task.done() and self._outcome is None:
            self._outcome = outcome
            self.task.cancel()

    def delta(self, delta: TokenDelta) -> TokenDelta:
        """The delta with what the first one of a choice, and each one under a grammar, must have."""
        first, self._first = self._first, False
        guidance = GuidanceTimes() if self.request.grammar is not None else None
        return replace(delta, guidance=guidance, cached_tokens=0 if first else None)


async def _drain(call: Responses) -> None:
    """Let a complete answer's stream come to its end: Triton has crashed on cancellations that met the end of the work.

    See https://github.com/triton-inference-server/server/issues/8034.
    """
    with suppress(grpc.aio.AioRpcError, asyncio.TimeoutError):
        await asyncio.wait_for(_read(call), _STOPPING_SECONDS)


async def _read(call: Responses) -> None:
    async for _ in call:
        pass


def _delays(longest: float) -> Iterator[float]:
    """Seconds between attempts, for ever."""
    delay = _FIRST_DELAY
    while True:
        yield min(delay, longest)
        delay = min(2 * delay, longest)

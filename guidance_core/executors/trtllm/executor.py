"""The TensorRT-LLM executor: loads a model through the LLM API, and answers with it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import AsyncGenerator
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guidance_core.config import Settings
from guidance_core.errors import (
    ContextLengthExceeded,
    ExecutorUnavailable,
    GenerationFailed,
    InvalidRequest,
    QueueFull,
    RequestError,
    Unsupported,
)
from guidance_core.executors.base import Executor, ExecutorStats, Health, ModelLimits, State
from guidance_core.executors.request_limits import check_request
from guidance_core.executors.trtllm import installation
from guidance_core.executors.trtllm.arguments import Way, choose_way, llm_arguments, slots
from guidance_core.executors.trtllm.choice import Choice
from guidance_core.executors.trtllm.installation import Installation
from guidance_core.executors.trtllm.link import ServiceEnd
from guidance_core.executors.trtllm.model_folder import ModelFolder, read_model_folder
from guidance_core.executors.trtllm.proof import Proof, Proofs
from guidance_core.executors.trtllm.sampling import drawn_for, engine_sampling
from guidance_core.executors.trtllm.task import Failure, Report, Task, WorkerSetup
from guidance_core.generation import GenerationRequest, Grammar, TokenDelta
from guidance_core.grammar.tokenizer import load_ll_tokenizer

_log = logging.getLogger(__name__)

_REPORT_SECONDS = 10.0
"""A report is sent before the engine samples; it comes later than the token only where the service is busy."""

_STATISTICS_SECONDS = 60.0

_LIMITS = (
    "initial_lexer_fuel",
    "step_lexer_fuel",
    "step_max_items",
    "max_lexer_states",
    "max_grammar_size",
    "max_items_in_row",
)


@dataclass(slots=True)
class _Loaded:
    """What is known once the model is loaded.

    Attributes:
        proofs: None where the model's tokenizer allows no grammars.
        no_grammars: then, why.
    """

    llm: Any
    installation: Installation
    folder: ModelFolder
    way: Way
    setup: WorkerSetup
    proofs: Proofs | None
    no_grammars: str


@dataclass(slots=True)
class _Run:
    """A request in flight."""

    request: GenerationRequest
    deltas: asyncio.Queue[TokenDelta | RequestError] = field(default_factory=asyncio.Queue)
    choices: dict[int, _Running] = field(default_factory=dict)


@dataclass(slots=True)
class _Running:
    """A choice in flight.

    Attributes:
        key: of its task.
        run: the request that it belongs to.
        result: the engine's ``RequestOutput``.
        reports: what our processor drew, by position.
        reported: something was.
        work: follows the engine.
    """

    key: int
    run: _Run
    choice: Choice
    result: Any = None
    reports: dict[int, Report] = field(default_factory=dict)
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    work: asyncio.Task[None] | None = None


class TrtllmExecutor(Executor):
    """Runs a checkpoint on TensorRT-LLM's PyTorch backend, or a compiled engine.

    Args:
        model_path: of either, with its tokenizer.
        settings: all of them.
    """

    name = "trtllm"

    def __init__(self, model_path: Path, settings: Settings) -> None:
        self._model_path = model_path
        self._settings = settings
        self._health = Health("stopped", "The model has not been loaded.")
        self._loaded: _Loaded | None = None
        self._link: ServiceEnd | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runs: dict[str, _Run] = {}
        self._running: dict[int, _Running] = {}
        self._keys = itertools.count()
        self._admitted = 0
        self._compiling = 0
        self._stats = ExecutorStats()
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See `Executor.start`.

        TensorRT-LLM cannot be stopped while it loads: a start that is cancelled frees it when it has loaded.
        """
        if self._health.state not in ("stopped", "failed"):
            raise RuntimeError("The executor has been started already.")
        self._set_state("starting", "The model is being loaded.")
        self._loop = asyncio.get_running_loop()
        self._link = ServiceEnd(self._on_worker_message)
        loading = asyncio.ensure_future(asyncio.to_thread(self._load, self._link))
        try:
            self._loaded = await asyncio.shield(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(_discard)
            self._link.close()
            self._set_state("stopped", "The start was cancelled.")
            raise
        except Exception as error:
            self._link.close()
            message = error.message if isinstance(error, RequestError) else f"TensorRT-LLM could not start: {error}"
            if self.health().state == "starting":  # and not shut down meanwhile
                self._set_state("failed", message)
            if not isinstance(error, (RequestError, ValueError)):
                _log.exception("TensorRT-LLM could not start.")
            raise ExecutorUnavailable(message) from error
        if self.health().state != "starting":  # shut down meanwhile
            await asyncio.to_thread(self._loaded.llm.shutdown)
            raise ExecutorUnavailable("The service is shutting down.")
        self._stats = replace(self._stats, slots=slots(self._loaded.folder, self._settings))
        self._set_state("ready")

    async def shutdown(self) -> None:
        """See `Executor.shutdown`."""
        was = self._health.state
        self._set_state("stopped", "The executor is shut down.")
        self._fail_all(ExecutorUnavailable("The service is shutting down."))
        if self._watching is not None:
            self._watching.cancel()
        for running in self._running.values():
            assert running.work is not None
            running.work.cancel()
        if self._loaded is not None and was != "stopped":
            await asyncio.to_thread(self._loaded.llm.shutdown)
            if self._loaded.proofs is not None:
                self._loaded.proofs.close()
        if self._link is not None and was not in ("stopped", "starting"):
            self._link.close()

    def limits(self) -> ModelLimits:
        """See `Executor.limits`."""
        folder = self._loaded_or_raise().folder
        return ModelLimits(folder.vocab_size, folder.max_model_len, folder.eos_token_ids)

    def details(self) -> dict[str, str]:
        """See `Executor.details`."""
        if self._loaded is None:
            return {}
        return {
            "engine": f"TensorRT-LLM {self._loaded.installation.version}",
            "backend": "tensorrt" if self._loaded.folder.kind == "engine" else "pytorch",
            "guidance": self._loaded.way,
        }

    def check(self, request: GenerationRequest) -> None:
        """See `Executor.check`."""
        loaded = self._loaded_or_raise()
        if self._health.state != "ready":
            raise ExecutorUnavailable(self._health.detail)
        check_request(request, self.limits(), max_choices=self._settings.server.max_choices)
        folder = loaded.folder
        if folder.max_input_len is not None and len(request.prompt_ids) > folder.max_input_len:
            raise ContextLengthExceeded(
                f"The prompt has {len(request.prompt_ids)} tokens, but this engine was built for prompts of at most "
                f"{folder.max_input_len}: shorten the prompt.",
                param="prompt",
            )
        self._check_features(request, loaded)
        if request.request_id in self._runs:
            raise InvalidRequest(f"A request with the id {request.request_id!r} is in flight already: use another id.")
        capacity = slots(folder, self._settings) + self._settings.server.max_queue_size
        if request.sampling.n > capacity:
            raise InvalidRequest(f"n is {request.sampling.n}, but at most {capacity} fit at once.", param="n")
        if self._admitted + request.sampling.n > capacity:
            raise QueueFull(
                f"{self._admitted} answers are being generated or waited for, and {capacity} fit: try again later.",
                retry_after=1,
            )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        """See `Executor.generate`."""
        self.check(request)
        loaded = self._loaded_or_raise()
        run = self._runs[request.request_id] = _Run(request)
        self._admitted += request.sampling.n
        compiling = request.sampling.n
        self._compiling += compiling
        try:
            proofs: list[Proof | None] = [await self._proof(loaded, request.grammar) for _ in range(request.sampling.n)]
            if self._runs.get(request.request_id) is not run:
                raise ExecutorUnavailable(self._health.detail)
            seed = random.getrandbits(64) if request.sampling.seed is None else request.sampling.seed
            for index, proof in enumerate(proofs):
                self._start_choice(loaded, run, index, proof, seed)
                self._compiling -= 1
                compiling -= 1
            open_choices = request.sampling.n
            while open_choices:
                item = await run.deltas.get()
                if isinstance(item, RequestError):
                    # One error may end many requests, and raising it adds to its traceback.
                    raise copy(item)
                open_choices -= item.finish_reason is not None
                yield item
        finally:
            self._admitted -= request.sampling.n
            self._compiling -= compiling
            if self._runs.get(request.request_id) is run:
                del self._runs[request.request_id]
            for running in run.choices.values():
                self._release(running)

    def finish_choice(self, request_id: str, index: int) -> None:
        """See `Executor.finish_choice`."""
        run = self._runs.get(request_id)
        running = run.choices.pop(index, None) if run is not None else None
        if run is not None and running is not None:
            run.deltas.put_nowait(running.choice.cut_off())
            self._release(running)

    def health(self) -> Health:
        """See `Executor.health`."""
        return self._health

    def stats(self) -> ExecutorStats:
        """See `Executor.stats`; what is in the batch and what waits is told from how many fit."""
        running = min(len(self._running), self._stats.slots)
        waiting = len(self._running) - running + self._compiling
        return replace(self._stats, running=running, waiting=waiting)

    def _load(self, link: ServiceEnd) -> _Loaded:
        """Load the model; blocks, for minutes where it is large.

        Raises:
            ExecutorUnavailable: TensorRT-LLM is missing, or does not run this kind of model.
            ValueError: the model or the settings do not fit.
        """
        folder = read_model_folder(self._model_path, max_model_len=self._settings.trtllm.max_model_len)
        way = choose_way(folder, self._settings)
        installed = installation.load(folder.kind)
        setup = WorkerSetup(
            folder.path,
            folder.vocab_size,
            folder.eos_token_ids,
            self._settings.guidance,
            slots(folder, self._settings),
            link.address,
        )
        no_grammars, proofs = "", None
        try:
            tokenizer = load_ll_tokenizer(folder.path, folder.vocab_size, folder.eos_token_ids)
            proofs = Proofs(tokenizer, self._settings.guidance)
        except ValueError as error:
            no_grammars = str(error)
        processor = None
        if way == "batched":
            from guidance_core.executors.trtllm.batched_processor import BatchedProcessor

            processor = BatchedProcessor(setup)
        arguments = llm_arguments(folder, self._settings, installed, way=way, batched_processor=processor)
        _log.info(
            "TensorRT-LLM %s loads %s as a %s; grammars are enforced by: %s",
            installed.version,
            folder.path,
            folder.kind,
            way,
        )
        return _Loaded(installed.llm(**arguments), installed, folder, way, setup, proofs, no_grammars)

    def _check_features(self, request: GenerationRequest, loaded: _Loaded) -> None:
        if request.complete:
            raise Unsupported(
                "fit_to_max_tokens needs an executor that knows how near a grammar's end is: 'trtllm' does not. "
                "Leave it out and allow enough max_tokens.",
                param="fit_to_max_tokens",
            )
        if request.grammar is not None and loaded.proofs is None:
            raise Unsupported(f"This model cannot be constrained by a grammar. {loaded.no_grammars}")
        blocked = self._no_processors()
        if blocked is None:
            return
        fields = drawn_for(request)
        if fields:
            raise Unsupported(
                f"{' and '.join(fields)} cannot be kept as asked while {blocked}: leave it out of the request, or "
                "change that setting.",
                param=fields[0],
            )
        if request.grammar is not None and not self._engine_guides(loaded):
            raise Unsupported(f"Grammars need our logits processors here, which cannot run while {blocked}.")

    def _no_processors(self) -> str | None:
        """Why our logits processors cannot run, or None where they can."""
        if self._settings.trtllm.overlap_scheduler:
            return "trtllm.overlap_scheduler is on"
        return "trtllm.speculative is set" if self._settings.trtllm.speculative is not None else None

    def _engine_guides(self, loaded: _Loaded) -> bool:
        """Whether TensorRT-LLM's own llguidance keeps grammars as we would: it has llguidance's default limits."""
        return (
            loaded.way == "engine"
            and loaded.folder.tokenizer_eos_id is not None
            and all(getattr(self._settings.guidance, name) is None for name in _LIMITS)
        )

    async def _proof(self, loaded: _Loaded, grammar: Grammar | None) -> Proof | None:
        if grammar is None:
            return None
        assert loaded.proofs is not None, "check() refuses grammars where there are none"
        return await loaded.proofs.begin(grammar)

    def _start_choice(self, loaded: _Loaded, run: _Run, index: int, proof: Proof | None, seed: int) -> None:
        request = run.request
        key = next(self._keys)
        grammar = request.grammar
        draws = self._no_processors() is None and (bool(drawn_for(request)) or request.measure_mass)
        by_engine = grammar is not None and not draws and self._engine_guides(loaded)
        processed = draws or (grammar is not None and not by_engine)
        task = Task(key, request, index, seed, draws)
        processor = None
        if processed and loaded.way != "batched":
            from guidance_core.executors.trtllm.request_processor import RequestProcessor

            processor = RequestProcessor(loaded.setup, task)
        sampling = engine_sampling(
            request,
            loaded.folder,
            loaded.installation,
            # llguidance's grammar_from_lark returns what it is given, and LLMatcher takes Lark text and serialised
            # grammars alike, so ours passes unchanged (`LLGuidanceMatcherFactory.create` in
            # ``_torch/pyexecutor/grammar_matcher.py``; llguidance 0.7.29, ``python_ext/src/llmatcher.rs``).
            grammar=grammar.source if grammar is not None and by_engine else None,
            processor=processor,
            batched=processed and loaded.way == "batched",
            drawn=draws,
        )
        running = _Running(
            key,
            run,
            Choice(
                request,
                index,
                own_ends=[token for token in sampling.end_ids if token not in request.sampling.stop_token_ids],
                proof=proof,
                report=(lambda position, token: self._report(running, position, token)) if draws else None,
            ),
        )
        try:
            running.result = loaded.llm.generate_async(
                list(request.prompt_ids), sampling_params=sampling.params, streaming=True
            )
        except ValueError as error:
            raise InvalidRequest(f"TensorRT-LLM refuses the request: {error}") from error
        except Exception as error:
            raise self._failure(error) from error
        if processed and loaded.way == "batched":
            assert self._link is not None
            # What the batched processor is told about a row is the id that the LLM API gave to its request.
            self._link.publish(running.result.request_id, task)
        run.choices[index] = running
        self._running[key] = running
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(loaded.llm))
        running.work = asyncio.create_task(self._follow(running, sampling.end_ids))
        # Not in the task itself: one that is cancelled before its first step never runs.
        running.work.add_done_callback(lambda _: self._forget(running))

    async def _follow(self, running: _Running, end_ids: tuple[int, ...]) -> None:
        """Turn what the engine says of a choice into deltas, to its end."""
        run, choice, result = running.run, running.choice, running.result
        seen = 0
        is_first = True
        finished = False
        try:
            async for output in result:
                [completion] = output.outputs
                if completion.finish_reason == "cancelled":
                    break
                new_ids = completion.token_ids[seen:]
                seen += len(new_ids)
                cached = getattr(output, "cached_tokens", 0)
                if is_first:
                    is_first = False
                    self._count(prompt_tokens=len(run.request.prompt_ids), cached_tokens=cached)
                stop = completion.stop_reason if isinstance(completion.stop_reason, int) else next(iter(end_ids), None)
                before = choice.sampled
                delta = await choice.take(
                    new_ids, engine_finish=completion.finish_reason, engine_stop=stop, cached_tokens=cached
                )
                self._count(sampled_tokens=choice.sampled - before)
                if delta is not None:
                    if run.choices.get(choice.index) is not running:
                        break  # cut off meanwhile
                    if delta.finish_reason is not None:
                        finished = True
                        del run.choices[choice.index]
                        run.deltas.put_nowait(delta)
                        break
                    run.deltas.put_nowait(delta)
            if not finished and run.choices.get(choice.index) is running:
                run.deltas.put_nowait(GenerationFailed("TensorRT-LLM gave the request up."))
        except Exception as error:
            run.deltas.put_nowait(error if isinstance(error, RequestError) else self._failure(error))
        finally:
            if run.choices.get(choice.index) is running:
                del run.choices[choice.index]
            if not result.finished:
                result.abort()
            await self._confirm(running)

    @staticmethod
    def _release(running: _Running) -> None:
        """Let a choice go that nobody waits for: its work aborts it in the engine, and ends."""
        assert running.work is not None
        running.work.cancel()

    async def _confirm(self, running: _Running) -> None:
        """Wait until the engine has freed a choice, so that `stats` and the queue's length say what is so."""

        async def drain() -> None:
            async for _ in running.result:
                pass

        try:
            if not running.result.finished:
                await asyncio.wait_for(drain(), self._settings.trtllm.abort_timeout)
        except asyncio.TimeoutError:
            # A request that was still queued is dropped without a word (`PyExecutor._handle_canceled_requests`).
            _log.debug("TensorRT-LLM did not confirm that a request was aborted.")
        except Exception as error:
            _log.debug("A request that was aborted failed: %s", error)

    def _forget(self, running: _Running) -> None:
        del self._running[running.key]
        if not running.result.finished and not running.result.aborted():
            running.result.abort()
        if self._link is not None:
            self._link.withdraw(running.result.request_id)

    def _failure(self, error: Exception) -> RequestError:
        """What the engine raised, as the caller is told it; an engine that is gone is no longer ready."""
        assert self._loaded is not None
        check = getattr(self._loaded.llm, "_check_health", None)
        if check is not None and not check() and self._health.state == "ready":
            self._set_state("failed", f"TensorRT-LLM ended: {error}. The service must be started again.")
            _log.critical(self._health.detail)
            gone = ExecutorUnavailable(self._health.detail)
            self._fail_all(gone)
            return gone
        return GenerationFailed(f"TensorRT-LLM failed on this request: {error}")

    async def _report(self, running: _Running, position: int, token: int) -> Report:
        """What our processor drew, which must be the engine's token.

        For a prompt that is run in chunks there are several reports on the first position: the last one counts.
        """
        deadline = time.monotonic() + _REPORT_SECONDS
        while True:
            report = running.reports.get(position)
            if report is not None and report.token_id == token:
                del running.reports[position]
                return report
            running.reported.clear()
            try:
                await asyncio.wait_for(running.reported.wait(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise GenerationFailed(
                    "TensorRT-LLM answered a token that our logits processor did not draw; its worker's log says why."
                ) from None

    def _on_worker_message(self, reports: list[Report | Failure]) -> None:
        """Reports of one step; called in a thread of the link."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take_reports, reports)

    def _take_reports(self, reports: list[Report | Failure]) -> None:
        for report in reports:
            running = self._running.get(report.key)
            if running is None:
                continue
            if isinstance(report, Failure):
                running.run.deltas.put_nowait(GenerationFailed(report.message))
            else:
                # Every rank of a tensor-parallel group reports the same.
                running.reports[report.position] = report
                running.reported.set()

    async def _watch(self, llm: Any) -> None:
        """Keep the newest of the engine's own statistics: ``LLM.get_stats_async`` gives one per iteration."""
        while True:
            try:
                async for iteration in llm.get_stats_async(_STATISTICS_SECONDS):
                    self._on_iteration(iteration)
            except Exception as error:
                _log.warning("TensorRT-LLM's statistics cannot be read: %s", error)
                return
            await asyncio.sleep(1.0)  # it ends at once where there are none yet

    def _on_iteration(self, iteration: dict[str, Any]) -> None:
        """``IterationStats`` of the C++ executor as JSON (``cpp/include/tensorrt_llm/executor/types.h``)."""
        cache = iteration.get("kvCacheStats") or {}
        block = cache.get("tokensPerBlock", 0)
        self._stats = replace(
            self._stats,
            steps=iteration["iter"],
            kv_tokens=cache.get("usedNumBlocks", 0) * block,
            kv_capacity=cache.get("maxNumBlocks", 0) * block,
        )

    def _count(self, *, prompt_tokens: int = 0, cached_tokens: int = 0, sampled_tokens: int = 0) -> None:
        before = self._stats
        self._stats = replace(
            before,
            prompt_tokens=before.prompt_tokens + prompt_tokens,
            cached_tokens=before.cached_tokens + cached_tokens,
            sampled_tokens=before.sampled_tokens + sampled_tokens,
        )

    def _fail_all(self, error: RequestError) -> None:
        runs, self._runs = list(self._runs.values()), {}
        for run in runs:
            run.deltas.put_nowait(error)

    def _loaded_or_raise(self) -> _Loaded:
        if self._loaded is None:
            raise ExecutorUnavailable(self._health.detail, retry_after=5 if self._health.state == "starting" else None)
        return self._loaded

    def _set_state(self, state: State, detail: str = "") -> None:
        self._health = Health(state, detail)


def _discard(loading: asyncio.Future[_Loaded]) -> None:
    """Free a model whose start was cancelled."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result().llm.shutdown()

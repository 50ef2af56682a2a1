"""The TensorRT-LLM executor: loads a model through the LLM API, and answers with it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import AsyncGenerator
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidance_core.config import Settings
from guidance_core.errors import (
    ContextLengthExceeded,
    ExecutorUnavailable,
    GenerationFailed,
    InvalidRequest,
    RequestError,
    Unsupported,
)
from guidance_core.executors.base import Executor, ExecutorStats, Health, ModelLimits, State
from guidance_core.executors.proof import Proof
from guidance_core.executors.request_limits import (
    check_request,
    check_room,
    refuse_images,
    refuse_lora,
    refuse_priority,
    refuse_prompt_logprobs,
)
from guidance_core.executors.trtllm.arguments import longest_prompt
from guidance_core.executors.trtllm.flight import Counts, Deltas, Flight
from guidance_core.executors.trtllm.link import ServiceEnd
from guidance_core.executors.trtllm.loading import Loaded, load
from guidance_core.executors.trtllm.sampling import drawn_for, engine_sampling
from guidance_core.executors.trtllm.task import Failure, Report, Task
from guidance_core.executors.trtllm.trust import is_trusted
from guidance_core.generation import GenerationRequest, TokenDelta

_log = logging.getLogger(__name__)

_STATISTICS_SECONDS = 60.0


@dataclass(slots=True)
class _Run:
    """A request in flight: what its caller has yet to take, and its choices by index."""

    deltas: Deltas = field(default_factory=asyncio.Queue)
    flights: dict[int, Flight] = field(default_factory=dict)


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
        self._loaded: Loaded | None = None
        self._link: ServiceEnd | None = None
        self._runs: dict[str, _Run] = {}
        self._flights: dict[int, Flight] = {}
        self._keys = itertools.count()
        self._admitted = 0
        self._compiling = 0
        self._counts = Counts()
        self._iteration: dict[str, Any] = {}
        self._watching: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """See `Executor.start`.

        TensorRT-LLM cannot be stopped while it loads: a start that is cancelled frees the model once it has loaded.
        """
        if self._health.state not in ("stopped", "failed"):
            raise RuntimeError("The executor has been started already.")
        self._health = Health("starting", "The model is being loaded.")
        loop = asyncio.get_running_loop()

        def hear(reports: list[Report | Failure]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._take_reports, reports)

        link = self._link = ServiceEnd(hear)
        loading = asyncio.ensure_future(asyncio.to_thread(load, self._model_path, self._settings, link.address))
        try:
            loaded = await asyncio.shield(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(_free)
            link.close()
            self._health = Health("stopped", "The start was cancelled.")
            raise
        except Exception as error:
            link.close()
            message = error.message if isinstance(error, RequestError) else f"TensorRT-LLM could not start: {error}"
            if not isinstance(error, (RequestError, ValueError)):
                _log.exception("TensorRT-LLM could not start.")
            if self._state == "starting":  # and not shut down meanwhile
                self._health = Health("failed", message)
            raise ExecutorUnavailable(message) from error
        if self._state != "starting":  # shut down meanwhile
            await asyncio.to_thread(loaded.close)
            raise ExecutorUnavailable(self._health.detail)
        self._loaded = loaded
        self._health = Health("ready")

    async def shutdown(self) -> None:
        """See `Executor.shutdown`."""
        self._health = Health("stopped", "The service is shutting down.")
        self._fail_all(ExecutorUnavailable(self._health.detail))
        for task in self._watching:
            task.cancel()
        for flight in list(self._flights.values()):
            flight.release()
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            await asyncio.to_thread(loaded.close)
        link, self._link = self._link, None
        if link is not None:
            await asyncio.to_thread(link.close)

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
        longest = longest_prompt(loaded.folder, self._settings)
        if longest is not None and len(request.prompt_ids) > longest:
            raise ContextLengthExceeded(
                f"The prompt has {len(request.prompt_ids)} tokens, but this engine takes prompts of at most {longest}: "
                "shorten the prompt.",
                param="prompt",
            )
        self._check_features(request, loaded)
        capacity = loaded.slots + self._settings.server.max_queue_size
        check_room(request, in_flight=self._runs, open_choices=self._admitted, capacity=capacity)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        """See `Executor.generate`."""
        self.check(request)
        loaded = self._loaded_or_raise()
        choices = request.sampling.n
        run = self._runs[request.request_id] = _Run()
        self._admitted += choices
        try:
            lora = None
            if request.lora is not None:
                assert loaded.adapters is not None, "check() refuses adapters where there are none"
                lora = await loaded.adapters.request(request.lora)
            proofs = await self._begin_proofs(loaded, request)
            if self._state != "ready":
                raise ExecutorUnavailable(self._health.detail)
            seed = random.getrandbits(64) if request.sampling.seed is None else request.sampling.seed
            for index, proof in enumerate(proofs):
                run.flights[index] = self._launch(loaded, request, run.deltas, index, proof, seed, lora)
            while choices:
                item = await run.deltas.get()
                if isinstance(item, RequestError):
                    # One error may end many requests, and raising it adds to its traceback.
                    raise copy(item)
                choices -= item.finish_reason is not None
                yield item
        finally:
            self._admitted -= request.sampling.n
            if self._runs.get(request.request_id) is run:
                del self._runs[request.request_id]
            for flight in run.flights.values():
                flight.release()

    def finish_choice(self, request_id: str, index: int) -> None:
        """See `Executor.finish_choice`."""
        run = self._runs.get(request_id)
        flight = run.flights.get(index) if run is not None else None
        if flight is not None:
            flight.cut_off()

    def health(self) -> Health:
        """See `Executor.health`."""
        return self._health

    def stats(self) -> ExecutorStats:
        """See `Executor.stats`.

        How much runs and waits is told from how much fits. The rest is the newest of ``LLM.get_stats_async``:
        ``IterationStats`` of ``cpp/include/tensorrt_llm/executor/types.h`` as JSON.
        """
        slots = self._loaded.slots if self._loaded is not None else 0
        running = min(len(self._flights), slots)
        cache = self._iteration.get("kvCacheStats") or {}
        block = cache.get("tokensPerBlock", 0)
        grammars = None if self._loaded is None or self._loaded.proofs is None else self._loaded.proofs.prototypes
        return ExecutorStats(
            running=running,
            waiting=len(self._flights) - running + self._compiling,
            slots=slots,
            kv_tokens=cache.get("usedNumBlocks", 0) * block,
            kv_capacity=cache.get("maxNumBlocks", 0) * block,
            steps=self._iteration.get("iter", 0),
            prompt_tokens=self._counts.prompt_tokens,
            cached_tokens=self._counts.cached_tokens,
            sampled_tokens=self._counts.sampled_tokens,
            grammar_hits=0 if grammars is None else grammars.hits,
            grammar_misses=0 if grammars is None else grammars.misses,
            grammar_evictions=0 if grammars is None else grammars.evictions,
        )

    @property
    def _state(self) -> State:
        return self._health.state

    def _loaded_or_raise(self) -> Loaded:
        if self._loaded is None:
            raise ExecutorUnavailable(self._health.detail, retry_after=5 if self._state == "starting" else None)
        return self._loaded

    def _check_features(self, request: GenerationRequest, loaded: Loaded) -> None:
        if loaded.adapters is None:
            refuse_lora(request, "set lora.folder, where adapters are.")
        refuse_priority(request, self.name)
        refuse_images(request, str(self.no_images()))
        refuse_prompt_logprobs(request, self.name)
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
        if request.grammar is not None and loaded.way != "engine":
            raise Unsupported(f"Grammars need our logits processors here, which cannot run while {blocked}.")

    def _no_processors(self) -> str | None:
        """Why our logits processors cannot run, or None where they can."""
        if self._settings.trtllm.overlap_scheduler:
            return "trtllm.overlap_scheduler is on"
        return "trtllm.speculative is set" if self._settings.trtllm.speculative is not None else None

    async def _begin_proofs(self, loaded: Loaded, request: GenerationRequest) -> list[Proof | None]:
        """A proof for each choice of a constrained request."""
        if request.grammar is None:
            return [None] * request.sampling.n
        assert loaded.proofs is not None, "check() refuses grammars where there are none"
        self._compiling += request.sampling.n
        try:
            return [await loaded.proofs.start(request.grammar) for _ in range(request.sampling.n)]
        finally:
            self._compiling -= request.sampling.n

    def _launch(
        self,
        loaded: Loaded,
        request: GenerationRequest,
        deltas: Deltas,
        index: int,
        proof: Proof | None,
        seed: int,
        lora: Any,
    ) -> Flight:
        """Send one choice to the engine."""
        grammar = request.grammar
        has_processors = self._no_processors() is None
        draws = has_processors and (bool(drawn_for(request)) or request.measure_mass)
        by_engine = grammar is not None and loaded.way == "engine" and not draws
        if by_engine and grammar is not None and has_processors and loaded.proofs is not None:
            by_engine = is_trusted(grammar, loaded.proofs.tokenizer)
        processed = draws or (grammar is not None and not by_engine)
        batched = processed and loaded.way == "batched"
        task = Task(next(self._keys), request, index, seed, draws)
        processor = None
        if processed and not batched:
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
            batched=batched,
            drawn=draws,
        )
        try:
            result = loaded.llm.generate_async(
                list(request.prompt_ids), sampling_params=sampling.params, lora_request=lora, streaming=True
            )
        except ValueError as error:
            raise InvalidRequest(f"TensorRT-LLM refuses the request: {error}") from error
        except Exception as error:
            raise self._explain(error) from error
        flight = Flight(
            task,
            result,
            end_ids=sampling.end_ids,
            proof=proof,
            deltas=deltas,
            counts=self._counts,
            abort_timeout=self._settings.trtllm.abort_timeout,
            explain=self._explain,
        )
        if batched and self._link is not None:
            # What the batched processor is told of a row is the id that the LLM API gave to its request.
            self._link.publish(flight.client_id, task)
        self._flights[task.key] = flight
        flight.start(self._land)
        if not self._watching:
            self._watching = [
                asyncio.create_task(self._read_statistics(loaded.llm)),
                asyncio.create_task(self._watch()),
            ]
        return flight

    def _land(self, flight: Flight) -> None:
        """Forget a choice that the engine has let go of."""
        del self._flights[flight.task.key]
        if self._link is not None:
            self._link.withdraw(flight.client_id)

    def _take_reports(self, reports: list[Report | Failure]) -> None:
        for report in reports:
            flight = self._flights.get(report.key)
            if flight is not None:
                flight.take(report)

    def _explain(self, error: Exception) -> RequestError:
        """What the engine raised, as the caller is told it; an engine that is gone is no longer ready.

        ``_check_health`` is what ``trtllm-serve`` asks for its own probe (``serve/openai_server.py``, 1.2).
        """
        check = getattr(self._loaded.llm, "_check_health", None) if self._loaded is not None else None
        if check is None or check():
            return GenerationFailed(f"TensorRT-LLM failed on this request: {error}")
        self._give_up(f"TensorRT-LLM has ended ({error})")
        return ExecutorUnavailable(self._health.detail)

    def _give_up(self, why: str) -> None:
        """The engine serves no more, and cannot be started twice in one process."""
        if self._state == "ready":
            self._health = Health("failed", f"{why}: the service must be started again.")
            _log.critical(self._health.detail)
            self._fail_all(ExecutorUnavailable(self._health.detail))
            for flight in list(self._flights.values()):
                flight.release()

    def _fail_all(self, error: RequestError) -> None:
        for run in self._runs.values():
            run.deltas.put_nowait(error)

    async def _watch(self) -> None:
        """Notice an engine that has work and does not get on with it.

        In 1.2 nobody is told when a worker dies: what is in flight waits for ever, and ``LLM._check_health`` only knows
        of a shutdown that was asked for (``llmapi/llm.py``, ``executor/executor.py``: ``is_shutdown``).
        """
        timeout = self._settings.trtllm.step_timeout
        seen, since = (0, 0), time.monotonic()
        while True:
            await asyncio.sleep(min(1.0, timeout / 4))
            progress = (self._counts.responses, self._iteration.get("iter", 0))
            if progress != seen or not self._flights:
                seen, since = progress, time.monotonic()
            elif time.monotonic() - since > timeout:
                self._give_up(f"TensorRT-LLM has made no progress in {timeout:g} s (trtllm.step_timeout)")

    async def _read_statistics(self, llm: Any) -> None:
        """Keep the newest of the engine's own statistics."""
        while True:
            try:
                async for self._iteration in llm.get_stats_async(_STATISTICS_SECONDS):
                    pass
            except Exception as error:
                _log.warning("TensorRT-LLM's statistics cannot be read: %s", error)
                return
            await asyncio.sleep(1.0)  # it ends at once where there are none yet


def _free(loading: asyncio.Future[Loaded]) -> None:
    """Free a model whose start was cancelled."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result().close()

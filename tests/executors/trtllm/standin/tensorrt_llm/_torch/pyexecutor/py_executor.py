"""``tensorrt_llm/_torch/pyexecutor/py_executor.py``, and the C++ executor of compiled engines: the loop of steps."""

from __future__ import annotations

import inspect
import itertools
import json
import queue
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from guidance_core import generation
from guidance_core.config import LoraSettings, TorchSettings
from guidance_core.executors.torch.lora import LoadedAdapter
from guidance_core.executors.torch.model_runner import ModelRunner
from guidance_core.executors.torch.scheduler import Scheduler, Work
from guidance_core.executors.torch.sequence import Sequence
from guidance_core.executors.torch.slots import Slots
from tensorrt_llm._torch.pyexecutor.grammar_matcher import LLGuidanceMatcher, LLGuidanceMatcherFactory
from tensorrt_llm._torch.pyexecutor.sampler import CppDecoder, TorchSampler
from tensorrt_llm.executor.request import LoRARequest
from tensorrt_llm.executor.result import Response
from tensorrt_llm.llmapi.llm_args import BaseLlmArgs
from tensorrt_llm.lora_helper import LoraConfig
from tensorrt_llm.sampling_params import SamplingParams

_PADDED_TO = 64
_BLOCK = 32


@dataclass
class _LlmRequest:
    client_id: int
    request_id: int
    params: SamplingParams
    sequence: Sequence
    matcher: LLGuidanceMatcher | None = None
    cached: int = 0


class PyExecutor:
    """Runs steps in one thread.

    Args:
        args: of the LLM.
        backend: ``pytorch`` or ``tensorrt``.
        checkpoint: what is run in truth.
    """

    def __init__(self, args: BaseLlmArgs, backend: str, checkpoint: Path) -> None:
        self._args = args
        self._backend = backend
        if backend == "tensorrt":
            _check_paged_context(args)
        lora = _lora_config(args, backend)
        self._has_lora = lora is not None
        self._adapters: dict[int, LoadedAdapter] = {}
        self._runner = ModelRunner(
            checkpoint,
            TorchSettings(
                device="cpu",
                dtype="float32",
                num_threads=1,
                max_batch_size=args.max_batch_size,
                max_model_len=args.max_seq_len,
                max_num_tokens=args.max_num_tokens,
            ),
            trust_remote_code=args.trust_remote_code,
            lora=None if lora is None else LoraSettings(max_rank=lora.max_lora_rank),
        )
        self._slots = Slots(
            self._runner.num_slots, self._runner.max_model_len, share=args.kv_cache_config.enable_block_reuse
        )
        self._scheduler = Scheduler(self._slots, args.max_num_tokens)
        self._sampler = TorchSampler() if backend == "pytorch" else CppDecoder()
        # The head of a compiled engine is padded, and so are the logits that processors see.
        self._padding = -self._runner.vocab_size % _PADDED_TO if backend == "tensorrt" else 0
        self._guides = (
            LLGuidanceMatcherFactory(Path(args.model), self._runner.vocab_size)
            if args.guided_decoding_backend == "llguidance"
            else None
        )
        self._requests: dict[int, _LlmRequest] = {}
        self._ids = itertools.count(2048)
        self._iteration = 0

    def loop(self, commands: queue.SimpleQueue[Any], send: Callable[[Any], None]) -> None:
        """Step as long as there is something to run."""
        while True:
            idle = not self._requests
            while idle or not commands.empty():
                idle = False
                kind, *content = commands.get()
                if kind == "shutdown":
                    return
                if kind == "submit":
                    self._enqueue(*content)
                else:
                    self._cancel(*content, send)
            if self._requests:
                self._iterate(send)

    def _enqueue(
        self, client_id: int, prompt: list[int], params: SamplingParams, lora_request: LoRARequest | None
    ) -> None:
        sampling = generation.SamplingParams(max_tokens=params.max_tokens, ignore_eos=True)
        request = generation.GenerationRequest(request_id="", prompt_ids=tuple(prompt), sampling=sampling)
        sequence = Sequence(client_id, client_id, 0, request, eos_token_ids=(), seed=0)
        sequence.lora = self._load(lora_request)
        self._requests[client_id] = _LlmRequest(client_id, next(self._ids), params, sequence)
        self._scheduler.add(sequence)

    def _load(self, lora_request: LoRARequest | None) -> LoadedAdapter | None:
        """Without LoRA an adapter is left out; one whose id is known is not read again (`LoraManager.load_from_hf`)."""
        if lora_request is None or not self._has_lora:
            return None
        uid = lora_request.lora_int_id
        if uid not in self._adapters:
            self._adapters[uid] = LoadedAdapter(uid, self._runner.read_adapter(Path(lora_request.lora_path)))
        return self._adapters[uid]

    def _cancel(self, client_id: int, send: Callable[[Any], None]) -> None:
        request = self._requests.pop(client_id, None)
        if request is not None:
            was_queued = request.sequence.slot is None
            self._scheduler.remove(request.sequence)
            if not was_queued:  # what was is dropped without a response
                send(("response", client_id, Response(finish_reason="cancelled", cached_tokens=request.cached)))

    def _iterate(self, send: Callable[[Any], None]) -> None:
        plan = self._scheduler.schedule()
        for source, target, length in plan.copies:
            self._runner.copy_prefix(source, target, length)
        for sequence in plan.placed:
            self._requests[sequence.id].cached = sequence.cached
        try:
            logits = self._runner.forward([work.segment for work in plan.work])
            responses = self._sample(plan.work, logits)
        except Exception as error:
            # As PyExecutor._handle_errors does: all requests in flight fail.
            traceback.print_exc()
            responses = {client_id: Response(error=str(error)) for client_id in self._requests}
        self._iteration += 1
        send(("stats", None, self._statistics()))
        for client_id, response in responses.items():
            if response.finish_reason is not None or response.error is not None:
                self._scheduler.remove(self._requests.pop(client_id).sequence)
            send(("response", client_id, response))

    def _sample(self, works: list[Work], logits: torch.Tensor) -> dict[int, Response]:
        rows: dict[int, torch.Tensor] = {}
        last: list[_LlmRequest] = []
        given = iter(logits)
        for work in works:
            segment, request = work.segment, self._requests[work.sequence.id]
            self._slots.write(segment.slot, segment.start, segment.token_ids)
            work.sequence.computed += len(segment.token_ids)
            if segment.logits == "none":
                # A chunk of a prompt has logits too, of which nothing is sampled.
                row = torch.randn(self._runner.vocab_size)
            else:
                row = next(given)
                last.append(request)
            rows[request.client_id] = torch.cat([row, torch.zeros(self._padding)])
        self._process(rows, last)
        self._sampler.check_biases([request.params for request in last])
        return {request.client_id: self._next_token(request, rows[request.client_id]) for request in last}

    def _process(self, rows: dict[int, torch.Tensor], last: list[_LlmRequest]) -> None:
        """Call processors: compiled engines for what is sampled, the PyTorch backend for chunks of prompts too.

        ``cpp/tensorrt_llm/batch_manager/logitsPostProcessor.cpp`` goes through ``decoderRequests``;
        ``PyTorchModelEngine._execute_logit_post_processors`` through all that ran. (It leaves out what went on after a
        pause, which `SchedulerConfig` without ``MAX_UTILIZATION`` has none of.)
        """
        requests = [self._requests[client_id] for client_id in rows]
        if self._backend == "tensorrt":
            batch = [request for request in last if request.params.apply_batched_logits_processor]
            if batch:
                self._args.batched_logits_processor(
                    [request.request_id for request in batch],
                    [rows[request.client_id].view(1, 1, -1) for request in batch],
                    [[list(request.sequence.tokens)] for request in batch],
                    0,
                    [request.client_id for request in batch],
                )
            return
        for request in requests:
            processor = request.params.logits_processor
            for each in processor if isinstance(processor, list) else [processor] * (processor is not None):
                assert 4 <= len(inspect.signature(each).parameters) <= 5
                row = rows[request.client_id].view(1, 1, -1)
                each(request.request_id, row, [list(request.sequence.tokens)], None, None)

    def _next_token(self, request: _LlmRequest, row: torch.Tensor) -> Response:
        params, sequence = request.params, request.sequence
        if params.guided_decoding is not None:
            try:
                self._guide(request, row)
            except ValueError as error:
                # Since 1.2 it fails alone (`PyExecutor._handle_guided_decoder_errors`, pull request 9078).
                return Response(error=f"Guided decoding error: {error}")
        # Samplers leave the padding out (`vocabSize` and `vocabSizePadded` in cpp/tensorrt_llm/kernels).
        token = self._sampler.sample(row[: self._runner.vocab_size], params, sequence.answered)
        sequence.append(token, None)
        finish = None
        if token in (params.stop_token_ids or ()):
            finish = "stop_words"
        if sequence.answered >= params.max_tokens or len(sequence.tokens) >= self._runner.max_model_len:
            finish = "length"
        if token == params.end_id and not params.ignore_eos:
            finish = "end_id"
        return Response((token,), finish, request.cached)

    def _guide(self, request: _LlmRequest, row: torch.Tensor) -> None:
        if self._guides is None:
            raise ValueError("Guided decoding is not enabled.")
        if request.matcher is None:
            request.matcher = self._guides.create(request.params.guided_decoding)
        elif not request.matcher.is_terminated:
            token = request.sequence.tokens[-1]
            if not request.matcher.accept_token(token):
                raise ValueError(f"Request {request.request_id} failed to accept last new token: {token}.")
        if not request.matcher.is_terminated:
            request.matcher.apply(row)

    def _statistics(self) -> str:
        used = -(-self._slots.tokens // _BLOCK)
        total = -(-self._runner.num_slots * self._runner.max_model_len // _BLOCK)
        cache = {
            "maxNumBlocks": total,
            "freeNumBlocks": total - used,
            "usedNumBlocks": used,
            "tokensPerBlock": _BLOCK,
        }
        return json.dumps({"iter": self._iteration, "kvCacheStats": cache})


def _check_paged_context(args: BaseLlmArgs) -> None:
    """``TrtGptModelInflightBatching``, ``cpp/tensorrt_llm/batch_manager/trtGptModelInflightBatching.cpp``."""
    build = json.loads((Path(args.model) / "config.json").read_text())["build_config"]
    paged_context = build.get("plugin_config", {}).get("use_paged_context_fmha", False)
    if args.enable_chunked_prefill and not paged_context:
        raise RuntimeError("Chunked context requires context FMHA, paged kv_cache and paged context FMHA all enabled.")
    if paged_context and not args.kv_cache_config.onboard_blocks:
        raise RuntimeError("KV cache blocks need to be onboarded if context FMHA.")


def _lora_config(args: BaseLlmArgs, backend: str) -> LoraConfig | None:
    """On the PyTorch backend an argument enables LoRA, in an engine its build does (``llmapi/llm.py``)."""
    if backend == "pytorch":
        return args.lora_config
    build = json.loads((Path(args.model) / "config.json").read_text())["build_config"]
    if not build.get("plugin_config", {}).get("lora_plugin"):
        return None
    return args.lora_config or LoraConfig(**build["lora_config"])

"""Contender: the embedded executor by itself, without HTTP and JSON, with forced tokens or without."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

from benchmarks.streams import Stream
from benchmarks.workload import SCHEMA
from guidance_core.config import load_settings
from guidance_core.executors.torch.executor import TorchExecutor
from guidance_core.generation import GenerationRequest, Grammar, SamplingParams
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.tokenizer import load_ll_tokenizer


class Bare:
    """A started executor."""

    def __init__(self, name: str, executor: TorchExecutor, grammar: Grammar) -> None:
        """Run on ``executor``; constrained answers follow ``grammar``."""
        self.name = name
        self._executor = executor
        self._grammar = grammar
        self._numbers = itertools.count()

    async def run(self, prompts: list[list[int]], max_tokens: int, *, constrained: bool) -> list[Stream]:
        """Answer all prompts (token ids) at once, greedily, with ``max_tokens`` each."""
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
        grammar = self._grammar if constrained else None
        return list(await asyncio.gather(*(self._stream(prompt, sampling, grammar) for prompt in prompts)))

    async def complete(self, prompts: list[list[int]], max_tokens: int, *, streams: int) -> list[Stream]:
        """Answer the prompts greedily, each up to the end of its grammar: in order, the next one as soon as one ends.

        Args:
            prompts: token ids.
            max_tokens: of each answer.
            streams: how many are answered at the same time.
        """
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0)
        room = asyncio.Semaphore(streams)

        async def answer(prompt: list[int]) -> Stream:
            async with room:
                return await self._stream(prompt, sampling, self._grammar)

        return list(await asyncio.gather(*map(answer, prompts)))

    async def answer(self, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        """Greedy answers up to the model's own end, as token ids with the end token."""
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0)
        return [(await self._stream(prompt, sampling, None)).token_ids for prompt in prompts]

    async def _stream(self, prompt: list[int], sampling: SamplingParams, grammar: Grammar | None) -> Stream:
        request = GenerationRequest(
            request_id=f"benchmark-{next(self._numbers)}", prompt_ids=tuple(prompt), sampling=sampling, grammar=grammar
        )
        stream = Stream(perf_counter())
        async for delta in self._executor.generate(request):
            if delta.token_ids:
                stream.add(perf_counter(), len(delta.token_ids))
                stream.token_ids.extend(delta.token_ids)
                # Those that were forced come after the one that was sampled.
                forced = 0 if delta.guidance is None else delta.guidance.forced_tokens
                stream.forced += [False] * (len(delta.token_ids) - forced) + [True] * forced
            if delta.stop_token_id is not None:
                stream.token_ids.append(delta.stop_token_id)
                stream.forced.append(False)
            if delta.guidance is not None:
                stream.forced_tokens += delta.guidance.forced_tokens
                stream.mask_wait += delta.guidance.wait_seconds
            stream.complete = delta.finish_reason == "stop"
        return stream


@asynccontextmanager
async def start(
    model_path: Path,
    environment: dict[str, str],
    *,
    schema: dict[str, object] = SCHEMA,
    forced_tokens: bool = True,
) -> AsyncIterator[Bare]:
    """Load the model with the settings that ``environment`` gives; shut down with this context."""
    settings = load_settings({**environment, "GUIDED_TRTLLM_GUIDANCE__FORCED_TOKENS": str(forced_tokens).lower()})
    executor = TorchExecutor(model_path, settings)
    await executor.start()
    try:
        limits = executor.limits()
        tokenizer = load_ll_tokenizer(model_path, limits.vocab_size, limits.eos_token_ids)
        compiler = GrammarCompiler(tokenizer, settings.guidance)
        try:
            grammar = (await compiler.compile(constraint.json_schema(schema))).grammar
        finally:
            compiler.close()
        yield Bare("bare" if forced_tokens else "bare, unforced", executor, grammar)
    finally:
        await executor.shutdown()

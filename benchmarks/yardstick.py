"""Contender: the continuous batching of `transformers` 5, the yardstick, in a process of its own."""

from __future__ import annotations

import asyncio
import copy
import math
import multiprocessing
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from benchmarks.streams import Stream

Job = tuple[Literal["batch", "generate"], list[list[int]], int]


class Yardstick:
    """A process with the Hugging Face model: one job at a time, idle in between."""

    name = "transformers"

    def __init__(self, connection: Connection) -> None:
        """Talk to the process at the other end of ``connection``."""
        self._connection = connection

    async def run(self, prompts: list[list[int]], max_tokens: int, *, constrained: bool) -> list[Stream]:
        """Answer all prompts (token ids) in one continuous batch, greedily.

        Raises:
            ValueError: ``constrained``: it has no grammars.
        """
        if constrained:
            raise ValueError("transformers' continuous batching cannot follow a grammar.")
        streams: list[Stream] = await self._ask(("batch", prompts, max_tokens))
        return streams

    async def generate(self, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        """What ``model.generate`` answers greedily, to one prompt after another."""
        answers: list[list[int]] = await self._ask(("generate", prompts, max_tokens))
        return answers

    async def _ask(self, job: Job) -> Any:
        self._connection.send(job)
        try:
            result = await asyncio.get_running_loop().run_in_executor(None, self._connection.recv)
        except EOFError:
            raise RuntimeError("The process with transformers ended; its output above says why.") from None
        if isinstance(result, Exception):
            raise result
        return result


@asynccontextmanager
async def start(model_path: Path, dtype: str) -> AsyncIterator[Yardstick]:
    """Load the model in a process of its own, which ends with this context."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, model_path, dtype), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Yardstick(ours)
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _serve(connection: Connection, model_path: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, dtype))
    model.to(device)
    run = {"batch": _batch, "generate": _generate}
    while True:
        try:
            task, prompts, max_tokens = connection.recv()
        except EOFError:
            return
        try:
            connection.send(run[task](model, prompts, max_tokens))
        except Exception as error:  # whatever went wrong belongs to the asker
            connection.send(RuntimeError(f"transformers: {error!r}"))


def _batch(model: Any, prompts: list[list[int]], max_tokens: int) -> list[Stream]:
    from transformers import ContinuousBatchingConfig

    # No end token, so that every answer has max_tokens; making the manager is not in the times.
    config = copy.deepcopy(model.generation_config)
    config.update(max_new_tokens=max_tokens, do_sample=False, eos_token_id=-1)
    # By default the cache takes most of the memory, which is as fast once made but takes a minute to make.
    page_size = 256
    longest = max(len(prompt) for prompt in prompts) + max_tokens
    cache = ContinuousBatchingConfig(
        page_size=page_size, num_blocks=len(prompts) * (math.ceil(longest / page_size) + 1) + 8
    )
    outputs = model.generate_batch(
        prompts, generation_config=config, continuous_batching_config=cache, record_timestamps=True
    )
    if len(outputs) != len(prompts):
        raise RuntimeError(f"{len(outputs)} answers to {len(prompts)} prompts")
    return [
        Stream(output.created_time, output.timestamps, [1] * len(output.timestamps), output.generated_tokens)
        for output in outputs.values()
    ]


def _generate(model: Any, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
    import torch

    answers = []
    for prompt in prompts:
        inputs = torch.tensor([prompt], device=model.device)
        with torch.inference_mode():
            output = model.generate(
                inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=max_tokens
            )
        answers.append(output[0, len(prompt) :].tolist())
    return answers

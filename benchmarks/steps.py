"""`python -m benchmarks.steps`: what a grammar adds to a step of the embedded executor.

Free answers and constrained ones run side by side in one process, on one model, with prompts and answers of the same
length: a step of the one, a step of the other, in the order A B B A, so that what else the machine does, and how long
the texts have grown, meets both alike. A step is what the executor's process does for it, up to the pickled message.
Without forcing, each step of either gives each stream one token, and the pairs of steps are compared; with forcing, the
time per token. In brackets: 95 % of the estimates from resampled blocks of pairs. Of what is added to the step in the
middle, some is spent outside the forward pass, in µs; the rest is a forward pass that takes longer.

``--threads`` are the forward pass's. With one less than there are cores, masks are filled behind it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch

from benchmarks import workload
from guidance_core.config import GuidanceSettings, TorchSettings
from guidance_core.executors.torch.engine import Engine
from guidance_core.executors.torch.model_runner import ModelRunner
from guidance_core.executors.torch.process import MALLOC
from guidance_core.executors.torch.segment import Segment
from guidance_core.generation import GenerationRequest, Grammar, SamplingParams
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from guidance_core.guidance.batch import GuidanceBatch
from guidance_core.model_store import resolve

PROMPT_TOKENS = 100
ANSWER_TOKENS = 96
BLOCK = 8
RESAMPLED = 2000


class SomeSlots:
    """A part of a model's slots, as if it had no others (`engine.Runner`)."""

    def __init__(self, runner: ModelRunner, first: int, count: int) -> None:
        self._runner, self._first = runner, first
        self.num_slots = count
        self.vocab_size, self.max_model_len = runner.vocab_size, runner.max_model_len
        self.eos_token_ids, self.whole_images = runner.eos_token_ids, runner.whole_images
        self.forward_seconds = 0.0

    def forward(self, segments: Sequence[Segment], *, before_logits: Callable[[], None] | None = None) -> torch.Tensor:
        """As `ModelRunner.forward`."""
        moved = [replace(segment, slot=segment.slot + self._first) for segment in segments]
        start = perf_counter()
        logits = self._runner.forward(moved, before_logits=before_logits)
        self.forward_seconds = perf_counter() - start
        return logits

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """As `ModelRunner.copy_prefix`."""
        self._runner.copy_prefix(source + self._first, target + self._first, length)

    def clear(self, slot: int, length: int) -> None:
        """As `ModelRunner.clear`."""
        self._runner.clear(slot + self._first, length)


class Step(NamedTuple):
    """What a step took.

    Attributes:
        seconds: in all.
        outside: seconds of it outside the forward pass.
        tokens: that it gave, all streams together.
    """

    seconds: float
    outside: float
    tokens: int


class Streams:
    """Answers that run together, past their prompts."""

    def __init__(
        self,
        slots: SomeSlots,
        guidance: GuidanceBatch | None,
        settings: TorchSettings,
        prompts: Iterator[list[int]],
        count: int,
        grammar: Grammar | None,
    ) -> None:
        self._slots = slots
        engine = self._engine = Engine(slots, guidance, settings)
        # The grammar's answers are too long to end; the others must not.
        sampling = SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0, ignore_eos=grammar is None)
        for key in range(count):
            request = GenerationRequest(
                request_id=str(key), prompt_ids=tuple(next(prompts)), sampling=sampling, grammar=grammar
            )
            engine.submit(key, request)
        begun: set[int] = set()
        while len(begun) < count:
            begun.update(key for key, _ in engine.step().deltas)

    def step(self) -> Step:
        """Run one."""
        start = perf_counter()
        stepped = self._engine.step()
        ForkingPickler.dumps(stepped)
        seconds = perf_counter() - start
        assert not stepped.failures, stepped.failures
        tokens = sum(len(delta.token_ids) for _, delta in stepped.deltas)
        return Step(seconds, seconds - self._slots.forward_seconds, tokens)

    def end(self) -> None:
        """Run what is left."""
        while self._engine.runnable:
            self._engine.step()


class Pair(NamedTuple):
    """A step of each."""

    free: Step
    guided: Step


def added_median(pairs: Sequence[Pair]) -> float:
    """What a grammar adds to the step in the middle, as a share of a free one."""
    added = statistics.median(p.guided.seconds - p.free.seconds for p in pairs)
    return added / statistics.median(p.free.seconds for p in pairs)


def added_mean(pairs: Sequence[Pair]) -> float:
    """What a grammar adds to all steps together."""
    return sum(p.guided.seconds for p in pairs) / sum(p.free.seconds for p in pairs) - 1


def added_per_token(pairs: Sequence[Pair]) -> float:
    """What a grammar adds to the time per token; less than nothing where it forces enough of them."""
    guided = sum(p.guided.seconds for p in pairs) / sum(p.guided.tokens for p in pairs)
    return guided / (sum(p.free.seconds for p in pairs) / sum(p.free.tokens for p in pairs)) - 1


def with_interval(estimate: Callable[[Sequence[Pair]], float], pairs: Sequence[Pair]) -> str:
    """An estimate in percent, and the middle 95 % of what resampled blocks of pairs give."""
    blocks = [pairs[i : i + BLOCK] for i in range(0, len(pairs), BLOCK)]
    draw = random.Random(0)
    resampled = sorted(
        estimate([pair for block in draw.choices(blocks, k=len(blocks)) for pair in block]) for _ in range(RESAMPLED)
    )
    low, high = resampled[int(0.025 * RESAMPLED)], resampled[int(0.975 * RESAMPLED)]
    return f"{estimate(pairs):+.1%} [{low:+.1%}, {high:+.1%}]"


def interleave(free: Streams, guided: Streams, streams: int, number: int) -> list[Pair]:
    """So many pairs of steps, in the order A B B A; as long as all streams run."""
    pairs = []
    for index in range(number):
        if index % 2 == 0:
            one, other = free.step(), guided.step()
        else:
            other, one = guided.step(), free.step()
        if min(one.tokens, other.tokens) < streams:
            break
        pairs.append(Pair(one, other))
    return pairs


def measure(options: argparse.Namespace) -> None:
    """Measure and print a line for each number of streams."""
    path = resolve(options.model).path
    most = max(options.streams)
    length = PROMPT_TOKENS + ANSWER_TOKENS + 1
    settings = TorchSettings(
        dtype=options.dtype, max_batch_size=2 * most, num_threads=options.threads, max_model_len=length
    )
    runner = ModelRunner(path, settings, trust_remote_code=False)
    runner.warm_up()
    tokenizer = load_ll_tokenizer(path, runner.vocab_size, runner.eos_token_ids)
    compiler = GrammarCompiler(tokenizer, GuidanceSettings())
    grammar = asyncio.run(compiler.compile(constraint.json_schema(workload.SCHEMA))).grammar
    prompts = workload.distinct_prompts(path, PROMPT_TOKENS)
    gc.collect()
    gc.freeze()
    print(f"{torch.get_num_threads()} threads for the forward pass, {os.cpu_count()} cores.")
    print("| streams | free step, median | added, median step | outside the forward pass | added, all steps | ", end="")
    print("with forced tokens, per token |")
    print("|---|---|---|---|---|---|")
    for streams, rounds in zip(options.streams, options.rounds, strict=True):
        measured: dict[bool, list[Pair]] = {False: [], True: []}
        for _ in range(rounds):
            for forced, pairs in measured.items():
                guidance = GuidanceSettings(forced_tokens=forced, masks_ahead=options.masks_ahead)
                batch = GuidanceBatch(tokenizer, vocab_size=runner.vocab_size, max_rows=streams, settings=guidance)
                free = Streams(SomeSlots(runner, 0, streams), None, settings, prompts, streams, None)
                guided = Streams(SomeSlots(runner, most, streams), batch, settings, prompts, streams, grammar)
                interleave(free, guided, streams, 2)
                pairs += interleave(free, guided, streams, ANSWER_TOKENS)
                free.end()
                guided.end()
                batch.close()
        one_each, forced_too = measured[False], measured[True]
        median = 1e3 * statistics.median(pair.free.seconds for pair in one_each)
        outside = 1e6 * statistics.median(pair.guided.outside - pair.free.outside for pair in one_each)
        cells = [
            f"{median:.1f} ms",
            with_interval(added_median, one_each),
            f"{outside:+.0f} µs",
            with_interval(added_mean, one_each),
            with_interval(added_per_token, forced_too),
        ]
        print(f"| {streams} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Read the command line and measure, with the executor's memory settings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="tag in the Bento model store")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--threads", type=int, help="torch's; all cores by default")
    parser.add_argument("--masks-ahead", default="auto", choices=["auto", "always", "never"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, nargs="+", default=[4, 3, 2], help="for each of --streams")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        # Read by the allocator when a process starts.
        root = Path(__file__).parents[1]
        os.chdir(root)
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.steps", *sys.argv[1:]], {**os.environ, **MALLOC})
    measure(options)


if __name__ == "__main__":
    main()

"""The loop's body: one step of the running batch, from the schedule to the deltas."""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import torch

from guidance_core.config import TorchSettings
from guidance_core.errors import GenerationFailed, InvalidGrammar, RequestError
from guidance_core.executors.base import ExecutorStats
from guidance_core.executors.torch.images import SequenceImage
from guidance_core.executors.torch.logprobs import token_logprobs
from guidance_core.executors.torch.lora_cache import LoraCache
from guidance_core.executors.torch.messages import Stepped
from guidance_core.executors.torch.sampler import Sample, sample
from guidance_core.executors.torch.scheduler import Plan, Scheduler, Work
from guidance_core.executors.torch.segment import Segment
from guidance_core.executors.torch.sequence import Sequence
from guidance_core.executors.torch.slots import Slots
from guidance_core.generation import GenerationRequest, TokenDelta, TokenLogprob
from guidance_core.guidance.batch import GuidanceBatch, GuidanceRowTimes

_log = logging.getLogger(__name__)

_MASS_EVERY = 16
"""Unasked, the allowed probability is measured at one step in so many, for metrics: it takes a pass over the logits of
every row under a grammar, which for 32 rows of a small model is some 2.5 % of a step."""


class Runner(Protocol):
    """What the engine needs of a `ModelRunner`."""

    vocab_size: int
    max_model_len: int
    num_slots: int
    eos_token_ids: tuple[int, ...]
    whole_images: bool

    def forward(self, segments: Rows[Segment], *, before_logits: Callable[[], None] | None = None) -> torch.Tensor:
        """See `ModelRunner.forward`."""

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `ModelRunner.copy_prefix`."""

    def clear(self, slot: int, length: int) -> None:
        """See `ModelRunner.clear`."""


class EngineBroken(Exception):
    """The model does not even run a single token any more: nothing helps but a new process."""


class _Scored(NamedTuple):
    """A token whose log-probabilities a row of logits tells."""

    row: int
    work: int
    token_id: int


@dataclass(slots=True)
class _Result:
    """What one part of a step computed, before any state has changed."""

    scores: list[TokenLogprob]
    sample: Sample | None = None
    times: GuidanceRowTimes | None = None


class Engine:
    """Requests in, deltas out. Not thread-safe: everything happens in the thread that runs the model.

    Args:
        runner: the model.
        guidance: the batch's matchers; None where the model's tokenizer does not allow any.
        settings: of the executor.
        adapters: of the requests that want one; None where there are none.
    """

    def __init__(
        self,
        runner: Runner,
        guidance: GuidanceBatch | None,
        settings: TorchSettings,
        adapters: LoraCache | None = None,
    ) -> None:
        self._runner = runner
        self._guidance = guidance
        self._adapters = adapters
        self._slots = Slots(runner.num_slots, runner.max_model_len, share=settings.prefix_cache)
        self._scheduler = Scheduler(self._slots, settings.max_num_tokens, whole_images=runner.whole_images)
        self._eos = tuple(token for token in runner.eos_token_ids if token < runner.vocab_size)
        self._compiling: deque[tuple[int, GenerationRequest]] = deque()
        self._sequences: dict[int, dict[int, Sequence]] = {}
        self._next_id = 0
        self._deltas: list[tuple[int, TokenDelta]] = []
        self._failures: list[tuple[int, RequestError]] = []
        self._steps = self._prompt_tokens = self._cached_tokens = self._sampled_tokens = self._forced_tokens = 0

    @property
    def runnable(self) -> bool:
        """Whether `step` would run the model."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    @property
    def compiling(self) -> bool:
        """Whether requests wait for their grammars."""
        return bool(self._compiling)

    def submit(self, key: int, request: GenerationRequest) -> None:
        """Queue a request, which has been checked.

        Args:
            key: unique in the engine's life; deltas and failures carry it.
            request: see `GenerationRequest`.
        """
        self._compiling.append((key, request))
        self._admit_compiled()

    def abort(self, key: int) -> None:
        """Drop a request and all its choices. Unknown keys are ignored: it may have ended."""
        self._compiling = deque(item for item in self._compiling if item[0] != key)
        for sequence in list(self._sequences.get(key, {}).values()):
            self._remove(sequence)

    def finish_choice(self, key: int, index: int) -> None:
        """End one choice with ``stop``; unknown ones are ignored."""
        sequence = self._sequences.get(key, {}).get(index)
        if sequence is not None:
            self._deltas.append((key, sequence.cut_off()))
            self._remove(sequence)

    def step(self) -> Stepped:
        """Run one step, where there is something to run, and say what is new since the last one.

        Raises:
            EngineBroken: see there.
        """
        self._admit_compiled()
        plan = self._scheduler.schedule()
        if plan.work:
            self._run(plan)
        deltas, self._deltas = self._deltas, []
        failures, self._failures = self._failures, []
        return Stepped(deltas, failures, self.stats())

    def stats(self) -> ExecutorStats:
        """A snapshot; ``restarts`` is the parent's to know."""
        grammars = None if self._guidance is None else self._guidance.prototypes
        return ExecutorStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting) + sum(r.sampling.n for _, r in self._compiling),
            slots=self._runner.num_slots,
            kv_tokens=self._slots.tokens,
            kv_capacity=self._runner.num_slots * self._runner.max_model_len,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            sampled_tokens=self._sampled_tokens,
            forced_tokens=self._forced_tokens,
            grammar_hits=0 if grammars is None else grammars.hits,
            grammar_misses=0 if grammars is None else grammars.misses,
            grammar_evictions=0 if grammars is None else grammars.evictions,
        )

    def _admit_compiled(self) -> None:
        """Queue the requests that have no grammar or whose grammar is compiled; the others do not hold them up.

        One whose adapter has no room until others end holds up those behind it that want one, too, or it might wait
        for ever.
        """
        compiling: deque[tuple[int, GenerationRequest]] = deque()
        crowded = False
        for key, request in self._compiling:
            if request.lora is not None and self._adapters is not None:
                crowded = crowded or not self._adapters.has_room(request.lora)
                if crowded:
                    compiling.append((key, request))
                    continue
            if (
                request.grammar is None
                or self._guidance is None
                or self._guidance.prepare(request.grammar, complete=request.complete)
            ):
                try:
                    self._enqueue(key, request)
                except RequestError as error:
                    self._fail_request(key, error)
                except Exception as error:
                    _log.exception("Request %s could not be queued.", request.request_id)
                    self._fail_request(key, GenerationFailed(f"The request could not be started: {error}"))
            else:
                compiling.append((key, request))
        self._compiling = compiling

    def _enqueue(self, key: int, request: GenerationRequest) -> None:
        for sequence in self._choices(key, request):
            self._sequences.setdefault(key, {})[sequence.index] = sequence
            self._scheduler.add(sequence)
            if request.grammar is not None:
                assert self._guidance is not None, "check() refuses grammars where there is no guidance"
                self._guidance.add(sequence.id, request.grammar)
                if request.complete:
                    self._guidance.complete(
                        sequence.id,
                        request.grammar,
                        max_tokens=request.sampling.max_tokens,
                        stop_token_ids=request.sampling.stop_token_ids,
                    )
                start = self._guidance.start(sequence.id)
                if start.error is not None:
                    raise _grammar_failure(start.error, sequence)
                sequence.follow(start.forced, stopped=start.stopped, accepting=start.accepting)
                self._forced_tokens += sequence.answered
        # Not before all choices are there: the request is forgotten with its last one.
        for sequence in list(self._sequences[key].values()):
            if sequence.done:
                self._emit(sequence)

    def _choices(self, key: int, request: GenerationRequest) -> list[Sequence]:
        """A request's sequences, of which nothing knows yet."""
        seed = random.getrandbits(64) if request.sampling.seed is None else request.sampling.seed
        # What is left of them in the end is freed with the last choice that needs it.
        images = [SequenceImage(image) for image in request.images]
        request = replace(request, images=()) if images else request
        first_id = self._next_id
        self._next_id += request.sampling.n
        choices = [
            Sequence(first_id + index, key, index, request, eos_token_ids=self._eos, seed=seed, images=images)
            for index in range(request.sampling.n)
        ]
        # Last, as whatever failed before would have to give it back.
        if request.lora is not None:
            assert self._adapters is not None, "check() refuses adapters where there are none"
            lora = self._adapters.acquire(request.lora)
            for sequence in choices:
                sequence.lora = lora
        return choices

    def _run(self, plan: Plan) -> None:
        for source, target, length in plan.copies:
            self._runner.copy_prefix(source, target, length)
        for sequence in plan.placed:
            self._prompt_tokens += len(sequence.prompt)
            self._cached_tokens += sequence.cached
        self._steps += 1
        sampled: list[tuple[Work, _Result]] = []
        for work, result in self._compute_or_fail(plan.work):
            sequence, segment = work.sequence, work.segment
            end = segment.start + len(segment.token_ids)
            self._slots.write(segment.slot, segment.start, sequence.keys(segment.start, end))
            sequence.computed = end
            if sequence.images:
                sequence.pass_images()
            for score in result.scores:
                sequence.score(score)
            if any(math.isnan(score.logprob) for score in result.scores):
                invalid = GenerationFailed("The model computed invalid numbers (NaN or infinity) for this request.")
                self._fail(sequence, invalid, work)
                continue
            if result.sample is not None:
                sampled.append((work, result))
            elif result.scores and self._is_live(sequence):
                self._emit(sequence)
        self._take_samples(sampled)

    def _compute_or_fail(self, works: list[Work]) -> list[tuple[Work, _Result]]:
        """Run some sequences together; where that fails, in halves, until the culprit is alone, and fails alone.

        Running a segment again is harmless: it writes the same keys and values to the same positions, and everything
        else is changed only after all of it succeeded.
        """
        # The failure of one choice ends all choices of its request.
        works = [work for work in works if self._is_live(work.sequence)]
        if not works:
            return []
        try:
            return list(zip(works, self._compute(works), strict=True))
        except Exception as error:
            if len(works) > 1:
                middle = len(works) // 2
                return self._compute_or_fail(works[:middle]) + self._compute_or_fail(works[middle:])
            [work] = works
            _log.exception("Request %s made a step fail.", work.sequence.request.request_id)
            self._fail(work.sequence, GenerationFailed(f"The model failed on this request: {error}"), work)
            self._probe(work.segment.slot, error)
            return []

    def _compute(self, works: list[Work]) -> list[_Result]:
        """Forward pass, masks and sampling. Changes nothing but the slots' keys and values."""
        results = [_Result([]) for _ in works]
        sampled: list[int] = []
        sampled_rows: list[int] = []
        in_prompts: list[_Scored] = []
        in_answers: list[_Scored] = []
        rows = 0
        for index, work in enumerate(works):
            sequence, segment = work.sequence, work.segment
            if segment.logits == "none":
                continue
            first = 0 if segment.logits == "all" else len(segment.token_ids) - 1
            for offset in range(first, len(segment.token_ids)):
                position = segment.start + offset
                if position + 1 < len(sequence.tokens):
                    scored = _Scored(rows, index, sequence.tokens[position + 1])
                    (in_prompts if position + 1 < len(sequence.prompt) else in_answers).append(scored)
                else:
                    sampled.append(index)
                    sampled_rows.append(rows)
                rows += 1
        sequences = [works[index].sequence for index in sampled]
        guided = [(row, s.id) for row, s in enumerate(sequences) if s.request.grammar is not None]
        begin = partial(self._guidance.begin, guided) if guided and self._guidance is not None else None
        logits = self._runner.forward([work.segment for work in works], before_logits=begin)
        for tokens, ranked in ((in_prompts, True), (in_answers, False)):
            if tokens:
                samplings = [works[scored.work].sequence.sampling for scored in tokens]
                top = [(s.prompt_logprobs if ranked else s.logprobs) or 0 for s in samplings]
                chosen = [scored.token_id for scored in tokens]
                scores = token_logprobs(logits[[scored.row for scored in tokens]], chosen, top, ranked=ranked)
                for scored, score in zip(tokens, scores, strict=True):
                    results[scored.work].scores.append(score)
        if in_prompts or in_answers:
            logits = logits[sampled_rows]
        if not sampled:
            return results
        masks = self._guidance if guided else None
        samples = sample(logits, sequences, masks, measure_masses=self._steps % _MASS_EVERY == 0)
        times = masks.wait() if masks is not None else {}
        for index, sequence, row in zip(sampled, sequences, samples, strict=True):
            results[index].sample = row
            results[index].times = times.get(sequence.id)
        return results

    def _take_samples(self, sampled: list[tuple[Work, _Result]]) -> None:
        live: list[tuple[Sequence, Sample]] = []
        for work, result in sampled:
            sequence, row, times = work.sequence, result.sample, result.times
            assert row is not None
            if not self._is_live(sequence):
                continue
            if times is not None and times.error is not None:
                self._fail(sequence, _grammar_failure(times.error, sequence), work)
                continue
            if row.error is not None:
                self._fail(sequence, GenerationFailed(row.error), work)
                continue
            live.append((sequence, row))
            if times is not None:
                sequence.add_guidance(times.mask_seconds, times.wait_seconds, row.allowed_mass)
            if self._guidance is not None and sequence.request.grammar is not None and not sequence.accepting:
                sequence.accepting = self._guidance.may_end_with(sequence.id, row.token_id)
            sequence.append(row.token_id, row.logprob)
            self._sampled_tokens += 1
        committed = [
            (sequence.id, row.token_id)
            for sequence, row in live
            if sequence.request.grammar is not None and sequence.stop_token_id is None and self._is_live(sequence)
        ]
        commits = self._guidance.commit(committed) if self._guidance is not None else {}
        for sequence, _ in live:
            if not self._is_live(sequence):
                continue
            commit = commits.get(sequence.id)
            if commit is not None:
                if commit.error is not None:
                    self._fail(sequence, _grammar_failure(commit.error, sequence))
                    continue
                before = sequence.answered
                sequence.follow(commit.forced, stopped=commit.stopped, accepting=commit.accepting)
                self._forced_tokens += sequence.answered - before
            self._emit(sequence)

    def _is_live(self, sequence: Sequence) -> bool:
        return sequence.index in self._sequences.get(sequence.key, {})

    def _emit(self, sequence: Sequence) -> None:
        delta = sequence.take_delta()
        if delta is not None:
            self._deltas.append((sequence.key, delta))
        if sequence.done:
            self._remove(sequence)

    def _remove(self, sequence: Sequence) -> None:
        """Forget a sequence; its slot keeps what was written there."""
        self._scheduler.remove(sequence)
        if self._guidance is not None:
            self._guidance.remove(sequence.id)
        choices = self._sequences[sequence.key]
        del choices[sequence.index]
        if not choices:
            del self._sequences[sequence.key]
            if self._adapters is not None and sequence.lora is not None:
                self._adapters.release(sequence.lora)

    def _fail(self, sequence: Sequence, error: RequestError, work: Work | None = None) -> None:
        """End the request that a sequence belongs to. What ``work`` wrote, and all under it, cannot be trusted."""
        if work is not None:
            self._slots.forget(work.segment.slot)
            # A NaN beyond a later sequence's end would still reach it: attention multiplies it by 0.
            self._runner.clear(work.segment.slot, work.segment.start + len(work.segment.token_ids))
        self._fail_request(sequence.key, error)

    def _fail_request(self, key: int, error: RequestError) -> None:
        self.abort(key)
        self._failures.append((key, error))

    def _probe(self, slot: int, error: Exception) -> None:
        """Is it the request that failed, or the engine? A device that is lost fails on everything from then on."""
        try:
            self._runner.forward([Segment(slot, 0, [0], "last")])
        except Exception:
            raise EngineBroken(f"The model no longer runs: {error}") from error


def _grammar_failure(why: str, sequence: Sequence) -> RequestError:
    """What a request is told whose matcher failed; ``why`` is llguidance's reason."""
    # Where no token has one of the bytes that a grammar forces, llguidance forces the tokens of the others, and then
    # does not take them (`apply_token` in its parser.rs); elsewhere it finds no token at all.
    if "forced bytes" in why or why == "NoExtensionBias":
        return InvalidGrammar(
            "The grammar leads to where no token of the model's vocabulary is allowed: it contradicts itself there, or "
            "demands a character that the vocabulary cannot write, such as a control character or one that Unicode has "
            f"not assigned. (llguidance: {why})"
        )
    if not sequence.is_reported:
        return InvalidGrammar(f"llguidance cannot begin a text in the grammar: {why}. Make it simpler or shorter.")
    return GenerationFailed(f"The grammar failed: {why}")

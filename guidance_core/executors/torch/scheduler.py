"""Who runs in the next step, and how much."""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from guidance_core.executors.torch.segment import Segment
from guidance_core.executors.torch.sequence import Sequence
from guidance_core.executors.torch.slots import Slots, common_prefix

_MAX_SCORED_TOKENS = 256
"""Most prompt tokens in one step of which logits are wanted. Each takes a row as wide as the vocabulary, and half a
dozen times as much while it is computed: 256 rows of 150,000 float32 are 150 MB."""


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's part of a step."""

    sequence: Sequence
    segment: Segment


@dataclass(slots=True)
class Plan:
    """One step.

    Attributes:
        copies: (source slot, target slot, length) of the prefixes to be copied before the forward pass.
        work: what the forward pass runs.
        placed: sequences that have just been given a slot.
        scored: how many prompt tokens of `work` give log-probabilities.
    """

    copies: list[tuple[int, int, int]] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    placed: list[Sequence] = field(default_factory=list)
    scored: int = 0


class Scheduler:
    """First come, first served, for a slot and for prefill, but lower `GenerationRequest.priority` first for a slot;
    whoever answers already goes on at every step.

    Args:
        slots: of the KV cache.
        max_num_tokens: most tokens of one step.
        whole_images: an image's tokens see each other, so they are run in one step, even if it gets longer than that.

    Raises:
        ValueError: a step could not hold one token of every slot.
    """

    def __init__(self, slots: Slots, max_num_tokens: int, *, whole_images: bool = False) -> None:
        if max_num_tokens <= slots.free:
            raise ValueError(
                f"torch.max_num_tokens is {max_num_tokens}, which leaves no room for prompts when all "
                f"{slots.free} sequences of torch.max_batch_size are running: make it larger than that, or "
                "max_batch_size smaller."
            )
        self.slots = slots
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._max_num_tokens = max_num_tokens
        self._whole_images = whole_images

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        insort(self.waiting, sequence, key=lambda waiting: (waiting.request.priority, waiting.id))

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and free its slot, which keeps the tokens that were run."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self.slots.release(sequence.slot)

    def schedule(self) -> Plan:
        """Plan the next step; empty when there is nothing to do."""
        plan = Plan()
        answering = [sequence for sequence in self.running if not sequence.in_prefill]
        # A token for everyone who answers already: nobody waits because of somebody else's long prompt.
        budget = self._max_num_tokens - len(answering)
        # What a grammar forced runs along with it.
        for sequence in answering:
            budget -= self._run(plan, sequence, 1 + budget) - 1
        # The prompts that have been begun, then those that wait, with what is left.
        for sequence in self.running:
            if sequence.in_prefill and budget > 0:
                budget -= self._run(plan, sequence, budget)
        if budget > 0 and self.slots.free:
            self._admit(plan, budget)
        return plan

    def _admit(self, plan: Plan, budget: int) -> None:
        postponed: list[Sequence] = []
        while self.waiting and budget > 0 and self.slots.free > len(postponed):
            sequence = self.waiting.popleft()
            if self._is_worth_waiting(sequence):
                postponed.append(sequence)
                continue
            placement = self.slots.place(sequence)
            sequence.slot, sequence.computed, sequence.cached = placement.slot, placement.cached, placement.cached
            if placement.source is not None:
                plan.copies.append((placement.source, placement.slot, placement.cached))
            self.running.append(sequence)
            plan.placed.append(sequence)
            budget -= self._run(plan, sequence, budget)
        self.waiting.extendleft(reversed(postponed))

    def _is_worth_waiting(self, sequence: Sequence) -> bool:
        """Whether a prompt that is being run now will spare this one at least half of its work.

        So the choices of one request run its prompt once, and so do requests with one system prompt that come together.
        """
        if sequence.scores_prompt:
            return False
        prompt = sequence.prompt[:-1]
        known = self.slots.longest_prefix(sequence)
        for other in self.running:
            if other.in_prefill and self.slots.may_share(sequence, other):
                spared = common_prefix(prompt, other.prompt) - known
                if 2 * spared >= len(sequence.prompt) - known:
                    return True
        return False

    def _run(self, plan: Plan, sequence: Sequence, budget: int) -> int:
        """Add as much of a sequence as fits, and say how many tokens that is."""
        assert sequence.slot is not None
        start = sequence.computed
        end = self._beside_images(sequence, start + min(sequence.pending, budget))
        scoring = sequence.first_scoring_position()
        logits: Literal["none", "last", "all"]
        if not sequence.unscored:
            logits = "last" if end == len(sequence.tokens) else "none"
        elif start < scoring:
            # Stop before the first row that is wanted, so that no prompt token gets a row of logits for nothing.
            end, logits = min(end, scoring), "none"
        else:
            logits = "all"
            if sequence.scores_prompt and sequence.in_prefill:
                end = self._beside_images(sequence, min(end, start + _MAX_SCORED_TOKENS - plan.scored))
                plan.scored += end - start
            if sequence.scored_end < len(sequence.tokens):
                end = min(end, sequence.scored_end - 1)  # behind it are forced tokens of which no rows are wanted
            if end == start:
                return 0
        images = [image for image in sequence.images if image.lies_in(start, end)]
        segment = Segment(
            sequence.slot, start, sequence.tokens[start:end], logits, sequence.lora, images, sequence.grid
        )
        plan.work.append(Work(sequence, segment))
        return end - start

    def _beside_images(self, sequence: Sequence, end: int) -> int:
        """Where a chunk ends that should end at ``end``, but not inside an image that is run as a whole."""
        if self._whole_images:
            for image in sequence.images:
                for first, after in image.blocks:
                    if first < end < after:
                        return first if first > sequence.computed else after
        return end

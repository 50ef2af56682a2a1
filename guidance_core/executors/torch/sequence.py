"""One choice of one request, from its prompt to its finish reason."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from guidance_core.executors.torch.draws import choice_seed, uniform
from guidance_core.executors.torch.images import SequenceImage, grid_positions, prefix_keys
from guidance_core.executors.torch.token_counts import TokenCounts
from guidance_core.generation import FinishReason, GenerationRequest, GuidanceTimes, TokenDelta, TokenLogprob

if TYPE_CHECKING:
    from guidance_core.executors.torch.lora import LoadedAdapter


class Sequence:
    """The state of a choice; decisions about it are the scheduler's, tensors are the runner's and the sampler's.

    Attributes:
        id: unique in the engine's life.
        key: of the request, unique likewise (request ids may come again).
        index: which choice of the request.
        request: as it came.
        prompt: int64 [prompt tokens], for comparing with what slots hold: see `prefix_keys`.
        tokens: prompt and answer so far. The last one's keys and values are never in the slot yet.
        slot: KV cache slot, None while waiting.
        computed: how many tokens' keys and values are in the slot.
        cached: how many of them came out of the prefix cache.
        lora: the adapter that it is run with; None for the model as it is.
        images: those of the prompt that have not all been run yet.
        grid: where its tokens stand, if images make that other than counted.
        scores_prompt: log-probabilities of the prompt are wanted of this choice: of the request's first one.
        accepting: the answer so far is in the grammar (meaningless without one).
        counts: for penalties, None where there are none.
        finish_reason: set once the answer is complete; log-probabilities of its last tokens may still be missing.
    """

    def __init__(
        self,
        id: int,
        key: int,
        index: int,
        request: GenerationRequest,
        *,
        eos_token_ids: Tokens[int],
        seed: int,
        images: Tokens[SequenceImage] = (),
    ) -> None:
        """A choice that nothing has been computed for.

        Args:
            id: see the class.
            key: see the class.
            index: see the class.
            request: checked before (`executors.request_limits`).
            eos_token_ids: the model's own end tokens.
            seed: the request's, or a fresh one where it has none.
            images: of the request, shared by its choices.
        """
        sampling = request.sampling
        self.id = id
        self.key = key
        self.index = index
        self.request = request
        self.sampling = sampling
        self.prompt: npt.NDArray[np.int64] = prefix_keys(request.prompt_ids, images)
        self.tokens = list(request.prompt_ids)
        self.lora: LoadedAdapter | None = None
        self.images = tuple(images)
        self.grid = grid_positions(len(self.tokens), images)
        self.slot: int | None = None
        self.computed = 0
        self.cached = 0
        self.accepting = False
        self.finish_reason: FinishReason | None = None
        self.stop_token_id: int | None = None
        self._stop_logprob: TokenLogprob | None = None
        penalised = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1, 0, 0)
        self.counts = TokenCounts(request.prompt_ids) if penalised else None
        self._seed = choice_seed(seed, index)
        self._eos = tuple(eos_token_ids)
        # Under a grammar it is the grammar that says where the answer ends: its end is an end token, come what may.
        own_ends = () if sampling.ignore_eos and request.grammar is None else self._eos
        self._end_ids = tuple(dict.fromkeys((*own_ends, *sampling.stop_token_ids)))
        self.scores_prompt = sampling.prompt_logprobs is not None and index == 0
        self._reported = len(self.tokens)
        self._scored = 1 if self.scores_prompt else len(self.tokens)
        self._prompt_logprobs: list[TokenLogprob] = []
        self._logprobs: list[TokenLogprob] = []
        self._first_delta = True
        self._forced = 0
        self._times = GuidanceTimes()
        if not sampling.max_tokens and request.grammar is None:
            self.finish_reason = "length"

    @property
    def answered(self) -> int:
        """How many tokens of the answer there are."""
        return len(self.tokens) - len(self.prompt)

    @property
    def pending(self) -> int:
        """How many tokens are to be run before the next one can be sampled (or the last ones' logprobs are known)."""
        # The very last token of a finished answer predicts nothing that anyone asked for.
        return len(self.tokens) - self.computed - (self.finish_reason is not None)

    @property
    def in_prefill(self) -> bool:
        """Whether the prompt has not all been run yet."""
        return self.computed < len(self.prompt)

    @property
    def unscored(self) -> int:
        """How many tokens still lack the log-probabilities that the request asks for: the prompt's, or forced ones."""
        return max(self.scored_end - self._scored, 0)

    @property
    def scored_end(self) -> int:
        """The position behind the last token whose log-probabilities are wanted from a forward pass."""
        return len(self.prompt if self.sampling.logprobs is None else self.tokens)

    @property
    def done(self) -> bool:
        """Whether everything about the answer is known."""
        return self.finish_reason is not None and not self.unscored

    def keys(self, start: int, end: int) -> Tokens[int]:
        """What tokens of these positions are for the prefix cache."""
        if start >= len(self.prompt):
            return self.tokens[start:end]
        return [*self.prompt[start:end].tolist(), *self.tokens[len(self.prompt) : end]]

    def pass_images(self) -> None:
        """Let go of the images whose tokens have all been run."""
        self.images = tuple(image for image in self.images if image.positions[-1] >= self.computed)

    def uniform(self, attempt: int = 0) -> float:
        """The random number in [0, 1) of the next token: a function of (seed, index), its position and attempt only."""
        return uniform(self._seed, self.answered, attempt)

    def forbidden_ends(self) -> tuple[int, ...]:
        """End tokens that must not be sampled now, unless the grammar allows nothing else."""
        if self.answered < self.sampling.min_tokens:
            return self._end_ids
        if self.request.complete and not self.accepting:
            return self.sampling.stop_token_ids
        return self._eos if self.sampling.ignore_eos and self.request.grammar is not None else ()

    def forbidden(self) -> tuple[int, ...]:
        """Tokens that must not be sampled now, unless the grammar allows nothing else: ends and bad sequences' last."""
        bad = self.sampling.bad_token_ids
        if not bad:
            return self.forbidden_ends()
        return (*self.forbidden_ends(), *(ids[-1] for ids in bad if self._ends_with(ids[:-1])))

    def append(self, token: int, logprob: TokenLogprob | None) -> None:
        """Take a sampled token: it becomes part of the answer, or ends it."""
        if token in self._end_ids:
            self.finish_reason = "stop" if self.request.grammar is None or self.accepting else "length"
            self.stop_token_id = token
            self._stop_logprob = logprob
            return
        self._extend(token)
        self._scored += 1
        if logprob is not None:
            self._logprobs.append(logprob)
        if self.answered >= self.sampling.max_tokens:
            self.finish_reason = "length"

    def follow(self, forced: Tokens[int], *, stopped: bool, accepting: bool) -> None:
        """Take what the grammar says after the tokens so far.

        Args:
            forced: the only way to go on; what is beyond ``max_tokens`` is cut off.
            stopped: after ``forced`` the answer is complete.
            accepting: after ``forced`` the answer is in the grammar.
        """
        room = self.sampling.max_tokens - self.answered
        for token in forced[:room]:
            self._extend(token)
            self._forced += 1
        self.accepting = accepting
        if stopped and len(forced) <= room:
            self.finish_reason = "stop"
        elif self.answered >= self.sampling.max_tokens:
            self.finish_reason = "length"

    def first_scoring_position(self) -> int:
        """The position whose logits give the first missing logprob."""
        return self._scored - 1

    def score(self, logprob: TokenLogprob) -> None:
        """Take the logprob of the first token that lacks one."""
        (self._prompt_logprobs if self._scored < len(self.prompt) else self._logprobs).append(logprob)
        self._scored += 1

    def add_guidance(self, mask_seconds: float, wait_seconds: float, allowed_mass: float | None) -> None:
        """Account for one mask."""
        before = self._times
        self._times = GuidanceTimes(
            0, before.mask_seconds + mask_seconds, before.wait_seconds + wait_seconds, allowed_mass
        )

    @property
    def is_reported(self) -> bool:
        """Whether a delta has been taken."""
        return not self._first_delta

    def take_delta(self) -> TokenDelta | None:
        """What is new since the last call, or None where nothing is."""
        wanted = self.sampling.logprobs is not None
        end = self._scored if wanted else len(self.tokens)
        if (end == self._reported and not self.done) or self._scored < len(self.prompt):
            return None
        guidance = None
        if self.request.grammar is not None:
            times = self._times
            # Forced tokens lie at the end; those that still lack a logprob belong to the next delta.
            forced = self._forced - (len(self.tokens) - end)
            guidance = GuidanceTimes(forced, times.mask_seconds, times.wait_seconds, times.allowed_mass)
            self._forced -= forced
            self._times = GuidanceTimes()
        delta = TokenDelta(
            index=self.index,
            token_ids=tuple(self.tokens[self._reported : end]),
            logprobs=tuple(self._logprobs) if wanted else None,
            finish_reason=self.finish_reason if self.done else None,
            stop_token_id=self.stop_token_id if self.done else None,
            stop_logprob=self._stop_logprob if self.done else None,
            guidance=guidance,
            cached_tokens=self.cached if self._first_delta else None,
            prompt_logprobs=tuple(self._prompt_logprobs) if self._first_delta and self.scores_prompt else None,
        )
        self._reported = end
        self._prompt_logprobs = []
        self._logprobs = []
        self._first_delta = False
        return delta

    def cut_off(self) -> TokenDelta:
        """The last delta of an answer that the caller needs no more of."""
        return TokenDelta(
            index=self.index, finish_reason="stop", cached_tokens=self.cached if self._first_delta else None
        )

    def _ends_with(self, ids: tuple[int, ...]) -> bool:
        """Whether these are the answer's last tokens."""
        return len(ids) <= self.answered and tuple(self.tokens[len(self.tokens) - len(ids) :]) == ids

    def _extend(self, token: int) -> None:
        self.tokens.append(token)
        if self.counts is not None:
            self.counts.add(token)

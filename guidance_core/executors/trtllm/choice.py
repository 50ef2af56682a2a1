"""One choice of a request as the service sees it: the engine's tokens in, checked deltas out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from guidance_core.errors import GenerationFailed
from guidance_core.executors.proof import Proof
from guidance_core.executors.trtllm.task import Report
from guidance_core.generation import FinishReason, GenerationRequest, GuidanceTimes, TokenDelta, TokenLogprob


class Choice:
    """What has been answered so far.

    Attributes:
        sampled: tokens so far, the end token included.

    Args:
        request: the whole request.
        index: which choice.
        own_ends: tokens that end the answer because they are the model's end tokens.
        proof: of the grammar, where there is one.
        report: gives what our processor drew at a position, if it is this token, and raises `GenerationFailed` if
            not; None where the engine's sampler chooses.
    """

    def __init__(
        self,
        request: GenerationRequest,
        index: int,
        *,
        own_ends: Sequence[int],
        proof: Proof | None,
        report: Callable[[int, int], Awaitable[Report]] | None,
    ) -> None:
        self.request = request
        self.index = index
        self.sampled = 0
        self._own_ends = frozenset(own_ends)
        self._ends = self._own_ends | set(request.sampling.stop_token_ids)
        self._proof = proof
        self._report = report
        self._answered = 0
        self._is_first = True

    async def take(
        self, new_ids: Sequence[int], *, engine_finish: str | None, engine_stop: int | None, cached_tokens: int
    ) -> TokenDelta | None:
        """The delta that new tokens make; None where there is nothing to say.

        Args:
            new_ids: of the engine, possibly with the end token at the end.
            engine_finish: the engine's finish reason, where it has one.
            engine_stop: the token that the engine says it stopped at.
            cached_tokens: of the prompt, from the prefix cache.

        Raises:
            GenerationFailed: the answer is not what was asked for.
        """
        tokens: list[int] = []
        logprobs: list[TokenLogprob] = []
        times = GuidanceTimes()
        finish: FinishReason | None = None
        stop_token: int | None = None
        stop_logprob: TokenLogprob | None = None
        ending = [engine_stop] if engine_finish == "stop" and engine_stop is not None else []
        if new_ids and new_ids[-1] in self._ends:
            ending = []  # not trimmed from the tokens
        for token in [*new_ids, *ending]:
            report = await self._report(self._answered, token) if self._report is not None else None
            self.sampled += 1
            if report is not None:
                times = GuidanceTimes(
                    0,
                    times.mask_seconds + report.mask_seconds,
                    times.wait_seconds + report.wait_seconds,
                    report.allowed_mass,
                )
            if token in self._ends:
                stop_token, stop_logprob = token, report.logprob if report is not None else None
                finish = self._finish_at(token)
                break
            tokens.append(token)
            self._answered += 1
            if report is not None and report.logprob is not None:
                logprobs.append(report.logprob)
            if self._proof is not None:
                self._proof.take_tokens([token])
                if self._proof.stopped:
                    finish = "stop"
                    break
            if self._answered >= self.request.sampling.max_tokens:
                finish = "length"
                break
        if finish is None and engine_finish == "length":
            # Where memory holds less than a whole context, `KVCacheManager` lowers ``max_seq_len``, and tells nobody
            # (``KvCacheCreator`` in ``_torch/pyexecutor/_util.py``).
            finish = "length"
        if finish is None and engine_finish is not None:
            raise GenerationFailed(f"TensorRT-LLM ended the answer early: {engine_finish}.")
        if not tokens and finish is None:
            return None
        return self._delta(
            tuple(tokens),
            tuple(logprobs),
            finish,
            times,
            cached_tokens,
            stop_token=stop_token,
            stop_logprob=stop_logprob,
        )

    def cut_off(self) -> TokenDelta:
        """The last delta of a choice that the caller needs no more of."""
        return self._delta((), (), "stop", GuidanceTimes(), 0)

    def _finish_at(self, token: int) -> FinishReason:
        if self._proof is None or self._proof.accepting:
            return "stop"
        if token in self._own_ends and self._proof.may_end_with(token):
            return "stop"
        if token in self.request.sampling.stop_token_ids:
            return "length"
        raise GenerationFailed("The answer ended where the grammar does not; the service's log may say why.")

    def _delta(
        self,
        tokens: tuple[int, ...],
        logprobs: tuple[TokenLogprob, ...],
        finish: FinishReason | None,
        times: GuidanceTimes,
        cached_tokens: int,
        *,
        stop_token: int | None = None,
        stop_logprob: TokenLogprob | None = None,
    ) -> TokenDelta:
        delta = TokenDelta(
            index=self.index,
            token_ids=tokens,
            logprobs=logprobs if self.request.sampling.logprobs is not None else None,
            finish_reason=finish,
            stop_token_id=stop_token,
            stop_logprob=stop_logprob,
            guidance=times if self.request.grammar is not None else None,
            cached_tokens=cached_tokens if self._is_first else None,
        )
        self._is_first = False
        return delta

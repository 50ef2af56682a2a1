"""How an answer that a check rejected is generated again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256

from guidance_core.generation import GenerationRequest, SamplingParams

SMALLEST_TOP_P = 1e-9
"""Stands for a ``top_p`` of 0, which OpenAI allows: a nucleus of the likeliest token alone."""


@dataclass(frozen=True, slots=True)
class CheckBudget:
    """What one choice of a checked grammar may cost.

    Attributes:
        attempts: most answers that are generated for it, the first one included.
        tokens: once rejected answers have had so many tokens together, there is no further attempt.
    """

    attempts: int = 1
    tokens: int = 0


def resampled(request: GenerationRequest, choice: int, attempt: int) -> GenerationRequest:
    """The request that generates one choice again.

    Its seed is a function of the request's seed, the choice and the attempt, so that a seeded request keeps its answer.
    Greedy sampling would repeat what was rejected: then later attempts draw at temperature 1 from what ``top_p``,
    ``top_k`` and ``min_p`` keep, where these keep more than one token; their seed is fixed if none is given, as the
    answer to a greedy request is.

    Args:
        request: as it was asked.
        choice: which of its choices.
        attempt: 2 for the first repetition.
    """
    sampling = replace(request.sampling, n=1, prompt_logprobs=None)
    if _is_greedy(sampling):
        sampling = replace(
            sampling,
            temperature=1.0,
            top_k=0 if sampling.top_k == 1 else sampling.top_k,
            top_p=1.0 if sampling.top_p <= SMALLEST_TOP_P else sampling.top_p,
            min_p=0.0 if sampling.min_p == 1 else sampling.min_p,
            seed=sampling.seed or 0,
        )
    if sampling.seed is not None:
        digest = sha256(f"{sampling.seed}/{choice}/{attempt}".encode()).digest()
        sampling = replace(sampling, seed=int.from_bytes(digest[:8], "big", signed=True))
    return replace(request, request_id=f"{request.request_id}-{choice}-{attempt}", sampling=sampling)


def _is_greedy(sampling: SamplingParams) -> bool:
    return sampling.temperature == 0 or sampling.top_k == 1 or sampling.top_p <= SMALLEST_TOP_P or sampling.min_p == 1

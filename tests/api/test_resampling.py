"""How a rejected answer is generated again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from guidance_core.api.resampling import resampled
from guidance_core.generation import GenerationRequest, SamplingParams


def request(**sampling: Any) -> GenerationRequest:
    return GenerationRequest(request_id="r", prompt_ids=(1,), sampling=SamplingParams(max_tokens=9, n=3, **sampling))


def test_one_choice_is_asked_for_and_nothing_else_changes() -> None:
    asked = request(temperature=0.7, top_p=0.9, top_k=40, logprobs=2, logit_bias={5: 1.0})
    again = resampled(asked, 2, 2)

    assert again.request_id != asked.request_id
    assert replace(again, request_id="r", sampling=asked.sampling) == asked
    assert replace(again.sampling, n=3) == asked.sampling


def test_a_seed_gives_each_choice_and_attempt_a_seed_of_its_own_and_always_the_same() -> None:
    seeds = [resampled(request(seed=7), choice, attempt).sampling.seed for choice in (0, 1) for attempt in (2, 3)]

    assert len({7, *seeds}) == 5
    assert seeds == [resampled(request(seed=7), choice, a).sampling.seed for choice in (0, 1) for a in (2, 3)]
    assert all(seed is not None and -(2**63) <= seed < 2**63 for seed in seeds)


def test_without_a_seed_each_attempt_draws_its_own() -> None:
    assert resampled(request(temperature=0.5), 0, 2).sampling.seed is None


@pytest.mark.parametrize(
    "greedy",
    [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}, {"temperature": 0.0, "top_k": 1}],
    ids=str,
)
def test_greedy_sampling_which_would_repeat_itself_draws_at_temperature_one_from_a_fixed_seed(
    greedy: dict[str, Any],
) -> None:
    first, second = (resampled(request(**greedy), 0, attempt).sampling for attempt in (2, 3))

    assert (first.temperature, first.top_k, first.top_p, first.min_p) == (1, 0, 1, 0)
    assert first.seed is not None
    assert first.seed != second.seed
    assert first == resampled(request(**greedy), 0, 2).sampling


def test_what_keeps_several_tokens_stays_when_greedy_sampling_is_given_up() -> None:
    sampling = resampled(request(temperature=0.0, top_k=40, top_p=0.9, min_p=0.1), 0, 2).sampling

    assert (sampling.top_k, sampling.top_p, sampling.min_p) == (40, 0.9, 0.1)

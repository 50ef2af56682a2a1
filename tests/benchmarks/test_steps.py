from __future__ import annotations

import random

import pytest

from benchmarks.steps import Pair, Step, added_mean, added_median, added_per_token, with_interval


def pair(free: float, free_tokens: int, guided: float, guided_tokens: int) -> Pair:
    return Pair(Step(free, 0.0, free_tokens), Step(guided, 0.0, guided_tokens))


def test_what_a_grammar_adds_is_a_share_of_a_free_step() -> None:
    pairs = [pair(0.010, 8, 0.011, 8), pair(0.020, 8, 0.021, 8), pair(0.020, 8, 0.030, 8)]
    assert added_median(pairs) == pytest.approx(0.001 / 0.020)
    assert added_mean(pairs) == pytest.approx(0.012 / 0.050)


def test_forced_tokens_count_in_the_time_per_token() -> None:
    assert added_per_token([pair(0.010, 1, 0.012, 2), pair(0.010, 1, 0.012, 1)]) == pytest.approx(0.8 - 1)


def test_an_interval_holds_the_truth_and_narrows_with_more_pairs() -> None:
    draw = random.Random(1)

    def interval(number: int) -> tuple[float, float]:
        pairs = [pair(0.010, 1, 0.0101 + draw.gauss(0, 0.0005), 1) for _ in range(number)]
        _, low, high = with_interval(added_mean, pairs).replace("[", "").replace("]", "").replace(",", "").split()
        return float(low.rstrip("%")), float(high.rstrip("%"))

    (few_low, few_high), (many_low, many_high) = interval(64), interval(2048)
    assert many_low <= 1.0 <= many_high
    assert many_high - many_low < (few_high - few_low) / 2

from __future__ import annotations

import pytest

from benchmarks.streams import Figures, Stream, median_of, summarize


def test_throughput_counts_all_tokens_from_the_first_question_to_the_last_token() -> None:
    first = Stream(started=10.0, arrivals=[10.5, 11.0], pieces=[1, 3])
    second = Stream(started=10.1, arrivals=[10.2, 12.0], pieces=[1, 1])
    assert summarize([first, second]).tokens_per_second == pytest.approx(6 / 2.0)


def test_times_are_per_stream_and_gaps_are_pooled() -> None:
    slow = Stream(started=0.0, arrivals=[1.0, 1.1, 1.2], pieces=[1, 1, 1])
    fast = Stream(started=0.0, arrivals=[0.5, 0.6, 1.6], pieces=[1, 1, 1])
    figures = summarize([slow, fast])
    assert figures.first_token_ms == pytest.approx(750)
    assert figures.between_tokens_p50_ms == pytest.approx(100)
    assert figures.between_tokens_p99_ms == pytest.approx(1000)
    assert figures.per_token_ms == pytest.approx((100 + 550) / 2)


def test_guidance_is_charged_to_the_tokens_that_were_sampled() -> None:
    stream = Stream(0.0, arrivals=[1.0, 2.0], pieces=[1, 4], forced_tokens=3, mask_wait=0.004)
    figures = summarize([stream])
    assert figures.forced_share == pytest.approx(0.6)
    assert figures.mask_wait_us == pytest.approx(2000)
    assert figures.per_token_ms == pytest.approx(250)


def test_one_token_has_no_gaps() -> None:
    assert summarize([Stream(0.0, [1.0], [1])]).between_tokens_p99_ms == 0


def test_a_stream_without_tokens_is_an_error_not_a_figure() -> None:
    with pytest.raises(ValueError, match="without a token"):
        summarize([Stream(0.0, [1.0], [1]), Stream(0.0)])


def test_rounds_are_merged_figure_by_figure() -> None:
    rounds = [Figures(1, 30, 2, 2, 7, 0, 0), Figures(3, 10, 2, 9, 8, 0, 0), Figures(2, 20, 5, 3, 9, 0, 0)]
    assert median_of(rounds) == Figures(2, 20, 2, 3, 8, 0, 0)

from __future__ import annotations

import pytest

from benchmarks.__main__ import added_time
from benchmarks.forced import compare
from benchmarks.streams import Figures, Stream


class Letters:
    """A tokenizer whose tokens are letters (0 a, 1 b, …), except that it makes one token (9) of "ab"."""

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join("ab" if token == 9 else chr(ord("a") + token) for token in tokens)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [9 if letter == "#" else ord(letter) - ord("a") for letter in text.replace("ab", "#")]


def answer(tokens: list[int], seconds: float, forced: set[int] = frozenset(), complete: bool = True) -> Stream:  # type: ignore[assignment]
    flags = [place in forced for place in range(len(tokens))]
    return Stream(0.0, [seconds], [len(tokens)], tokens, flags, sum(flags), complete=complete)


def test_documents_are_compared_pair_by_pair() -> None:
    forced = [
        [answer([9, 2, 3], 1.0, {1, 2}), answer([0, 1, 2], 2.0, {2})],
        [answer([2, 0, 1], 1.0, {1, 2}), answer([2], 1.5, complete=False)],
    ]
    unforced = [
        [answer([9, 2, 3], 3.0), answer([9, 2], 4.5)],
        [answer([3, 2], 4.0), answer([3], 6.0)],
    ]
    comparison = compare(1, forced, unforced, Letters())
    assert (comparison.documents, comparison.same_text, comparison.same_tokens) == (3, 2, 1)
    assert (comparison.canonical, comparison.canonical_unforced, comparison.departed_by_force) == (1, 3, 1)
    assert comparison.speedup == pytest.approx((1.5 + 4) / 2)
    assert comparison.forced_ms == pytest.approx(750)
    assert comparison.forced_share == pytest.approx(5 / 10)
    assert "2.75x" in comparison.line()


def test_documents_are_timed_while_the_number_of_streams_is_constant() -> None:
    # Two at once: others begin at 5, 6 and 8 s, each as one ends; then none follows.
    forced = [[answer([0], end) for end in (6.0, 5.0, 8.0, 9.5, 20.0)]]
    unforced = [[answer([0], end) for end in (6.0, 5.0, 10.0, 13.0, 14.0)]]
    comparison = compare(2, forced, unforced, Letters())
    assert comparison.forced_ms == pytest.approx(1e3 * (9.5 - 6) / 2)
    assert comparison.unforced_ms == pytest.approx(1e3 * (13 - 6) / 2)
    assert comparison.speedup == pytest.approx(2)


def test_added_time_is_of_rounds_that_ran_side_by_side() -> None:
    def figures(per_token_ms: float) -> Figures:
        return Figures(1.0, 1.0, 1.0, 1.0, per_token_ms, 0.0, 0.0)

    rounds = {
        ("bare", False, 8): [figures(10), figures(20), figures(40)],
        ("bare", True, 8): [figures(11), figures(18), figures(80)],
        ("transformers", False, 8): [figures(5)] * 3,
    }
    [added] = added_time(rounds)
    assert (added.contender, added.streams) == ("bare", 8)
    assert added.share == pytest.approx(0.1)

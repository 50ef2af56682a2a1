"""Thoughts out of text that comes in pieces of any size."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidance_core.output.reasoning import MarkerPlaces, ReasoningParser
from guidance_core.reasoning import ReasoningMarkers

THINK = ReasoningMarkers("<think>", "</think>", 1, 2, ())
places = st.lists(st.integers(0, 10_000))
words = st.text(alphabet="<>/think ab\n")


def read(text: str, cuts: list[int], *, begun: bool) -> tuple[str, str]:
    parser = ReasoningParser(THINK, begun=begun)
    bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [parser.push(text[a:b]) for a, b in pairwise(bounds)] + [parser.finish()]
    return "".join(thoughts for thoughts, _ in pieces), "".join(answer for _, answer in pieces)


@given(thoughts=words.filter(lambda t: "</think>" not in t + "</think>"[:-1]), answer=words, cuts=places)
def test_thoughts_and_answer_are_told_apart_however_the_text_is_cut(
    thoughts: str, answer: str, cuts: list[int]
) -> None:
    for begun in (False, True):
        text = f"{'' if begun else '<think>'}{thoughts}</think>\n\n{answer}"
        assert read(text, cuts, begun=begun) == (thoughts, answer.lstrip("\n"))


@given(text=words.filter(lambda t: not t.startswith("<think>")), cuts=places)
def test_a_text_that_does_not_begin_with_the_marker_has_no_thoughts(text: str, cuts: list[int]) -> None:
    assert read(text, cuts, begun=False) == ("", text)


@given(thoughts=words, answer=words, cuts=places, begun=st.booleans())
def test_markers_that_are_tokens_are_told_from_text_that_spells_them(
    thoughts: str, answer: str, cuts: list[int], begun: bool
) -> None:
    start = "" if begun else THINK.begin
    text = f"{start}{thoughts}</think>{answer}"
    end = len(start) + len(thoughts)
    for gap in (True, False):
        parser = ReasoningParser(THINK, begun=begun, gap=gap)
        bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
        # The places are known once the marker's first character comes, at the latest.
        pieces = [
            parser.push(text[a:b], MarkerPlaces(not begun, end if b > end else None)) for a, b in pairwise(bounds)
        ]
        pieces.append(parser.finish())
        read = "".join(before for before, _ in pieces), "".join(after for _, after in pieces)
        assert read == (thoughts, answer.lstrip("\n") if gap else answer)


@given(text=words)
def test_an_answer_that_spells_the_marker_has_no_thoughts(text: str) -> None:
    assert ReasoningParser(THINK, begun=False).split("<think>" + text, MarkerPlaces(False)) == ("", "<think>" + text)


@pytest.mark.parametrize("text", ["So ", "So </thi", ""])
def test_what_is_cut_off_while_thinking_is_all_thoughts(text: str) -> None:
    assert read(text, [], begun=True) == (text, "")
    assert read("<think>" + text, [], begun=False) == (text, "")


def test_the_latest_marker_in_a_prompt_decides() -> None:
    assert THINK.begun([5, 1, 7])
    assert not THINK.begun([5, 1, 7, 2, 8])
    assert not THINK.begun([5])

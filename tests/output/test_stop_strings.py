from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidance_core.errors import InvalidRequest
from guidance_core.output import StopStrings

texts = st.text("abc", max_size=60)
stops = st.lists(st.text("abc", min_size=1, max_size=6), max_size=16)


def cut(text: str, strings: list[str]) -> tuple[str, str | None]:
    """By definition: read character by character until the text ends with a stop string."""
    for end in range(1, len(text) + 1):
        found = [string for string in strings if text[:end].endswith(string)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def uncertain(text: str, strings: list[str]) -> int:
    """By definition: the length of the longest end of the text that could become a stop string."""
    return max(
        (n for string in strings for n in range(1, len(string)) if text.endswith(string[:n])),
        default=0,
    )


@given(text=texts, strings=stops, data=st.data())
def test_pieces_add_up_to_the_text_before_the_first_stop_string(
    text: str, strings: list[str], data: st.DataObject
) -> None:
    matcher = StopStrings(strings).matcher()
    out, at = "", 0
    while at < len(text) and matcher.hit is None:
        size = data.draw(st.integers(1, len(text) - at))
        out += matcher.push(text[at : at + size])
        at += size
    if matcher.hit is None:
        out += matcher.finish()
    assert (out, matcher.hit) == cut(text, strings)


@given(text=texts, strings=stops)
def test_only_what_could_become_a_stop_string_is_held_back(text: str, strings: list[str]) -> None:
    matcher = StopStrings(strings).matcher()
    out = ""
    for i, char in enumerate(text, start=1):
        out += matcher.push(char)
        if matcher.hit is not None:
            break
        assert len(out) == i - uncertain(text[:i], strings)


def test_a_stop_string_split_over_pieces_is_not_returned() -> None:
    matcher = StopStrings(["END"]).matcher()
    assert [matcher.push(piece) for piece in ("the E", "N", "D of it")] == ["the ", "", ""]
    assert matcher.hit == "END"


def test_text_that_only_began_like_a_stop_string_is_returned() -> None:
    matcher = StopStrings(["END"]).matcher()
    assert [matcher.push(piece) for piece in ("the E", "N", "T of it")] == ["the ", "", "ENT of it"]
    assert matcher.hit is None


def test_the_stop_string_that_is_complete_first_wins() -> None:
    matcher = StopStrings(["abcd", "bc"]).matcher()
    assert matcher.push("xabcd") == "xa"
    assert matcher.hit == "bc"


def test_of_two_that_end_together_the_longer_wins() -> None:
    matcher = StopStrings(["b", "ab"]).matcher()
    assert matcher.push("xab") == "x"
    assert matcher.hit == "ab"


@pytest.mark.parametrize("strings", [[""], ["a", ""], ["x"] * 17, ["x" * 1025]])
def test_unusable_stop_strings_are_refused_by_name(strings: list[str]) -> None:
    with pytest.raises(InvalidRequest) as error:
        StopStrings(strings)
    assert error.value.param == "stop"


def test_work_is_linear_even_where_every_stop_string_nearly_matches() -> None:
    strings = StopStrings(["a" * 1000 + end for end in "bcdefghijklmnopq"])
    matcher = strings.matcher()
    text = "a" * 300_000
    begin = time.process_time()
    out = "".join(matcher.push(char) for char in text)
    # 0.2 s here; looking back through a thousand characters at each of them would take minutes.
    assert time.process_time() - begin < 10
    assert out + matcher.finish() == text

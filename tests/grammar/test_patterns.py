from __future__ import annotations

import json
import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from guidance_core.grammar.patterns import PatternError, common_regex, widest_regex

BYTES = LLTokenizer("byte")


def matches(rust_regex: str, text: str) -> bool | None:
    """Whether llguidance finds the regex in a JSON string; None where it refuses the regex."""
    grammar = LLMatcher.grammar_from_json_schema({"type": "string", "pattern": rust_regex})
    matcher = LLMatcher(BYTES, grammar, log_level=0)
    if matcher.is_error():
        return None
    tokens = list(json.dumps(text, ensure_ascii=False).encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


ATOMS = [
    *("a", "b", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", ".", "[ab]", "[^a]", r"[\w-]", r"[^\s]", r"[^\W]", r"[\Wx]"),
    *(r"[a-c\d]", r"[^\d_]", r"\.", r"\/", "-", "[.]", "[a&&b]", "[[a]", "(?:ab)", "(a|b)", r"\x41", "é", "[à-ü]"),
    *(r"\u00e9", r"[+\-]", r"[\w.-]", r"[^\S ]"),
]
QUANTIFIERS = ["", "", "", "*", "+", "?", "{2}", "{1,3}", "*?", "{0,2}"]
PATTERNS = st.builds(
    lambda start, body, end: start + "".join(atom + quantifier for atom, quantifier in body) + end,
    st.sampled_from(["", "^"]),
    st.lists(st.tuples(st.sampled_from(ATOMS), st.sampled_from(QUANTIFIERS)), min_size=1, max_size=4),
    st.sampled_from(["", "$"]),
)
TEXTS = st.text(alphabet="abcABx0129_-. é٣\n\t\r\u2028\u00a0\x1c&[/+üÀß²", max_size=6)


@settings(max_examples=400, deadline=None)
@given(PATTERNS, TEXTS)
def test_what_passes_matches_in_python_and_nothing_that_the_widest_reading_lacks_does(pattern: str, text: str) -> None:
    narrow, wide = matches(common_regex(pattern), text), matches(widest_regex(pattern), text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Python warns of [[ and &&, which are what is tested
        found = re.search(pattern, text) is not None
    assert not narrow or found
    assert not found or wide


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^\d{3}-[a-z]+$", "123-abc"),
        (r"^[\w.-]+@\w+\.\w{2,}$", "a.b-c@example.org"),
        (r"^\/api\/v\d+$", "/api/v1"),
        (r"^\u00e9\x41\cI$", "éA\t"),
        (r"^\ud83d\ude00\u{1F600}$", "😀😀"),
        (r"(^[^5]*$)|7", "57"),
        (r"^(?<year>\d{4})$", "2024"),
        (r"^a{2,}}{$", "aaa}{"),
        (r"^[\]\-a-]$", "-"),
        (r"^\p{Lu}\p{L}*$", "Éa"),
        (r"^.*?$", "any text"),
    ],
)
def test_ordinary_patterns_match_what_they_say(pattern: str, text: str) -> None:
    assert matches(common_regex(pattern), text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^\d$", "٣"),
        (r"^\w$", "é"),
        (r"^\W$", "é"),
        (r"^[^\w]$", "é"),
        (r"^[^\d]$", "٣"),
        (r"^.$", "\u2028"),
        (r"^[a&&b]$", "c"),
        (r"^[[:alpha:]]$", "q"),
    ],
)
def test_what_readings_disagree_about_does_not_match(pattern: str, text: str) -> None:
    assert matches(common_regex(pattern), text) is False


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("^(?=a)", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"\bword\b", "word boundary"),
        (r"(a)\1", "back-reference"),
        ("(?i)abc", "inline flag"),
        (r"a\Z", r"\Z"),
        ("a++", "possessive"),
        ("a{,3}", "{0,n}"),
        ("[]a]", "empty bracket"),
        ("[b-a]", "swapped"),
        ("(a", "unclosed group"),
        ("[a", "unclosed bracket"),
        ("a)", "unmatched"),
        ("*a", "nothing to repeat"),
        (r"\u12", "malformed escape"),
        (r"\ud83d", "surrogate"),
        ("a\\", "trailing backslash"),
        ("(" * 100 + ")" * 100, "nested"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(pattern: str, named: str) -> None:
    with pytest.raises(PatternError, match=re.escape(named)):
        common_regex(pattern)

from __future__ import annotations

import pytest
from llguidance import LLTokenizer

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar import constraint
from guidance_core.grammar.rust_regex import between_slashes, shape
from tests.grammar.test_constraint import accepts


@pytest.mark.parametrize(
    ("pattern", "text", "other"),
    [
        ("(?x)a  # one\n b", "ab", "a\nb"),
        ("a/[/]\\/", "a///", "a"),
        ("(?P<stop>a*)x", "aax", "aa"),
        ("a(?<stop>b)?c", "ac", "a"),
        ("[(?P<]s\\(?<stop>", "(s<stop>", "(s"),
        ("\\\\", "\\", ""),
        ("a\nb", "a\nb", "ab"),
    ],
)
def test_a_pattern_matches_what_it_does_in_rust(pattern: str, text: str, other: str, ll_tokenizer: LLTokenizer) -> None:
    assert accepts(ll_tokenizer, constraint.regex(pattern), text)
    assert not accepts(ll_tokenizer, constraint.regex(pattern), other)


@pytest.mark.parametrize(("pattern", "why"), [("a\\", "backslash"), ("[a[b(?P<stop>]](?P<stop>c)[", "look-ahead")])
def test_what_cannot_be_written_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(InvalidGrammar, match=why):
        between_slashes(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "[ab]+",
        r"\d*",
        ".*",
        r"(\\.|[^\"])*",
        "(a|b)+",
        "(?:[a-z]x?){2,}",
        "a{1,9}",
        "[é-ü]*",
        "[[:alpha:]_]+",
        r"[^\s]+",
    ],
)
def test_repetitions_that_branch_in_each_round_end(pattern: str) -> None:
    assert not shape(pattern).endless


@pytest.mark.parametrize(
    "pattern",
    [
        "a+",
        "[a]*",
        r"(\r?\n)+",
        "(a|aa)+",
        "(?:ab?)*",
        "a{2,}",
        "(?x) a # [b]\n +",
        r"[\x61-\x61]+",
        "[a-b&&[b]]+",
        r"[^\x00-\x{10FFFE}]+",
        r"(a|b[^\s\S])+",
        r"\p{Zl}+",
        "(",
        "*",
    ],
)
def test_repetitions_that_may_not_branch_are_not_trusted(pattern: str) -> None:
    assert shape(pattern).endless

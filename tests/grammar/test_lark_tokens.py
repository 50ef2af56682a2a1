from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidance_core.grammar.lark_tokens import tokens

PIECES = [
    "_",
    "!",
    "?",
    "a",
    "B",
    "1",
    "-",
    "/",
    '"',
    " ",
    "\n",
    "%json",
    "{",
    "}",
    "<",
    ">",
    "@",
    "~",
    "->",
    "\\",
    "é",
]


@pytest.mark.parametrize(
    ("lark", "kinds"),
    [
        ("?_a: !b", ["rule", "mark", "layout", "rule"]),
        ("__A _B? a??", ["mark", "terminal", "layout", "terminal", "mark", "layout", "rule", "mark", "mark"]),
        ("A_b a_!b", ["terminal", "rule", "layout", "rule", "rule"]),
        ('%json {"a": [1]} "b"i', ["json", "layout", "string"]),
        ("/a\\/b/i <[1-2]> <x>", ["regex", "layout", "token", "layout", "token"]),
        ("a $ b", ["rule", "layout", "unknown"]),
    ],
)
def test_tokens_are_those_that_llguidance_reads(lark: str, kinds: list[str]) -> None:
    assert [token.kind for token in tokens(lark)] == kinds


@given(lark=st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_tokens_add_up_to_the_text(lark: str) -> None:
    assert "".join(token.text for token in tokens(lark)) == lark


@pytest.mark.parametrize("piece", ["_", "?!", "_A", "a_", "!_-", "/", '"', "%json [", "#", "<a"])
def test_long_texts_are_read_in_no_time(piece: str) -> None:
    for token in tokens(piece * 50_000):  # where each place looks at all behind it, that takes minutes
        assert token.text

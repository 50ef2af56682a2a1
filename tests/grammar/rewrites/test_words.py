from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from guidance_core.grammar.rewrites.words import not_starting_with, other_than

texts = st.text(alphabet="ab-\n😀", max_size=5)


def python_pattern(pattern: str) -> str:
    """The same in the syntax of Python, whose ``$`` is another one."""
    escaped = re.sub(r"\\u\{([0-9A-F]+)\}", lambda match: re.escape(chr(int(match.group(1), 16))), pattern)
    return escaped.removesuffix("$") + r"\Z"


@given(words=st.lists(texts, min_size=1, max_size=4), text=texts)
def test_every_text_but_the_words_matches(words: list[str], text: str) -> None:
    assert (re.match(python_pattern(str(other_than(words))), text) is None) == (text in words)


@given(words=st.lists(texts, min_size=1, max_size=4), text=texts)
def test_every_text_that_starts_with_none_of_the_words_matches(words: list[str], text: str) -> None:
    pattern = not_starting_with(words)
    starts = any(text.startswith(word) for word in words)
    assert (pattern is None or re.match(python_pattern(pattern), text) is None) == starts


def test_long_words_have_no_such_pattern() -> None:
    assert other_than(["a" * 100]) is None

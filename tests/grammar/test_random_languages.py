"""Answers are in the language that a client wrote, as readers other than llguidance read it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.grammar import compiler as compiling
from guidance_core.grammar.compiler import GrammarCompiler
from tests.grammar.random_grammars import Judged
from tests.grammar.random_languages import random_gbnf, random_lark, random_regex, random_serialised
from tests.grammar.walks import Walker


@pytest.fixture
def compiler(ll_tokenizer: LLTokenizer, monkeypatch: pytest.MonkeyPatch) -> GrammarCompiler:
    """One that does not try grammars in a process of their own first, which takes longer than all else here."""
    monkeypatch.setattr(compiling, "crashes", lambda source: None)
    return GrammarCompiler(ll_tokenizer, GuidanceSettings())


@pytest.mark.parametrize("make", [random_regex, random_lark, random_gbnf, random_serialised])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_every_answer_is_in_the_language(
    make: Callable[[random.Random], Judged], seed: int, ll_tokenizer: LLTokenizer, compiler: GrammarCompiler
) -> None:
    draw = random.Random(seed)
    judged = make(draw)
    grammar = asyncio.run(compiler.compile(judged.constraint)).grammar
    walker = Walker(ll_tokenizer, seed)
    for _ in range(3):
        answer = walker.walk(grammar.source, most_tokens=40)
        if answer is None:
            continue
        text = answer.decode()
        assert compiler.accepts(grammar, answer), text
        assert judged.satisfied_by(text), text
        other = changed(draw, text)
        assert judged.satisfied_by(other) or not compiler.accepts(grammar, other.encode()), other


def changed(draw: random.Random, text: str) -> str:
    """The text with a character less, more, or in another's place."""
    place, cut = draw.randint(0, len(text)), draw.randint(0, 1)
    return text[:place] + draw.choice(["", " ", "a", "x", "\n", ";", "é"]) + text[place + cut :]

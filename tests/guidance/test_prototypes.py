from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256

import pytest
from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import ExecutorUnavailable, InvalidGrammar
from guidance_core.generation import Grammar
from guidance_core.grammar.standing import MATCHERS_PER_LEXER
from guidance_core.guidance.prototypes import Prototypes

MakePrototypes = Callable[[int], Prototypes]


@pytest.fixture
def make_prototypes(ll_tokenizer: LLTokenizer) -> Iterator[MakePrototypes]:
    """Makes prototypes of which so many are kept."""
    made: list[Prototypes] = []

    def make(cache_size: int) -> Prototypes:
        made.append(Prototypes(ll_tokenizer, GuidanceSettings(cache_size=cache_size), thread_name="test-prototypes"))
        return made[-1]

    yield make
    for prototypes in made:
        prototypes.close(wait=True)


def regex(pattern: str) -> Grammar:
    source = f"start: /{pattern}/"
    return Grammar(source, "lark", source, sha256(source.encode()).hexdigest())


def counts(prototypes: Prototypes) -> tuple[int, int, int]:
    return prototypes.hits, prototypes.misses, prototypes.evictions


def test_a_grammar_that_comes_again_is_a_hit_and_looking_whether_it_is_compiled_is_none(
    make_prototypes: MakePrototypes,
) -> None:
    prototypes = make_prototypes(4)
    prototypes.get(regex("a"))
    prototypes.get(regex("a"))
    assert counts(prototypes) == (0, 1, 0)
    for _ in range(3):
        prototypes.copy(regex("a"))
    assert counts(prototypes) == (2, 1, 0)


def test_the_grammar_that_was_not_used_for_longest_makes_room(make_prototypes: MakePrototypes) -> None:
    prototypes = make_prototypes(2)
    for pattern in "abac":
        prototypes.copy(regex(pattern))
    assert len(prototypes) == 2
    assert counts(prototypes) == (1, 3, 1)
    prototypes.copy(regex("a"))
    assert counts(prototypes) == (2, 3, 1)
    prototypes.copy(regex("b"))
    assert counts(prototypes) == (2, 4, 2)


def test_copies_move_apart(make_prototypes: MakePrototypes, ll_tokenizer: LLTokenizer) -> None:
    prototypes = make_prototypes(1)
    one, other = prototypes.copy(regex("a")), prototypes.copy(regex("a"))
    (letter,) = ll_tokenizer.tokenize_str("a")
    assert one.consume_token(letter)
    assert one.is_stopped()
    assert not other.is_stopped()


def test_a_new_lexer_is_built_after_many_copies_and_counted(make_prototypes: MakePrototypes) -> None:
    prototypes = make_prototypes(1)
    first = prototypes.get(regex("a"))
    for _ in range(MATCHERS_PER_LEXER):
        prototypes.copy(regex("a"))
    assert prototypes.get(regex("a")) is not first
    assert counts(prototypes) == (MATCHERS_PER_LEXER - 1, 2, 0)


async def test_a_client_that_goes_away_takes_no_grammar_from_the_next(
    make_prototypes: MakePrototypes, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_compile, original = threading.Event(), Prototypes._compile

    def compile_later(self: Prototypes, source: str) -> LLMatcher:
        may_compile.wait(10)
        return original(self, source)

    monkeypatch.setattr(Prototypes, "_compile", compile_later)
    prototypes = make_prototypes(4)
    busy = asyncio.create_task(prototypes.copy_when_compiled(regex("a")))
    waiting = asyncio.create_task(prototypes.copy_when_compiled(regex("b")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    may_compile.set()
    assert not (await busy).is_error()
    assert not (await prototypes.copy_when_compiled(regex("b"))).is_error()
    assert counts(prototypes) == (1, 2, 0)


@pytest.mark.parametrize("awaited", [False, True])
def test_what_llguidance_refuses_is_refused_each_time(make_prototypes: MakePrototypes, awaited: bool) -> None:
    prototypes = make_prototypes(4)
    bad = Grammar("start: nowhere", "lark", "start: nowhere", "key")
    for _ in range(2):
        with pytest.raises(InvalidGrammar, match="nowhere"):
            asyncio.run(prototypes.copy_when_compiled(bad)) if awaited else prototypes.copy(bad)
    assert prototypes.misses == 1


def test_a_short_grammar_does_not_wait_for_a_long_one(
    make_prototypes: MakePrototypes, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_compile, original = threading.Event(), Prototypes._compile

    def compile_long_ones_later(self: Prototypes, source: str) -> LLMatcher:
        if len(source) > 64_000:
            may_compile.wait(10)
        return original(self, source)

    monkeypatch.setattr(Prototypes, "_compile", compile_long_ones_later)
    prototypes = make_prototypes(4)
    long = prototypes.get(regex("x" * 70_000))
    assert not prototypes.get(regex("a")).matcher.result(5).is_error()
    assert not long.matcher.done()
    may_compile.set()


class _Panicked:
    """What llguidance gives for more than 65,525 symbols, which take it seconds."""

    def is_error(self) -> bool:
        return True

    def is_stopped(self) -> bool:
        return True

    def get_error(self) -> str:
        return "panic: assertion failed: grammar.symbols.len() < u16::MAX as usize - 10\n<backtrace>\n   0: <unknown>\n"


def test_a_grammar_that_llguidance_panics_over_is_refused_without_the_stack(
    make_prototypes: MakePrototypes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Prototypes, "_compile", lambda self, source: _Panicked())
    with pytest.raises(InvalidGrammar, match=r"cannot compile the grammar: panic: .* - 10$"):
        make_prototypes(4).copy(regex("a"))


def test_a_panic_over_one_answer_does_not_fail_those_of_later_requests(
    make_prototypes: MakePrototypes, ll_tokenizer: LLTokenizer
) -> None:
    source = 'start: "//"+ %json {"const": "ab"}\n%ignore " "+'
    grammar = Grammar(source, "lark", source, "key")
    prototypes = make_prototypes(4)
    for _ in range(2):
        matcher = prototypes.copy(grammar)
        assert matcher.try_consume_tokens(ll_tokenizer.tokenize_bytes(b"//")) > 0
        matcher.try_consume_tokens(ll_tokenizer.tokenize_bytes(b' "ab"'))
        if not matcher.is_error():
            pytest.skip("This llguidance does not panic over what is ignored before a schema.")


async def test_who_waits_for_a_grammar_when_the_service_ends_is_told_so(
    make_prototypes: MakePrototypes, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_compiling, may_compile, original = threading.Event(), threading.Event(), Prototypes._compile

    def compile_later(self: Prototypes, source: str) -> LLMatcher:
        is_compiling.set()
        may_compile.wait(10)
        return original(self, source)

    monkeypatch.setattr(Prototypes, "_compile", compile_later)
    prototypes = make_prototypes(4)
    busy = asyncio.create_task(prototypes.copy_when_compiled(regex("a")))
    waiting = asyncio.create_task(prototypes.copy_when_compiled(regex("b")))
    await asyncio.to_thread(is_compiling.wait)
    prototypes.close(wait=False)
    with pytest.raises(ExecutorUnavailable, match="shutting down"):
        await waiting
    may_compile.set()
    assert not (await busy).is_error()

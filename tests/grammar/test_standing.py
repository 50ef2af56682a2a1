"""What counts as an end: the grammar's own, never a limit that llguidance ran into."""

from __future__ import annotations

from unittest.mock import Mock

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from guidance_core.grammar.standing import failure, has_ended, may_end

TOKENIZER = LLTokenizer("byte")


def matcher_after(text: str, pattern: str, limits: LLParserLimits | None = None) -> LLMatcher:
    source = LLMatcher.grammar_from_regex(pattern)
    matcher = LLMatcher(TOKENIZER, source, log_level=0, limits=limits or LLParserLimits())
    matcher.try_consume_tokens(list(text.encode()))
    return matcher


def test_an_answer_may_end_before_it_has_to() -> None:
    assert not may_end(matcher_after("a", "abc?"))
    halfway = matcher_after("ab", "abc?")
    assert may_end(halfway)
    assert not has_ended(halfway)
    whole = matcher_after("abc", "abc?")
    assert may_end(whole)
    assert has_ended(whole)


def test_a_matcher_that_gave_up_has_ended_nothing() -> None:
    matcher = matcher_after("", "(a|b)*a(a|b){14}", LLParserLimits(max_lexer_states=20))
    for byte in b"abbabaabbb":
        matcher.compute_bitmask()
        matcher.try_consume_tokens([byte])
    assert matcher.is_stopped()
    assert not has_ended(matcher)
    assert not may_end(matcher)


def test_a_panic_is_told_without_its_stack() -> None:
    panicked = Mock(LLMatcher)
    panicked.get_error.return_value = "panic: assertion failed: bt == 0\n<backtrace>\n   0: <unknown>\n</backtrace>"
    assert failure(panicked) == "panic: assertion failed: bt == 0"

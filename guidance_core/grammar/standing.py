"""Where one of llguidance's matchers stands, and how many of them may share a lexer."""

from __future__ import annotations

from llguidance import LLMatcher

MATCHERS_PER_LEXER = 256
"""Copies of a matcher share one lexer, whose states only ever grow: after so many copies a new one is built."""

_COMPLETE = frozenset({"NoExtension", "EndOfSentence"})
"""llguidance's reasons to stop that mean that the text is complete; the others are limits that were hit."""


def has_ended(matcher: LLMatcher) -> bool:
    """Whether the text so far is in the grammar, and nothing longer is."""
    return bool(matcher.is_stopped() and matcher.stop_reason() in _COMPLETE)


def failure(matcher: LLMatcher) -> str | None:
    """Why a matcher can neither go on nor end its text, or None."""
    if not matcher.is_stopped():  # as a failed matcher is
        return None
    if matcher.is_error():
        # Behind a panic is a stack of its own making.
        return matcher.get_error().split("\n<backtrace>")[0].removesuffix("<non-verbose/>").strip()
    return None if has_ended(matcher) else f"llguidance gave up: {matcher.stop_reason()}"


def may_end(matcher: LLMatcher) -> bool:
    """Whether the text so far is in the grammar."""
    return has_ended(matcher) or bool(not matcher.is_error() and matcher.is_accepting())


def may_end_with(matcher: LLMatcher, token: int) -> bool:
    """Whether the text so far is in the grammar with this end token behind it, which the grammar may name itself.

    The matcher is of no more use then.
    """
    # `try_consume_tokens` and `validate_tokens` never take an end token that the grammar names.
    return may_end(matcher) or (bool(matcher.consume_token(token)) and may_end(matcher))

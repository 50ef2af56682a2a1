"""Which of several translations llguidance takes, and what a grammar can begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from llguidance import LLMatcher, LLTokenizer

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar.json_schema import Translation

_UNSATISFIABLE = "Unsatisfiable schema"
_OF_A_DEFINITION = "while processing"
"""What llguidance adds where it is about something that a reference leads to, which may be optional."""


def first_taken(candidates: Iterable[Translation], problem_of: Callable[[str], str | None]) -> Translation:
    """The first translation that llguidance takes.

    Args:
        candidates: see `json_schema.translations`.
        problem_of: why llguidance does not take a grammar, or None where it does.

    Raises:
        InvalidGrammar: it takes none.
    """
    problem: str | None = None
    for candidate in candidates:
        if problem is not None and is_unsatisfiable(problem) and candidate.route == "checked":
            break  # what allows more would only hide that nothing is right
        problem = problem_of(candidate.source)
        if problem is None:
            return candidate
    raise InvalidGrammar(str(problem))


def is_unsatisfiable(problem: str) -> bool:
    """Whether llguidance does not take a schema because nothing satisfies the whole of it."""
    return _UNSATISFIABLE in problem and _OF_A_DEFINITION not in problem


def taken(candidates: Iterable[Translation]) -> Translation:
    """The first translation that llguidance takes, whatever the tokenizer.

    Raises:
        InvalidGrammar: it takes none.
    """
    return first_taken(candidates, _problem)


def can_begin(source: str, beginnings: Iterable[str]) -> bool:
    """Whether a text in a grammar can begin with one of these.

    Also true where the grammar names tokens that only the model's own tokenizer knows.
    """
    matcher = LLMatcher(_bytes(), source, log_level=0)
    if matcher.is_error():
        return True
    for beginning in beginnings:
        tokens = _bytes().tokenize_bytes(beginning.encode())
        if matcher.try_consume_tokens(tokens) == len(tokens):
            return True
        matcher.reset()
    return False


def is_empty(source: str) -> bool:
    """Whether llguidance takes a grammar in which there is no text, as far as that shows at the first character."""
    matcher = LLMatcher(_bytes(), source, log_level=0)
    if matcher.is_error() or matcher.is_accepting():
        return False
    matcher.compute_bitmask()
    return bool(matcher.is_error())


def _problem(source: str) -> str | None:
    _, messages = LLMatcher.validate_grammar_with_warnings(source, _bytes())
    return f"llguidance refuses the grammar: {'; '.join(messages)}" if messages else None


@cache
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")

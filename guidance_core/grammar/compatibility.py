"""The one place that knows how llguidance 0.7 (in TensorRT-LLM's containers) and 1.x differ."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer

IS_1_X = hasattr(LLExecutor, "consume_token_par")

_PROBES = {"json_allowed_escapes": 'nrbtf\\"', "json_allow_general_unicode_escapes": True}


def new_tokenizer(definition: str, size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """A tokenizer with end tokens; 0.7 knows one only, the first."""
    return LLTokenizer(definition, n_vocab=size, eos_token=list(eos_token_ids) if IS_1_X else eos_token_ids[0])


def end_tokens(tokenizer: LLTokenizer) -> frozenset[int]:
    """The tokens that end an answer."""
    return frozenset(tokenizer.eos_tokens if IS_1_X else [tokenizer.eos_token])


def new_limits(**limits: int | None) -> LLParserLimits:
    """Limits, and errors that do not repeat a client's grammar where that can be chosen."""
    options: dict[str, Any] = {**limits, "verbose_errors": False} if IS_1_X else {**limits}
    return LLParserLimits(**options)


def consume(executor: LLExecutor, tokens: list[tuple[LLMatcher, int]]) -> None:
    """Move matchers on by a token each, in parallel where that is possible; failures show in the matchers."""
    if IS_1_X:
        executor.consume_token_par(tokens)
        return
    for matcher, token in tokens:
        matcher.consume_token(token)


@cache
def understands(option: str) -> bool:
    """Whether the JSON compiler has one of the options of strings' escapes."""
    grammar = LLMatcher.grammar_from_json_schema({"type": "object", "x-guidance": {option: _PROBES[option]}})
    return not LLMatcher.validate_grammar(grammar)

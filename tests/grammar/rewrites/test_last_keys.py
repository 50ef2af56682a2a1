"""After the last key that a pattern allows there is no comma."""

from __future__ import annotations

from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from tests.grammar.translated import grammar_accepts, translated

CLOSED = {"type": "object", "additionalProperties": False}


def goes_on(tokenizer: LLTokenizer, schema: dict[str, Any], beginning: str) -> bool:
    matcher = LLMatcher(tokenizer, translated(schema).source, log_level=0)
    tokens = tokenizer.tokenize_bytes(beginning.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens)


@pytest.mark.parametrize(
    ("schema", "members"),
    [
        (CLOSED | {"required": ["a", "b"], "patternProperties": {"^(?:a|b)$": {"type": "integer"}}}, '"a":5,"b":5'),
        (CLOSED | {"required": ["include"], "patternProperties": {"^(in)clude$": {}}}, '"include":5'),
        (CLOSED | {"properties": {"x": {}}, "patternProperties": {"^x$": {"type": "integer"}}}, '"x":5'),
        ({"type": "object", "required": ["a", "é"], "propertyNames": {"enum": ["a", "é"]}}, '"a":5,"é":5'),
    ],
)
def test_there_is_no_comma_where_no_key_is_left(
    ll_tokenizer: LLTokenizer, schema: dict[str, Any], members: str
) -> None:
    assert grammar_accepts(ll_tokenizer, translated(schema), f"{{{members}}}")
    assert not goes_on(ll_tokenizer, schema, f"{{{members},")


def test_values_of_such_keys_satisfy_both_of_their_schemas(ll_tokenizer: LLTokenizer) -> None:
    schema = CLOSED | {"properties": {"x": {"type": "integer"}}, "patternProperties": {"^x$": {"minimum": 3}}}
    translation = translated(schema)
    assert grammar_accepts(ll_tokenizer, translation, '{"x": 3}')
    assert not grammar_accepts(ll_tokenizer, translation, '{"x": 2}')
    assert not grammar_accepts(ll_tokenizer, translation, '{"x": 3.5}')


@pytest.mark.parametrize("pattern", ["^(in|ex)clude$", "^x|clude$", "^[ei].?.?clude$"])
def test_a_pattern_that_allows_other_keys_stays(ll_tokenizer: LLTokenizer, pattern: str) -> None:
    schema = CLOSED | {"required": ["include"], "patternProperties": {pattern: {"type": "null"}}}
    assert goes_on(ll_tokenizer, schema, '{"include":null,"exclude"')

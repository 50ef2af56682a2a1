from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLTokenizer

from tests.grammar.translated import grammar_accepts, translated


@pytest.mark.parametrize(
    ("schema", "without"),
    [
        ({"properties": {"a": {"enum": ["a\u001bb", "c"]}}}, {"a": "ab"}),
        ({"properties": {"a": {"const": ["a\u0000b"]}}, "required": ["a"], "type": ["null", "object"]}, {"a": ["ab"]}),
        ({"properties": {"a": {"pattern": r"^a\x00b$|^c$"}}}, {"a": "ab"}),
        ({"properties": {"a": {"pattern": r"^a[\x7F]*b?$|^c$"}}}, {"a": "abb"}),
        ({"patternProperties": {r"^a\x01$": True, "^c$": True}, "additionalProperties": False}, {"a": 1}),
    ],
)
def test_characters_that_cannot_be_spelled_are_not_left_out(
    ll_tokenizer: LLTokenizer, schema: dict[str, Any], without: Any
) -> None:
    translation = translated(schema)
    assert not grammar_accepts(ll_tokenizer, translation, json.dumps(without))
    assert grammar_accepts(ll_tokenizer, translation, '{"a": "c"}') or grammar_accepts(
        ll_tokenizer, translation, "null"
    )


def test_characters_that_can_be_spelled_stay(ll_tokenizer: LLTokenizer) -> None:
    translation = translated({"properties": {"a": {"enum": ["\t\n\b\f\r"]}}})
    assert grammar_accepts(ll_tokenizer, translation, r'{"a": "\t\n\b\f\r"}')
    closed = translated({"properties": {"a": {"enum": ["\u001b"]}}, "additionalProperties": False})
    assert grammar_accepts(ll_tokenizer, closed, r'{"a": "\u001b"}')

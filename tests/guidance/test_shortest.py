"""Short instances, matches and spellings, against judges of their own."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer

from guidance_core.guidance.shortest import find_way, walk
from guidance_core.guidance.shortest_json import shortest_instance
from guidance_core.guidance.shortest_match import shortest_match
from guidance_core.guidance.vocabulary import Vocabulary

POINT = {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["y", "x"]}


@pytest.fixture(scope="module")
def vocabulary(ll_tokenizer: LLTokenizer) -> Vocabulary:
    return Vocabulary(ll_tokenizer, ll_tokenizer.vocab_size)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, "0"),
        ({"type": "string"}, '""'),
        ({"type": "string", "minLength": 3, "pattern": "^[ab]+$"}, '"aaa"'),
        ({"enum": ["yes", 12, "no"]}, "12"),
        ({"type": "integer", "minimum": 17, "multipleOf": 5}, "20"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "0.5"),
        ({"type": "integer", "exclusiveMaximum": -120}, "-121"),
        (
            {"type": "array", "prefixItems": [{"const": "a"}], "items": {"type": "null"}, "minItems": 3},
            '["a",null,null]',
        ),
        (POINT, '{"x":0,"y":0}'),
        ({"type": "object", "minProperties": 2}, '{"0":0,"1":0}'),
        ({"type": "object", "patternProperties": {"^k": {"const": 1}}, "required": ["k1"]}, '{"k1":1}'),
        ({"anyOf": [POINT, {"type": "array", "minItems": 2}]}, "[0,0]"),
        ({"allOf": [POINT, {"properties": {"x": {"minimum": 10}}, "required": ["z"]}]}, '{"x":10,"y":0,"z":0}'),
        ({"type": ["object", "array"], "minProperties": 1}, "[]"),
        ({"allOf": [{"type": "array", "items": True, "minItems": 1}, {"items": {"const": "a"}}]}, '["a"]'),
        ({"allOf": [{"type": "array", "items": {"const": "a"}, "minItems": 1}, {"items": True}]}, '["a"]'),
    ],
    ids=str,
)
def test_a_short_instance_validates(schema: dict[str, Any], expected: str) -> None:
    text = shortest_instance(schema, len)
    assert text == expected
    Draft202012Validator(schema).validate(json.loads(text))


def test_a_recursive_schema_has_the_shortest_instance_that_ends() -> None:
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["next"],
    }
    schema = {"$defs": {"node": node}, "type": "array", "items": {"$ref": "#/$defs/node"}, "minItems": 1}
    assert shortest_instance(schema, len) == '[{"next":null}]'
    endless = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert shortest_instance(endless, len) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "abc",
        "a|bc|",
        "^[a-z]{2,5}$",
        "(ab|c){3}",
        r"\d+\.\d*",
        "[^0-9a-zA-Z]",
        r"(?:x?y+z*)+",
        "[-+]?[0-9]",
        r"\u00e9",
    ],
)
def test_a_short_match_matches(pattern: str) -> None:
    text = shortest_match(pattern)
    assert text is not None
    assert re.search(pattern, text)
    assert len(text) == min(len(found) for found in _matches(pattern))


def _matches(pattern: str) -> list[str]:
    """Some texts that a pattern matches, the shortest among them."""
    draw = random.Random(0)
    texts = ["", *("".join(draw.choices("abcxyz019.+-é ", k=draw.randint(1, 6))) for _ in range(20_000))]
    return [text for text in [*texts, "abc", "ccc"] if re.fullmatch(pattern, text)]


@pytest.mark.parametrize("pattern", ["(a", "[a&&b]", r"\bword", "(?i)x", "x{999999999}", "((a{999}){999}){999}"])
def test_a_pattern_that_is_not_understood_has_no_match(pattern: str) -> None:
    assert shortest_match(pattern) is None


def test_a_spelling_has_the_fewest_tokens_and_says_the_text(vocabulary: Vocabulary, ll_tokenizer: LLTokenizer) -> None:
    draw = random.Random(0)
    for _ in range(100):
        text = "".join(draw.choices('{"name": é🙂', k=draw.randint(0, 30))).encode()
        spelled = vocabulary.spell(text)
        assert spelled is not None
        assert ll_tokenizer.decode_bytes(spelled) == text
        assert len(spelled) <= len(ll_tokenizer.tokenize_bytes(text))


def test_a_text_with_a_byte_that_no_token_has_cannot_be_spelled(ll_tokenizer: LLTokenizer) -> None:
    [token] = ll_tokenizer.tokenize_str("~")
    assert Vocabulary(ll_tokenizer, token).spell(b"~") is None


@pytest.mark.parametrize("pattern", ["[a-z]{4}[0-9]!", "(one|two|three) [0-9]+", r'\{"k": \[("[a-z]{3}",?){2}\]\}'])
def test_a_way_that_is_found_ends_in_the_grammar(
    vocabulary: Vocabulary, ll_tokenizer: LLTokenizer, pattern: str
) -> None:
    matcher = LLMatcher(ll_tokenizer, LLMatcher.grammar_from_regex(pattern), log_level=0)
    way = find_way(matcher, vocabulary, most=50)
    assert way is not None
    assert re.fullmatch(pattern, ll_tokenizer.decode_str(list(way.tokens)))
    assert walk(matcher, way.tokens[:-1]) is None
    assert find_way(matcher, vocabulary, most=2) is None
    assert not matcher.is_error()


def test_a_way_knows_whether_it_needs_an_end_token(ll_tokenizer: LLTokenizer) -> None:
    matcher = LLMatcher(ll_tokenizer, LLMatcher.grammar_from_regex("q{1,2}"), log_level=0)
    [q] = ll_tokenizer.tokenize_str("q")
    one, two = walk(matcher, [q]), walk(matcher, [q, q])
    assert one is not None
    assert two is not None
    assert (one.stops, one.cost) == (False, 2)
    assert (two.stops, two.cost) == (True, 2)

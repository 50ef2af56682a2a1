from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator, validators
from llguidance import LLTokenizer

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar.json_schema import translations
from tests.grammar.translated import grammar_accepts, translated
from tests.grammar.walks import Walker

OBJECT = {"type": "object"}


def accepts(tokenizer: LLTokenizer, schema: dict[str, Any], text: str) -> bool:
    return grammar_accepts(tokenizer, translated(schema), text)


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "born": {"type": "integer", "minimum": 1800}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"indent": 4}, {"separators": (",", ":")}])
@pytest.mark.parametrize("value", [{"name": "Ada", "born": 1815}, {"name": 'é😀"\\\n\t'}])
def test_usual_layouts_of_valid_values_are_accepted(
    ll_tokenizer: LLTokenizer, layout: dict[str, Any], value: Any
) -> None:
    assert accepts(ll_tokenizer, PERSON, json.dumps(value, **layout))


@pytest.mark.parametrize(
    "text",
    ['{"name": ""}', '{"born": 1815}', '{"name": "a", "born": 1799}', '{"name": "a", "x": 1}', '{"name": "a"', "[]"],
)
def test_invalid_values_are_not(ll_tokenizer: LLTokenizer, text: str) -> None:
    assert not accepts(ll_tokenizer, PERSON, text)


@pytest.mark.parametrize("text", [" {}", "{}\n", "{\n\n}", "{  }"])
def test_whitespace_is_bounded(ll_tokenizer: LLTokenizer, text: str) -> None:
    assert not accepts(ll_tokenizer, OBJECT, text)


def test_x_guidance_of_the_client_wins_over_our_layout(ll_tokenizer: LLTokenizer) -> None:
    compact = OBJECT | {"x-guidance": {"whitespace_flexible": False}}
    assert accepts(ll_tokenizer, compact, '{"a":1}')
    assert not accepts(ll_tokenizer, compact, '{"a": 1}')
    assert accepts(ll_tokenizer, OBJECT | {"x-guidance": {"whitespace_pattern": "[ ]{1,9}"}}, '{"a":     1}')


OPEN = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (OPEN, r'{"\u0061": "x"}'),
        (OPEN, r'{"b": 1, "\u0061": "x"}'),
        ({"type": "object", "patternProperties": {"^a": {"type": "integer"}}}, r'{"\u0061": "x"}'),
        ({"allOf": [OPEN, {"required": ["b"]}]}, r'{"b": 1, "\u0061": "x"}'),
        ({"anyOf": [{"properties": {"a\n": {"type": "integer"}}}]}, r'{"a\u000a": "x"}'),
    ],
)
def test_an_escaped_spelling_of_a_declared_key_does_not_dodge_its_schema(
    ll_tokenizer: LLTokenizer, schema: dict[str, Any], text: str
) -> None:
    assert not Draft202012Validator(schema).is_valid(json.loads(text))
    assert not accepts(ll_tokenizer, schema, text)


def test_escapes_are_accepted_where_no_key_can_collide(ll_tokenizer: LLTokenizer) -> None:
    assert accepts(ll_tokenizer, PERSON, r'{"name": "\u00e9\ud83d\ude00"}')
    assert not accepts(ll_tokenizer, PERSON, r'{"name": "\ud83d"}')


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        # additionalItems and exclusiveMinimum mean nothing without their partners, which an applicator parts them from
        ({"items": [{"type": "integer"}], "anyOf": [{"type": "array"}], "additionalItems": False}, "[1, 2]"),
        (
            {"$schema": "http://json-schema.org/draft-04/schema#", "type": "number"}
            | {"minimum": 3, "anyOf": [{}], "exclusiveMinimum": True},
            "3",
        ),
        ({"additionalProperties": False, "anyOf": [{}], "patternProperties": {"^x": {}}, "type": "object"}, '{"y": 1}'),
        ({"type": "string", "format": "date"}, '"2023-02-29"'),
        ({"type": "string", "format": "date", "pattern": "^2024"}, '"2023-02-28"'),
        ({"type": "string", "pattern": r"^\W$"}, '"é"'),
        ({"type": "object", "patternProperties": {r"^\w+$": {"type": "integer"}}}, '{"é": "x"}'),
        ({"type": "object", "minProperties": 1}, "{}"),
        ({"const": 0}, "1"),
        # half of a large multiple is no double
        ({"type": "number", "multipleOf": 1.5}, "-6658511008011100.5"),
        ({"type": "number", "multipleOf": 0.5, "maximum": 5e15}, "4503599627370497"),
        # Python's jsonschema reads digits after a zero as a leading zero
        ({"type": "string", "format": "relative-json-pointer"}, '"703"'),
    ],
)
def test_what_llguidance_alone_would_take_wrongly_is_not_accepted(
    ll_tokenizer: LLTokenizer, schema: dict[str, Any], text: str
) -> None:
    assert not accepts(ll_tokenizer, schema, text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"additionalProperties": False, "anyOf": [{}], "patternProperties": {"^x": {}}, "type": "object"}, '{"x": 1}'),
        ({"type": "array", "uniqueItems": False, "items": {"type": "integer"}}, "[1, 1]"),
        ({"type": "object", "propertyNames": {"type": "string"}}, '{"a": 1}'),
        ({"type": "integer", "format": "int32"}, "7"),
        ({"format": "int32", "type": ["integer", "null"]}, "null"),
        ({"type": "string", "format": "password"}, '"secret"'),
        ({"type": "string", "format": "date"}, '"2024-02-29"'),
        ({"type": "string", "format": "date", "pattern": "^2024"}, '"2024-02-29"'),
        ({"type": "number", "minimum": 0.25, "anyOf": [{"maximum": 0.75}, {"minimum": 1.5}]}, "0.7"),
        ({"$ref": "#/components/schemas/a", "components": {"schemas": {"a": {"pattern": r"^\d$"}}}}, '"1"'),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}}, "null"),
        ({"$ref": "#x", "$defs": {"a": {"$anchor": "x", "type": "null"}}}, "null"),
        ({"type": "number", "multipleOf": 0.5}, "-1.5"),
        ({"const": {"a": [1, 0.1, None, "é"]}}, '{"a": [1, 0.1, null, "é"]}'),
        ({"type": "object", "properties": {"$ref": {"type": "string"}, "type": {"type": "null"}}}, '{"$ref": "x"}'),
        ({"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}, '{"kids": [{}]}'),
        ({"enum": [{"minimum": "text"}]}, '{"minimum": "text"}'),
        ({}, "[1.5e3, null]"),
    ],
)
def test_what_llguidance_alone_would_refuse_or_misread_is_accepted(
    ll_tokenizer: LLTokenizer, schema: dict[str, Any], text: str
) -> None:
    assert accepts(ll_tokenizer, schema, text)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "strin"}, "'type' must be one of"),
        ({"type": []}, "'type' must be one of"),
        (
            {"properties": {"a": {"type": "string", "minimum": "3"}}},
            "#/properties/a: 'minimum' must be a finite number",
        ),
        ({"minLength": -1}, "'minLength' must be a whole number"),
        ({"minLength": True}, "'minLength' must be a whole number"),
        ({"required": "a"}, "'required' must be a list"),
        ({"enum": []}, "'enum' must be a list of at least one value"),
        ({"anyOf": []}, "'anyOf' must be a list of at least one schema"),
        ({"properties": []}, "'properties' must be an object"),
        ({"items": 3}, "#/items: a schema must be an object"),
        ({"pattern": 3}, "'pattern' must be a string"),
        ({"pattern": "(?i)a"}, "#/pattern: the pattern '(?i)a' has an inline flag"),
        ({"patternProperties": {"[b-a]": {}}}, "a range whose ends are swapped"),
        ({"dependencies": {"a": 3}}, "'dependencies' must be an object whose values are lists"),
        ({"not": {"type": "strin"}}, "#/not: 'type' must be one of"),
        ({"if": 3}, "#/if: a schema must be an object"),
        ({"enum": [1, 2], "not": {"type": "number"}, "uniqueItems": 3}, "'uniqueItems' must be true or false"),
        ({"multipleOf": 0}, "a number above 0"),
        ({"allOf": [{"multipleOf": 99999}, {"multipleOf": 100000}]}, "too large a common multiple"),
        ({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, "too large a common multiple"),
        ({"const": 2**53 + 1}, "beyond ±2**53"),
        ({"enum": [{"a": [0.12345678901234567]}]}, "more than 15 digits"),
        ({"exclusiveMinimum": True, "minimum": 1}, "'exclusiveMinimum' must be a finite number"),
        (
            {"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": 3, "minimum": 5},
            "'exclusiveMinimum' must be true or false in draft 4",
        ),
        ({"$schema": "http://json-schema.org/draft-03/schema#", "extends": {}}, "draft 3 is not supported"),
        ({"x-guidance": {"lenient": True}}, "x-guidance/lenient: would accept answers that do not validate"),
        ({"x-guidance": {"coerce_one_of": True}}, "would accept answers that do not validate"),
        ({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}, "no finite value"),
    ],
)
def test_what_cannot_be_promised_is_refused_by_place_and_reason(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidGrammar, match=re.escape(named)):
        next(translations(json.dumps(schema)))


def test_steps_that_meet_in_no_value_may_have_a_large_common_multiple() -> None:
    schema = {"properties": {"a": {"multipleOf": 997}, "b": {"multipleOf": 991}}}
    assert next(translations(json.dumps(schema))).route == "exact"


@pytest.mark.parametrize("levels", [96, 300])
def test_deep_schemas_are_refused_before_anything_recurses(levels: int) -> None:
    with pytest.raises(InvalidGrammar, match="nested more than 96 levels"):
        next(translations(json.dumps(_nested(levels))))


def test_schemas_of_96_levels_are_taken() -> None:
    assert next(translations(json.dumps(_nested(95)))).route == "exact"


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"multipleOf": 0.01}, "0.01 is not a sum of powers of two"),
        ({"type": "object", "minProperties": 2}, "an answer could repeat one"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems' at #/"),
        ({"properties": {"a": {"pattern": "a(?=b)"}}}, "'pattern' at #/properties/a"),
        (
            {"type": "object", "patternProperties": {r"^\w": {}}, "additionalProperties": {"type": "null"}},
            "regex dialects differ",
        ),
    ],
)
def test_what_only_a_check_can_keep_is_refused_where_an_exact_grammar_is_asked_for(
    schema: dict[str, Any], named: str
) -> None:
    translation = translated(schema)
    assert translation.route == "checked"
    assert json.loads(str(translation.check)) == schema
    assert any(named in note for note in translation.notes)
    with pytest.raises(InvalidGrammar, match="an exact grammar is asked for .*, but .*" + re.escape(named)):
        translated(schema, exact=True)


WALKED: list[dict[str, Any]] = [
    PERSON,
    OPEN,
    {"type": "object", "patternProperties": {r"^\w+$": {"type": "integer"}, "^-": {"type": "null"}}},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2, "minProperties": 1},
    {"type": "array", "prefixItems": [{"type": "null"}, {"enum": [1, "a", [2]]}], "items": False, "minItems": 1},
    {"type": "array", "items": {"type": "string", "maxLength": 2}, "minItems": 2, "maxItems": 3},
    {"type": "number", "exclusiveMinimum": -1, "maximum": 0.75},
    {"type": "integer", "multipleOf": 7, "minimum": -50, "exclusiveMaximum": 50},
    {"type": "string", "pattern": r"^[^\W\d]\S?\D*$", "maxLength": 6},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "ipv6"},
    {"type": "string", "format": "email", "maxLength": 12},
    {"type": "string", "format": "uuid"},
    {"allOf": [OPEN, {"properties": {"b": {"type": "null"}}, "required": ["a"]}], "additionalProperties": True},
    {"anyOf": [{"type": "integer"}, {"type": "object", "properties": {"next": {"$ref": "#"}}}]},
    {"oneOf": [{"type": "null"}, {"properties": {"t": {"const": 1}}, "required": ["t"], "type": "object"}]},
]


@pytest.mark.parametrize("schema", WALKED, ids=lambda schema: json.dumps(schema)[:60])
def test_whatever_tokens_are_drawn_a_complete_answer_validates(
    ll_tokenizer: LLTokenizer, schema: dict[str, Any]
) -> None:
    walker = Walker(ll_tokenizer, seed=1)
    kind = validators.validator_for(schema, default=Draft202012Validator)
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
    grammar = translated(schema).source
    answers = [answer for _ in range(20) if (answer := walker.walk(grammar)) is not None]
    assert answers
    for answer in answers:
        validator.validate(json.loads(answer))

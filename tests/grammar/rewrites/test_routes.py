"""Which keywords have an equivalent, and which are left to the check."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLTokenizer

from guidance_core.grammar.check import readings
from tests.grammar.translated import grammar_accepts, passes, translated

OBJECT = {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "additionalProperties": False}
DRAFT_4 = {"$schema": "http://json-schema.org/draft-04/schema#"}
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node", "properties": {"tag": {"type": "null"}}}}}


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "null"}},
        {"type": "string", "not": {"enum": ["a", "b"]}},
        {"type": "number", "not": {"const": 3}},
        OBJECT | {"not": {"required": ["a", "b"]}},
        {"not": {"not": {"type": "array", "items": {"type": "null"}}}},
        {"if": {"properties": {"kind": {"const": "a"}}, "required": ["kind"]}, "then": {"required": ["b"]}},
        OBJECT | {"dependentRequired": {"a": ["b"]}},
        OBJECT | {"dependentSchemas": {"a": {"required": ["b"]}}},
        OBJECT | {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"oneOf": [{"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^b"}]},
        {"oneOf": [{"enum": ["x"]}, {"type": "string", "minLength": 2}]},
        {"oneOf": [{"type": "number", "maximum": 5}, {"type": "number", "exclusiveMinimum": 5}]},
        {"type": "object", "propertyNames": {"pattern": "^x-"}},
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}},
        {"type": "object", "propertyNames": {"maxLength": 3}},
        {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "minProperties": 1},
        OBJECT | {"maxProperties": 1, "minProperties": 1, "not": {"type": "null"}},
        {"type": "array", "maxItems": 1, "uniqueItems": True},
        {"type": "array", "maxItems": 3, "contains": {"type": "null"}},
        {"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False},
        {"enum": [1, "a", [2, 2]], "uniqueItems": True},
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        {"$defs": {"none": {"not": {"x-unknown": 1}}}, "anyOf": [{"$ref": "#/$defs/none"}, {"type": "null"}]},
    ],
    ids=json.dumps,
)
def test_an_equivalent_is_found(schema: dict[str, Any]) -> None:
    translation = translated(schema, exact=True)
    assert translation.route == "rewritten"
    assert translation.check is None
    assert translation.notes


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"not": {"pattern": "^a"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"type": "null"}}, "contains"),
        ({"oneOf": [{"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "b$"}]}, "oneOf"),
        ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "object", "propertyNames": {"pattern": "^a", "maxLength": 3}}, "propertyNames"),
    ],
    ids=json.dumps,
)
def test_the_rest_is_checked(schema: dict[str, Any], keyword: str) -> None:
    translation = translated(schema)
    assert translation.route == "checked"
    assert json.loads(str(translation.check)) == schema
    assert any(note.startswith(f"'{keyword}' at #/ is checked on the whole answer") for note in translation.notes)


@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        # What forbids every key forbids declared ones too.
        ({"type": "object", "properties": {"a": {}}, "propertyNames": False}, ['{"a": 1}', '{"b": 1}']),
        ({"patternProperties": {"^a": {}}, "maxProperties": 3, "propertyNames": {"type": "null"}}, ['{"a": 1}']),
        # A declared key that only some readings of a pattern match.
        (
            {"properties": {"é": {}}, "propertyNames": {"pattern": r"^\W$"}, "additionalProperties": False},
            ['{"é": 1}'],
        ),
        ({"propertyNames": {"enum": ["é", "-"], "pattern": r"^\W$"}}, ['{"é": 1}']),
        # To Python's jsonschema, 'additionalProperties' of 2019-09 evaluate nothing.
        (
            {"$schema": "https://json-schema.org/draft/2019-09/schema", "unevaluatedProperties": False}
            | {"additionalProperties": {"type": "integer"}, "properties": {"a": {}}},
            ['{"b": 1}'],
        ),
        # To Python, $ also matches before a newline at the end.
        ({"patternProperties": {r"^\S+$": {"type": "integer"}}}, [r'{"a\n": {}}']),
        (
            {"patternProperties": {"^[a-z]+$": {"type": "integer"}}, "additionalProperties": {"type": "null"}},
            [r'{"a\n": null}', r'{"a\n": 1}'],
        ),
        ({"patternProperties": {"^a$": True}, "additionalProperties": False}, [r'{"a\n": 1}']),
    ],
    ids=json.dumps,
)
def test_every_reading_is_kept(ll_tokenizer: LLTokenizer, schema: dict[str, Any], texts: list[str]) -> None:
    translation = translated(schema)
    for text in texts:
        assert not all(reading.problem(reading.parse(text)) is None for reading in readings(json.dumps(schema)))
        assert not grammar_accepts(ll_tokenizer, translation, text)
    assert grammar_accepts(ll_tokenizer, translation, "{}")


def test_draft_4_does_not_know_const() -> None:
    for schema in ({"not": {"const": 1}}, {"oneOf": [{"const": 1}, {"const": 2}]}):
        assert translated(schema).route == "rewritten"
        with pytest.raises(AssertionError, match="Unsatisfiable"):
            translated(DRAFT_4 | schema)


def test_a_reference_into_what_was_rewritten_still_leads_there() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"if": {"type": "null"}, "then": True, "else": {"type": "string"}}},
        "additionalProperties": {"$ref": "#/properties/a/else"},
    }
    assert translated(schema).route == "rewritten"


def test_a_reference_inside_of_a_schema_with_its_own_identifier_stays_there(ll_tokenizer: LLTokenizer) -> None:
    inner = {"$id": "https://example.com/inner", "$defs": {"x": {"type": "null"}}, "not": {"$ref": "#/$defs/x"}}
    schema = {"$defs": {"x": {"type": "string"}}, "allOf": [inner]}
    translation = translated(schema)
    assert translation.route == "rewritten"
    assert grammar_accepts(ll_tokenizer, translation, '"a"')
    assert not grammar_accepts(ll_tokenizer, translation, "null")


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        # Keywords that mean something else beside one another are not put together.
        ({"additionalProperties": {"type": "null"}, "not": {"not": {"properties": {"a": {}}}}}, '{"a": 1}'),
        ({"properties": {"a": {}}, "not": {"not": {"additionalProperties": False}}}, '{"a": 1}'),
        ({"properties": {"a": {}}, "if": True, "then": {"additionalProperties": False}}, '{"a": 1}'),
        ({"properties": {"a": {}}, "oneOf": [{"additionalProperties": False}, False]}, '{"a": 1}'),
        ({"items": {"type": "null"}, "not": {"not": {"prefixItems": [{}]}}}, "[1]"),
        # `not` evaluates nothing.
        ({"not": {"not": {"properties": {"a": {}}}}, "unevaluatedProperties": False}, '{"a": 1}'),
        ({"not": {"not": {"prefixItems": [{}]}}, "unevaluatedItems": False}, "[1]"),
        # `additionalItems` mean nothing without a list of items.
        ({"prefixItems": [{"type": "null"}], "additionalItems": False}, "[1]"),
        # To some validators `dependencies` mean nothing since 2019-09: both options hold.
        (
            {"oneOf": [{"type": "object", "dependencies": {"a": False}}, {"type": "object", "required": ["a"]}]},
            '{"a": 1}',
        ),
        # Draft 4 does not know the constants that bounds become.
        (DRAFT_4 | {"maximum": 3, "exclusiveMaximum": True}, "4"),
        (DRAFT_4 | {"not": {"enum": [True]}}, "true"),
    ],
    ids=json.dumps,
)
def test_what_is_wrong_stays_wrong(ll_tokenizer: LLTokenizer, schema: dict[str, Any], wrong: str) -> None:
    translation = translated(schema)
    assert not (grammar_accepts(ll_tokenizer, translation, wrong) and passes(translation, wrong))
    empty = "[]" if wrong.startswith("[") else "{}"
    assert grammar_accepts(ll_tokenizer, translation, empty)
    assert passes(translation, empty)


def test_what_stands_beside_a_reference_means_nothing_up_to_draft_7() -> None:
    draft = {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {"type": "object"}}}
    options = [{"$ref": "#/definitions/a", "required": ["k"], "properties": {"k": {"const": k}}} for k in (1, 2)]
    assert "beside it means nothing" in translated(draft | options[0]).notes[0]
    with pytest.raises(AssertionError, match="Unsatisfiable"):
        translated(draft | {"oneOf": options})  # which both always hold


def test_what_conditions_evaluate_counts_without_consequences(ll_tokenizer: LLTokenizer) -> None:
    translation = translated({"if": {"properties": {"a": {}}}, "unevaluatedProperties": False})
    assert grammar_accepts(ll_tokenizer, translation, '{"a": 1}')
    assert passes(translation, '{"a": 1}')
    assert not passes(translation, '{"b": 1}')


def test_alternatives_of_alternatives_are_rewritten(ll_tokenizer: LLTokenizer) -> None:
    translation = translated({"not": {"not": {"if": {"type": "null"}, "then": False}}})
    assert translation.route == "rewritten"
    assert not grammar_accepts(ll_tokenizer, translation, "null")


@pytest.mark.parametrize("step", [2**24, 1_000_003, 10**9, 0.123456789])
def test_large_steps_are_left_to_the_check_rather_than_compiled(ll_tokenizer: LLTokenizer, step: float) -> None:
    translation = translated({"type": "integer", "multipleOf": step})
    multiple = str(int(step if step > 1 else step * 10**9))
    assert translation.route == "checked"
    assert grammar_accepts(ll_tokenizer, translation, multiple)
    assert passes(translation, multiple)
    assert not passes(translation, str(int(multiple) + 1))


def test_counts_may_be_written_with_a_fraction(ll_tokenizer: LLTokenizer) -> None:
    assert not grammar_accepts(ll_tokenizer, translated({"type": "string", "maxLength": 2.0}), '"abc"')


def test_merged_references_back_to_what_is_merged_are_checked(ll_tokenizer: LLTokenizer) -> None:
    node = {"type": "object", "properties": {"kids": {"additionalProperties": {"$ref": "#/definitions/node"}}}}
    named = {"properties": {"kids": {"additionalProperties": {"$ref": "#/definitions/named"}}}, "required": ["kids"]}
    schema = {"definitions": {"node": node, "named": {"allOf": [{"$ref": "#/definitions/node"}, named]}}}
    translation = translated(schema | {"type": "array", "items": {"$ref": "#/definitions/named"}})
    assert translation.route == "checked"
    right, wrong = '[{"kids": {"a": {"kids": 1}}}]', '[{"kids": {"a": {}}}]'
    assert grammar_accepts(ll_tokenizer, translation, right)
    assert passes(translation, right)
    assert not passes(translation, wrong)


def test_a_pattern_of_keys_beside_a_recursive_rest_is_taken(ll_tokenizer: LLTokenizer) -> None:
    any_depth = {"items": {"$ref": "#/$defs/depth"}, "type": ["array", "null"]}
    schema = {
        "$defs": {"depth": any_depth},
        "type": "object",
        "patternProperties": {"^x$": {"type": ["array", "null"], "items": {"$ref": "#/$defs/depth"}}},
        "additionalProperties": {"$ref": "#/$defs/depth"},
    }
    translation = translated(schema)
    assert grammar_accepts(ll_tokenizer, translation, '{"x": [[null]], "y": [[]]}')
    assert not grammar_accepts(ll_tokenizer, translation, '{"x": [[1]]}')


def test_what_multiplies_beyond_llguidance_s_limits_is_checked(ll_tokenizer: LLTokenizer) -> None:
    cases = [
        {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {"required": ["kind", "at"], "properties": {"at": {"anyOf": [{"const": n} for n in range(150)]}}},
        }
        for kind in "abcdef"
    ]
    schema = {"type": "object", "properties": {"kind": {"enum": list("abcdefg")}}, "allOf": cases}
    translation = translated(schema)
    assert translation.route == "checked"
    assert any("'if' at #/allOf/0 is checked on the whole answer" in note for note in translation.notes)
    assert grammar_accepts(ll_tokenizer, translation, '{"kind": "a", "at": 3}')
    assert passes(translation, '{"kind": "a", "at": 3}')
    assert not passes(translation, '{"kind": "a"}')
    assert not grammar_accepts(ll_tokenizer, translation, '{"kind": "x"}')


def test_a_property_that_nothing_satisfies_does_not_refuse_the_object(ll_tokenizer: LLTokenizer) -> None:
    node = {"type": "object", "properties": {"a": {"$ref": "#/$defs/node", "required": ["b"]}}}
    schema = {"$ref": "#/$defs/node", "minProperties": 0, "$defs": {"node": node | {"additionalProperties": False}}}
    assert grammar_accepts(ll_tokenizer, translated(schema), "{}")

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from guidance_core.grammar.check import CheckError, prepare, readings, violation
from guidance_core.grammar.drafts import DRAFTS
from guidance_core.grammar.validator_classes import validator_class


def reason(schema: Any, text: str) -> str | None:
    return violation(json.dumps(schema), text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"uniqueItems": True}, "[1, true, [], {}, [0], [false]]"),
        ({"multipleOf": 0.01}, "1000.45"),
        ({"enum": [0.1, 1000]}, "0.10"),
        ({"enum": [0.1, 1000]}, "1e3"),
        ({"type": "integer"}, "1.0"),
        ({"type": "integer", "minimum": 2**70}, str(2**70)),
        ({"format": "date"}, '"2024-02-29"'),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "format": "date"}, '"no date in draft 4"'),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}, "null"),
        ({"patternProperties": {"^a": {"type": "null"}}, "additionalProperties": False}, '{"ab": null}'),
        ({"format": "regex"}, r'"^(\\d)[^b]|(?=c)$"'),
        ({"format": "idn-hostname"}, '"\u05d0.a-1"'),
        ({"items": {"$schema": "https://json-schema.org/draft/2020-12/schema", "multipleOf": 0.5}}, "[1.5]"),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "items": {"$ref": "#"}, "minItems": 0}, "[[1.5]]"),
        ({"items": [{"type": "null"}], "additionalItems": {"type": "string"}}, '[null, "a"]'),
        ({"patternProperties": {"^x-": {}}, "unevaluatedProperties": False}, '{"x-a": 1}'),
    ],
)
def test_right_answers_have_no_reason(schema: Any, text: str) -> None:
    assert reason(schema, text) is None


@pytest.mark.parametrize(
    ("schema", "text", "named"),
    [
        ({"uniqueItems": True}, "[1, 1.0]", "non-unique"),
        ({"properties": {"a": {"type": "null"}}}, '{"a": 1}', "at /a: 1 is not of type 'null'"),
        ({"multipleOf": 0.01}, "19.99", "not a multiple of 0.01"),  # not in doubles
        ({"multipleOf": 0.5}, "1.50000000000000000001", "not a multiple of 0.5"),  # not in exact numbers
        ({"multipleOf": 0.01}, "1e99999", "beyond those that can be divided"),
        ({"maximum": 2**53}, str(2**53 + 1), "greater than the maximum"),
        ({"pattern": r"^\d$"}, '"٣"', "does not match"),  # no digit of ECMA-262
        ({"pattern": "^a$"}, '"a\\n"', "does not match"),  # not the end to ECMA-262
        ({"format": "date"}, '"2023-02-29"', "not a 'date'"),
        ({"format": "regex"}, r'"\\a"', "not a 'regex'"),  # not to ECMA-262, though to Python
        ({"format": "regex"}, '"(?P<a>b)"', "not a 'regex'"),
        ({"format": "regex"}, '"(?i)a"', "not a 'regex'"),
        ({"format": "idn-hostname"}, '"example."', "not a 'idn-hostname'"),
        ({"format": "idn-hostname"}, '"0a.\u05d0"', "not a 'idn-hostname'"),  # left-to-right beside right-to-left
        ({}, '{"a": 1, "a": 2}', "the key 'a' more than once"),
        ({}, "NaN", "NaN is not JSON"),
        ({"type": "number"}, "1e" + "9" * 30, "exponent of too many digits"),
        ({}, "[1", "Expecting"),
        ({"additionalProperties": False, "patternProperties": {"^a": True}}, '{"b": 1}', "'b' is not allowed"),
        ({"additionalProperties": {"type": "null"}}, '{"b": 1}', "at /b"),
        ({}, "[" * 100_000, "nested too deeply"),
        ({"items": [{"type": "null"}, {"type": "null"}]}, "[null, 1]", "at /1: 1 is not of type 'null'"),
        ({"items": [{"type": "null"}], "additionalItems": False}, "[null, 1]", "False schema does not allow 1"),
        ({"patternProperties": {"^x-": {}}, "unevaluatedProperties": False}, '{"y": 1}', "Unevaluated properties"),
    ],
)
def test_wrong_answers_have_a_reason(schema: Any, text: str, named: str) -> None:
    assert re.search(re.escape(named), str(reason(schema, text)))


def test_a_slow_pattern_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidance_core.grammar.timed_patterns._SECONDS", 0.05)
    # Without the bound it takes hours.
    assert "take more than 0.05 s each" in str(reason({"pattern": "^(a|a)+$"}, json.dumps("a" * 40 + "b")))


def test_all_patterns_of_a_schema_share_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"items": {"pattern": "^(a|a)+$"}}
    answer = json.dumps(["a" * 12] * 20)
    assert reason(schema, answer) is None
    monkeypatch.setattr("guidance_core.grammar.timed_patterns._ALL_SECONDS", 0.0)
    assert "0.0 s together" in str(reason(schema, answer))


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"$ref": "https://example.com/schema.json"}, "refers to what it does not hold"),
        ({"not": {"$ref": "#/$defs/nowhere"}}, "refers to what it does not hold"),
        ({"maxItems": "3"}, "'3' is not of type 'integer'"),
        ({"pattern": "["}, "the pattern '[' cannot be read"),
        ({"allOf": [{"$id": "https://example.com/a", "$ref": "b"}]}, "refers to what it does not hold"),
        (
            {"patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False},
            "'unevaluatedProperties' beside 'patternProperties'",
        ),
    ],
)
def test_schemas_that_no_validator_can_evaluate_are_refused(schema: Any, named: str) -> None:
    with pytest.raises(CheckError, match=re.escape(named)):
        readings(json.dumps(schema))


@pytest.mark.parametrize("kept", [{}, {"$schema": "https://json-schema.org/draft/2020-12/schema"}])
def test_both_readings_go_on_where_a_schema_refers_to_itself(kept: dict[str, str]) -> None:
    schema = kept | {"type": ["array", "number", "string"], "items": {"$ref": "#"}, "pattern": r"^\p{L}\d$"}
    assert reason(schema, '[1.5, "a1"]') is None
    assert "does not match" in str(reason(schema, '["a\u0663"]'))


def test_no_schema_waits_for_its_drafts_validators_once_they_are_prepared() -> None:
    readings.cache_clear()
    validator_class.cache_clear()
    prepare()
    made = validator_class.cache_info().misses
    for name in DRAFTS:
        readings(json.dumps({"$schema": name, "title": "the first of its draft"}))
    assert validator_class.cache_info().misses == made

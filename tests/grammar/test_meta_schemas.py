from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from jsonschema import Draft4Validator, Draft201909Validator, Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError

from guidance_core.grammar.meta_schemas import fault

ANYTHING = [None, True, 0, -1, 1.5, "a", "#", "string", [], [1], ["a"], ["a", "a"], [{}], {}, {"a": 1}, {"a": []}]
KEYWORDS = [
    *("$id", "$ref", "$defs", "$anchor", "$vocabulary", "$comment", "title", "default", "deprecated", "examples"),
    *("type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "maxLength", "pattern", "format"),
    *("items", "prefixItems", "additionalItems", "contains", "minContains", "maxItems", "uniqueItems"),
    *("properties", "patternProperties", "additionalProperties", "propertyNames", "required", "minProperties"),
    *("dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"),
    *("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "definitions", "contentEncoding", "contentSchema"),
]


def says_the_library(schema: Any, kind: Any) -> bool:
    try:
        kind.check_schema(schema, format_checker=FormatChecker(formats=()))
    except SchemaError:
        return False
    return True


@pytest.mark.parametrize("kind", [Draft4Validator, Draft201909Validator, Draft202012Validator])
def test_a_keyword_may_hold_what_it_may_in_the_library(kind: Any) -> None:
    for keyword, value in product(KEYWORDS, ANYTHING):
        if keyword == "items" and value == [{}]:
            continue  # see below
        schema = {"type": "object", "not": {keyword: value}}
        assert (fault(schema, kind) is None) == says_the_library(schema, kind), schema


def test_the_place_of_a_fault_is_told() -> None:
    error = fault({"properties": {"a": {"items": {"minLength": "x"}}}}, Draft202012Validator)
    assert error is not None
    assert list(error.absolute_path) == ["properties", "a", "items", "minLength"]


def test_items_may_be_a_list_in_every_draft() -> None:
    for kind in (Draft201909Validator, Draft202012Validator):
        assert fault({"items": [{"type": "null"}]}, kind) is None
        assert fault({"items": [{"type": "nul"}]}, kind) is not None

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from guidance_core.grammar.keywords import placed_subschemas, resolve, subschemas
from tests.grammar.random_schemas import schemas

EVERYWHERE = {
    "items": [{"type": "null"}, True],
    "properties": {"a/b~c": {}, "d": False},
    "dependencies": {"a": ["b"], "c": {"minLength": 1}},
    "allOf": [{}],
    "prefixItems": {"no": "list"},
    "definitions": ["no object"],
    "not": 3,
    "const": {"not": {}},
}


@given(schemas)
def test_subschemas_are_found_with_and_without_their_places(schema: dict[str, Any]) -> None:
    assert_places_hold(schema)


@pytest.mark.parametrize("schema", [EVERYWHERE, {"items": {"items": {}}}, {}])
def test_values_that_hold_no_schemas_are_not_looked_into(schema: dict[str, Any]) -> None:
    assert_places_hold(schema)


def assert_places_hold(schema: dict[str, Any]) -> None:
    places = list(placed_subschemas(schema))
    assert [child for _, child in places] == subschemas(schema)
    assert all(resolve(schema, f"#/{place}") is child for place, child in places)


def test_subschemas_come_in_the_order_of_their_keywords() -> None:
    assert subschemas(EVERYWHERE) == [{"type": "null"}, True, {}, False, {"minLength": 1}, {}, 3]

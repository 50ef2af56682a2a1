from __future__ import annotations

from typing import Any

import pytest

from guidance_core.grammar.satisfiable import endless_reference, has_finite_instance

NODE = {"type": "object", "properties": {"next": {"$ref": "#"}}}


@pytest.mark.parametrize(
    "schema",
    [
        NODE,
        {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#/$defs/0", "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(40)} | {"40": {}}},
        {"$ref": "#/components/a", "components": {"a": {"type": "null"}}},
        {"$ref": "#anchor"},
        {},
    ],
)
def test_schemas_with_a_way_out_are_finite(schema: dict[str, Any]) -> None:
    assert has_finite_instance(schema)


@pytest.mark.parametrize(
    "schema",
    [
        NODE | {"required": ["next"]},
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}, {"allOf": [{}, {"$ref": "#"}]}]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "array", "prefixItems": [{}, {"$ref": "#"}], "minItems": 2},
        {"$ref": "#/$defs/a", "$defs": {"a": {"oneOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
    ],
)
def test_schemas_that_require_themselves_are_not(schema: dict[str, Any]) -> None:
    assert not has_finite_instance(schema)


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"$ref": "#"}, "#"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "#"),
        ({"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"not": {"allOf": [{"$ref": "#/$defs/a"}]}}}}, "#/$defs/a"),
        (NODE, None),
        ({"anyOf": [{"items": {"$ref": "#"}}, {"properties": {"$ref": {"$ref": "#"}}}]}, None),
        (
            {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}
            | {"$defs": {"a": {"$ref": "#/$defs/c"}, "b": {"$ref": "#/$defs/c"}, "c": {"items": {"$ref": "#"}}}},
            None,
        ),
        ({"allOf": 3, "anyOf": [None], "$ref": 4}, None),
    ],
)
def test_references_that_never_look_inside_a_value_are_found(schema: dict[str, Any], found: str | None) -> None:
    assert endless_reference(schema) == found

from __future__ import annotations

from typing import Any

import pytest

from guidance_core.grammar.satisfiable import has_finite_instance

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

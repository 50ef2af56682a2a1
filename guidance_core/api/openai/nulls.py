"""Null as clients mean it, who send every field that they know, and answers as they came: a field that is not given."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

_NULL = {"type": "null"}
_ANNOTATIONS = ("title", "description", "default")


class NullsLeftOut(BaseModel):
    """A part of a body in which null means "not given" for every field."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        return without_nulls(values) if isinstance(values, dict) else values

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Say of each field that need not be given that it may be null."""
        schema = handler(core_schema)
        model = handler.resolve_ref_schema(schema)
        required = model.get("required", ())
        for name, field in model.get("properties", {}).items():
            if name not in required:
                model["properties"][name] = _nullable(field)
        return schema


def without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """The fields that are given."""
    return {name: value for name, value in values.items() if value is not None}


def _nullable(field: dict[str, Any]) -> dict[str, Any]:
    kinds = field.get("anyOf", [])
    # Without any of these, null is allowed already; a constant tells kinds of objects apart.
    typed = field.keys() & {"type", "enum", "$ref", "anyOf", "oneOf", "allOf"}
    if not typed or "const" in field or field.get("type") == "null" or _NULL in kinds:
        return field
    outside = {key: value for key, value in field.items() if key in _ANNOTATIONS}
    inside = {key: value for key, value in field.items() if key not in _ANNOTATIONS}
    return {"anyOf": [*(kinds if inside.keys() == {"anyOf"} else [inside]), _NULL], **outside}

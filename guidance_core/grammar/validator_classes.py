"""jsonschema's validators with patterns that cannot hang, and with exact numbers for the specification's reading."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from functools import cache, partial
from typing import Any

from jsonschema import Draft3Validator, Draft4Validator, Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from guidance_core.grammar.timed_patterns import matches


@cache
def validator_class(kind: Any, *, exact: bool) -> Any:
    """A validator class; jsonschema takes a millisecond to make one, so they are kept.

    Args:
        kind: jsonschema's class for a draft.
        exact: as the specification reads schemas; else as Python's jsonschema does.
    """
    types = kind.TYPE_CHECKER
    if exact and kind not in (Draft3Validator, Draft4Validator):
        types = types.redefine("integer", _is_whole)
    keywords: dict[str, Any] = {
        "pattern": partial(_pattern, exact),
        "patternProperties": partial(_pattern_properties, exact),
        "additionalProperties": partial(_additional_properties, exact),
    }
    if exact:
        keywords["multipleOf"] = _multiple_of
    if kind is Draft4Validator:
        keywords |= {"exclusiveMinimum": _above, "exclusiveMaximum": _below}
    if kind is Draft202012Validator:
        keywords["items"] = _items
    return validators.extend(kind, keywords, type_checker=types)


def _pattern(exact: bool, validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not matches(pattern, instance, exact=exact):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(exact: bool, validator: Any, patterns: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, schema in patterns.items():
            for key, value in instance.items():
                if matches(pattern, key, exact=exact):
                    yield from validator.descend(value, schema, path=key, schema_path=pattern)


def _additional_properties(
    exact: bool, validator: Any, schema: Any, instance: Any, siblings: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    declared, patterns = siblings.get("properties", {}), siblings.get("patternProperties", {})
    for key, value in instance.items():
        if key not in declared and not any(matches(pattern, key, exact=exact) for pattern in patterns):
            if schema is False:
                yield ValidationError(f"the property {key!r} is not allowed")
            else:
                yield from validator.descend(value, schema, path=key)


def _items(validator: Any, items: Any, instance: Any, siblings: Any) -> Iterator[ValidationError]:
    """Also as earlier drafts have it, as a list: many generators still write that, and name no draft."""
    if not isinstance(items, list):
        yield from Draft202012Validator.VALIDATORS["items"](validator, items, instance, siblings)
    elif validator.is_type(instance, "array"):
        for index, item in enumerate(instance):
            schema = items[index] if index < len(items) else siblings.get("additionalItems", True)
            yield from validator.descend(item, schema, path=index)


def _is_whole(_: Any, instance: Any) -> bool:
    if isinstance(instance, bool):
        return False
    return isinstance(instance, int) or (isinstance(instance, Decimal) and instance == instance.to_integral_value())


def _above(_: Any, bound: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    """A later draft's bound: draft 4's schemas hold such ones once they are modernised."""
    if not isinstance(bound, bool) and _is_number(instance) and instance <= bound:
        yield ValidationError(f"{instance!s} is not above {bound!s}")


def _below(_: Any, bound: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    if not isinstance(bound, bool) and _is_number(instance) and instance >= bound:
        yield ValidationError(f"{instance!s} is not below {bound!s}")


def _is_number(instance: Any) -> bool:
    return isinstance(instance, (int, float, Decimal)) and not isinstance(instance, bool)


def _multiple_of(validator: Any, step: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "number") and Decimal(instance) % Decimal(step) != 0:
        yield ValidationError(f"{instance!s} is not a multiple of {step!s}")

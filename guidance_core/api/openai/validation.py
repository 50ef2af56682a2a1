"""What pydantic finds wrong with a body → one error that says what is wrong, where, and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from guidance_core.errors import InvalidRequest

_LONGEST_SHOWN = 40
"""Characters of a value."""

_KINDS = {
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "list_type": "a list",
    "strings_type": "a string, or a list of strings",
    "numbers_type": "a number, or a list of numbers",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def invalid_request(error: ValidationError, body: Mapping[str, Any]) -> InvalidRequest:
    """The error that a client is told.

    Where a value may be of several kinds, pydantic has a complaint for each of them. The one that lies deepest is about
    the kind that was meant; those at the same place are told together.

    Args:
        error: what pydantic says.
        body: what it was about, without nulls.
    """
    found = [(_place(details, body), details) for details in error.errors(include_url=False)]
    first = found[0][0]
    related = [(place, details) for place, details in found if _same_branch(place, first)]
    deepest = max((place for place, _ in related), key=_depth)
    details = [each for place, each in related if place == deepest]
    return _told(deepest, details)


def shown(value: object) -> str:
    """A JSON value as an error names it: short, whatever it holds."""
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case str() if len(value) > _LONGEST_SHOWN:
            return f"{value[:_LONGEST_SHOWN]!r}…"
        case str():
            return repr(value)
        case int() if abs(value) >= 10**_LONGEST_SHOWN:
            return "a number that long"
    return json.dumps(value)


def _told(param: str, found: Sequence[ErrorDetails]) -> InvalidRequest:
    match found[0]["type"]:
        case "missing" | "union_tag_not_found":
            return InvalidRequest(f"Missing required field {param!r}.", param=param, code="missing_required_parameter")
        case "extra_forbidden":
            return InvalidRequest(f"Unknown field {param!r}: leave it out.", param=param, code="unknown_parameter")
        case "none_required":
            return InvalidRequest(f"{param!r} is not supported: leave it out.", param=param, code="unsupported")
    kinds = [_expected(each) for each in found]
    if None in kinds:
        message = _broken_rule(found[kinds.index(None)])
    else:
        given = found[0]["ctx"]["tag"] if found[0]["type"] == "union_tag_invalid" else found[0]["input"]
        message = f"must be {', or '.join(dict.fromkeys(map(str, kinds)))}, not {shown(given)}"
    if all(each["type"].endswith("_type") for each in found):
        return InvalidRequest(f"Invalid type for {param!r}: {message}.", param=param, code="invalid_type")
    return InvalidRequest(f"Invalid value for {param!r}: {message}.", param=param)


def _expected(details: ErrorDetails) -> str | None:
    """What a value must be; None where that cannot be said in this form."""
    bounds = {name: _number(bound) for name, bound in details.get("ctx", {}).items() if isinstance(bound, int | float)}
    match details["type"]:
        case "literal_error":
            return str(details["ctx"]["expected"])
        case "union_tag_invalid":
            return f"one of {details['ctx']['expected_tags']}"
        case "greater_than_equal":
            return f"at least {bounds['ge']}"
        case "less_than_equal":
            return f"at most {bounds['le']}"
        case "greater_than":
            return f"greater than {bounds['gt']}"
        case "less_than":
            return f"less than {bounds['lt']}"
        case "string_pattern_mismatch":
            return f"a string that matches {details['ctx']['pattern']}"
    return _KINDS.get(details["type"])


def _broken_rule(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    match details["type"]:
        case "too_short" | "string_too_short" if context["min_length"] == 1:
            return "must not be empty"
        case "too_long":
            return f"must have at most {context['max_length']} items, not {context['actual_length']}"
    return details["msg"].removeprefix("Value error, ")


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _place(details: ErrorDetails, body: object) -> str:
    """Where an error is, as a path in the body, without the names of union branches that pydantic puts between."""
    path = ""
    value: Any = body
    location = details["loc"]
    for i, part in enumerate(location):
        if _holds(value, part):
            following = location[i + 1 : i + 2]
            if following and _holds(value, *following) and not _holds(value[part], *following):
                continue  # a branch that is called as a field is
            value = value[part]
        elif not (details["type"] == "missing" and i == len(location) - 1):
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    if details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path += "." + details["ctx"]["discriminator"].strip("'")
    return path


def _holds(value: object, part: int | str) -> bool:
    return isinstance(value, list) if isinstance(part, int) else isinstance(value, dict) and part in value


def _same_branch(place: str, other: str) -> bool:
    """Whether one of two paths leads to the other."""
    shorter, longer = sorted((place, other), key=len)
    return longer == shorter or longer.startswith((f"{shorter}.", f"{shorter}["))


def _depth(place: str) -> int:
    return place.count(".") + place.count("[")

"""What pydantic finds wrong with a body → one error that says what is wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from guidance_core.errors import InvalidRequest

_OBJECT_TYPES = frozenset({"dict_type", "model_type", "model_attributes_type"})


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


def _told(param: str, found: Sequence[ErrorDetails]) -> InvalidRequest:
    match found[0]["type"]:
        case "missing" | "union_tag_not_found":
            return InvalidRequest(f"Missing required field {param!r}.", param=param, code="missing_required_parameter")
        case "extra_forbidden":
            return InvalidRequest(f"Unknown field {param!r}: leave it out.", param=param, code="unknown_parameter")
        case "none_required":
            return InvalidRequest(f"{param!r} is not supported: leave it out.", param=param, code="unsupported")
    expected, *others = dict.fromkeys(map(_message, found))
    message = ", or ".join([expected, *(other.removeprefix("Input should be ") for other in others)])
    if all(each["type"].endswith("_type") for each in found):
        return InvalidRequest(f"Invalid type for {param!r}: {message}.", param=param, code="invalid_type")
    return InvalidRequest(f"Invalid value for {param!r}: {message}.", param=param)


def _message(details: ErrorDetails) -> str:
    if details["type"] in _OBJECT_TYPES:
        return "Input should be an object"
    if details["type"] == "union_tag_invalid":
        return f"Input should be one of {details['ctx']['expected_tags']}"
    return details["msg"].removeprefix("Value error, ").replace(" after validation", "")


def _place(details: ErrorDetails, body: object) -> str:
    """Where an error is, as a path in the body, without the names of union branches that pydantic puts between."""
    path = ""
    value: Any = body
    location = details["loc"]
    for i, part in enumerate(location):
        if isinstance(value, list) if isinstance(part, int) else isinstance(value, dict) and part in value:
            value = value[part]
        elif not (details["type"] == "missing" and i == len(location) - 1):
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    if details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path += "." + details["ctx"]["discriminator"].strip("'")
    return path


def _same_branch(place: str, other: str) -> bool:
    """Whether one of two paths leads to the other."""
    shorter, longer = sorted((place, other), key=len)
    return longer == shorter or longer.startswith((f"{shorter}.", f"{shorter}["))


def _depth(place: str) -> int:
    return place.count(".") + place.count("[")

"""Bounds and ``multipleOf``."""

from __future__ import annotations

from guidance_core.grammar.bounds import safe_ranges
from guidance_core.grammar.keywords import BOUNDS, Schema
from guidance_core.grammar.refusals import refuse
from guidance_core.grammar.rewrites.ledger import Ledger


def modernise_bounds(path: str, schema: Schema) -> None:
    """Draft 4's ``"minimum": 3, "exclusiveMinimum": true`` as ``"exclusiveMinimum": 3``."""
    for plain, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        flag = schema.pop(exclusive, False)
        if not isinstance(flag, bool):
            refuse(
                path, f"'{exclusive}' must be true or false in draft 4, not {flag!r}; a later '$schema' allows numbers"
            )
        if flag and plain in schema:
            schema[exclusive] = schema.pop(plain)


def rewrite_numbers(path: str, schema: Schema, ledger: Ledger) -> None:
    """Make bounds safe to enforce digit by digit; leave steps that doubles do not hold to the check."""
    step = schema.get("multipleOf")
    if step is not None and (step * 2**20) % 1:
        ledger.relaxed(
            path,
            "multipleOf",
            f"{step!r} is not a sum of powers of two, so validators that compute in doubles reject some of its "
            "multiples",
        )
    if not any(keyword in schema for keyword in BOUNDS):
        return
    try:
        ranges = safe_ranges(schema, integer=schema.get("type") == "integer")
    except ValueError as error:
        refuse(path, str(error))
    for keyword in BOUNDS:
        schema.pop(keyword, None)
    if len(ranges) == 1:
        schema |= ranges[0]
    elif "anyOf" in schema:
        schema["allOf"] = [*schema.get("allOf", ()), {"anyOf": ranges}]
    else:
        schema["anyOf"] = ranges

"""Bounds and ``multipleOf``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from guidance_core.grammar.bounds import safe_ranges
from guidance_core.grammar.keywords import BOUNDS, Schema
from guidance_core.grammar.refusals import refuse
from guidance_core.grammar.rewrites.ledger import Ledger

_MOST_UNITS = 100_000
"""A step in units of its last decimal: llguidance 1.9 tries as many remainders, in 0.5 s; powers of ten are cheap.

Its arithmetic ends at 32 bits, a digit beyond the step."""


def modernise_bounds(path: str, schema: Schema) -> None:
    """Draft 4's ``"minimum": 3, "exclusiveMinimum": true`` as ``"exclusiveMinimum": 3``."""
    for plain, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive not in schema:
            continue
        flag = schema.pop(exclusive)
        if not isinstance(flag, bool):
            refuse(
                path, f"'{exclusive}' must be true or false in draft 4, not {flag!r}; a later '$schema' allows numbers"
            )
        if flag and plain in schema:
            schema[exclusive] = schema.pop(plain)


def rewrite_numbers(path: str, schema: Schema, ledger: Ledger) -> list[float]:
    """Make bounds and steps safe to enforce digit by digit; leave steps that doubles do not hold to the check.

    Returns:
        The steps that llguidance will have to deal with.
    """
    steps = _rewrite_step(path, schema, ledger)
    if not schema.keys().isdisjoint(BOUNDS):
        _rewrite_bounds(path, schema)
    return steps


def _rewrite_step(path: str, schema: Schema, ledger: Ledger) -> list[float]:
    if "multipleOf" not in schema:
        return []
    step = schema["multipleOf"]
    if schema.get("type") == "integer":
        schema["multipleOf"] = Fraction(repr(step)).numerator
    if (step * 2**20) % 1:
        ledger.relaxed(
            path,
            "multipleOf",
            f"{step!r} is not a sum of powers of two, so validators that compute in doubles reject some of its "
            "multiples",
        )
    elif step % 1 and schema["multipleOf"] == step:
        _keep_exact(schema, step)
    # llguidance 1.9 takes multiples with as many decimals as the step has, or with none: 0.5 is none of 0.25 to it.
    step = schema["multipleOf"]
    decimals = max(0, -int(Decimal(repr(step)).normalize().as_tuple().exponent))
    units = int(Decimal(repr(step)).scaleb(decimals))
    if units > _MOST_UNITS and units not in (10**6, 10**7, 10**8):
        ledger.relaxed(path, "multipleOf", f"it would take too long to compile {step!r}, so a part of it is enforced")
        units = next(factor for factor in range(_MOST_UNITS, 0, -1) if units % factor == 0)
        step = schema["multipleOf"] = units / 10**decimals if decimals else units
    shorter = [math.lcm(units, 10 ** (decimals - fewer)) / 10**decimals for fewer in range(1, decimals)]
    if shorter and units > 1:
        del schema["multipleOf"]
        _demand(schema, [{"multipleOf": multiple} for multiple in (step, *shorter)])
        return [step, *shorter]
    return [step]


def _keep_exact(schema: Schema, step: float) -> None:
    """Forbid multiples of a fraction that are too large to be doubles: validators would round them."""
    largest = 2**53 // step.as_integer_ratio()[1]
    low = max((schema[keyword] for keyword in ("minimum", "exclusiveMinimum") if keyword in schema), default=-largest)
    high = min((schema[keyword] for keyword in ("maximum", "exclusiveMaximum") if keyword in schema), default=largest)
    if low <= -largest:
        schema["minimum"] = -largest
    if high >= largest:
        schema["maximum"] = largest


def _rewrite_bounds(path: str, schema: Schema) -> None:
    try:
        ranges = safe_ranges(schema, integer=schema.get("type") == "integer")
    except ValueError as error:
        refuse(path, str(error))
    for keyword in BOUNDS:
        schema.pop(keyword, None)
    if len(ranges) == 1:
        schema |= ranges[0]
    else:
        _demand(schema, ranges)


def _demand(schema: Schema, alternatives: Sequence[Schema]) -> None:
    if "anyOf" in schema:
        schema["allOf"] = [*schema.get("allOf", ()), {"anyOf": alternatives}]
    else:
        schema["anyOf"] = alternatives

"""Bounds of numbers, made safe to enforce digit by digit.

llguidance turns a range into a regular expression over decimal digits, and a client reads the digits as a double. Four
things can go wrong between the two (as of llguidance 1.9):

- A bound of more than 15 digits is rounded, by llguidance's reader or by its printer (whole ones up to 2**53 are not).
- An answer such as 0.0999…9 is below 0.1 as text and is 0.1 as a double.
- A whole exclusive bound passes where the other bound is less than 1 away.
- A number that is the beginning of a bound's digits does not pass: 0.2 where the maximum is 0.24.

So every bound becomes an inclusive one of at most 15 digits: itself where it is one already, else the next one inside
of it; and the beginnings of its digits are added as values of their own.
"""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal
from typing import Any

_DIGITS = 15
_LARGEST = 9_223_372_036_854_770_000
"""The largest number of 15 digits that fits in 64 bits, where llguidance's arithmetic ends."""
_EXACT_INTEGERS = 2**53
"""Whole numbers up to here are doubles of their own."""

Bounds = dict[str, int | float | list[int | float]]


def safe_ranges(schema: dict[str, Any], *, integer: bool) -> list[Bounds]:
    """The schema's bounds as schemas whose union is the range.

    Args:
        schema: has a bound or more; all are finite numbers (not draft 4's booleans).
        integer: only whole numbers are allowed anyway.

    Returns:
        A schema with ``minimum`` and ``maximum`` (one of them, or both), then schemas with an ``enum`` of one
        number (draft 4 has no ``const``).

    Raises:
        ValueError: nothing is left that fits in 64 bits.
    """
    lower = [
        -_below(-schema[keyword], strictly=keyword.startswith("exclusive"), integer=integer)
        for keyword in ("minimum", "exclusiveMinimum")
        if keyword in schema
    ]
    upper = [
        _below(schema[keyword], strictly=keyword.startswith("exclusive"), integer=integer)
        for keyword in ("maximum", "exclusiveMaximum")
        if keyword in schema
    ]
    low, high = max(lower, default=None), min(upper, default=None)
    if (low is not None and low > _LARGEST) or (high is not None and high < -_LARGEST):
        raise ValueError("no number of 64 bits is within the bounds")
    bounds: Bounds = {}
    if low is not None:
        bounds["minimum"] = _json_number(max(low, Decimal(-_LARGEST)))
    if high is not None:
        bounds["maximum"] = _json_number(min(high, Decimal(_LARGEST)))
    beginnings = [
        number
        for bound in (low, high)
        if bound is not None
        for number in _beginnings(bound)
        if (low is None or low <= number) and (high is None or number <= high)
    ]
    values: list[Bounds] = [{"enum": [_json_number(number)]} for number in beginnings]
    return [bounds, *values]


def _below(bound: int | float, *, strictly: bool, integer: bool) -> Decimal:
    """The largest safe number that is not above the bound, or is below it."""
    exact = Decimal(bound) if isinstance(bound, int) else Decimal(repr(bound))
    exponent = max(exact.adjusted() + 1 - _DIGITS, -_DIGITS) if exact else -_DIGITS
    if exact == int(exact) and (integer or not strictly):
        whole = int(exact) - strictly
        if abs(whole) <= _EXACT_INTEGERS:
            return Decimal(whole)
        if integer:
            double = float(whole)
            return Decimal(int(double if double <= whole else math.nextafter(double, -math.inf)))
    step = Decimal(1).scaleb(max(exponent, 0) if integer else exponent)
    rounded = exact.quantize(step, rounding=ROUND_FLOOR)
    return rounded - step if strictly and rounded == exact else rounded


def _beginnings(bound: Decimal) -> list[Decimal]:
    """What remains of a bound's fraction when one, two, … of its last digits are left out, but not the whole part."""
    digits = str(bound.normalize()) if bound else "0"
    whole, _, fraction = format(Decimal(digits), "f").partition(".")
    return [Decimal(f"{whole}.{fraction[:end]}") for end in range(1, len(fraction)) if fraction[end - 1] != "0"]


def _json_number(number: Decimal) -> int | float:
    return int(number) if number == int(number) else float(number)

"""String formats that llguidance takes too liberally, as exact regular expressions.

llguidance knows a fixed list of formats and refuses the others, but it lets 29 February pass in every year, and second
60 in every minute. These follow RFC 3339; years start at 0001 because Python's and most other date types do.
"""

from __future__ import annotations

_YEAR = r"(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = (
    r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])"  # divisible by 4, not by 100
    r"|(?:0[48]|[2468][048]|[13579][26])00)"  # divisible by 400
)
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_OFFSET = r"[+-](?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = (
    rf"(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:[Zz]|{_OFFSET})"
    r"|23:59:60(?:\.[0-9]{1,9})?(?:[Zz]|[+-]00:00))"  # a leap second ends a day of UTC
)

EXACT_FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}[Tt]{_TIME}$",
}
"""Format → the pattern that replaces it."""

FORMATS_WITHOUT_MEANING = frozenset({"password", "textarea", "multiline"})
"""Hints for forms, which constrain nothing."""

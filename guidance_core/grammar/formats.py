"""String formats that llguidance does not know, or takes too liberally, as regular expressions.

llguidance knows a fixed list of formats and refuses the others; of those that it knows, it lets 29 February pass in
every year, second 60 in every minute and host names of any length, but no IPv4 address inside of an IPv6 address.
Dates and times follow RFC 3339; years start at 0001 because Python's and most other date types do.
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

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"


def _ipv6() -> str:
    """RFC 4291's text forms: eight groups, of which one run of any length is ``::``, the last two perhaps an IPv4."""
    group = "[0-9A-Fa-f]{1,4}"
    forms = [f"(?:{group}:){{7}}{group}", f"(?:{group}:){{6}}{_IPV4}"]
    for before in range(8):
        start = f"{group}(?::{group}){{{before - 1}}}::" if before else "::"
        forms.append(f"{start}(?:{group}(?::{group}){{0,{6 - before}}})?" if before < 7 else start)
        if before < 6:
            forms.append(f"{start}(?:{group}:){{0,{5 - before}}}{_IPV4}")
    return f"(?:{'|'.join(forms)})"


_IPV6 = _ipv6()
_LETTER, _HYPHENATED = "[A-Za-z0-9]", "[A-Za-z0-9-]"
_LABEL = (
    rf"{_LETTER}(?:{_LETTER}|{_HYPHENATED}{_LETTER}|{_HYPHENATED}(?:{_LETTER}{_LETTER}|-{_LETTER})"
    rf"|{_HYPHENATED}(?:{_LETTER}{_HYPHENATED}|-{_LETTER}){_HYPHENATED}{{0,58}}{_LETTER})?"
)
"""Without hyphens at both its third and its fourth place: such labels are Punycode, most of which is none."""

_UNRESERVED = r"[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}"
_UNICODE = r"|[\x{A0}-\x{D7FF}\x{F900}-\x{FDCF}\x{FDF0}-\x{FFEF}]"
"""What RFC 3987 adds to RFC 3986 in the basic plane: rfc3987-syntax, which jsonschema checks with, takes no other."""


def _reference(*, unicode: bool, relative: bool) -> str:
    """RFC 3986's URI or URI-reference, or RFC 3987's IRI."""
    free = _UNRESERVED + (_UNICODE if unicode else "")
    character = rf"(?:{free}|[:@])"
    segments = rf"(?:/{character}*)*"
    literal = rf"\[(?:{_IPV6}|[Vv][0-9A-Fa-f]+\.(?:[A-Za-z0-9._~!$&'()*+,;=:-])+)\]"
    authority = rf"//(?:(?:{free}|:)*@)?(?:{literal}|(?:{free})*)(?::[0-9]*)?{segments}"
    absolute = rf"/(?:{character}+{segments})?"
    tail = rf"(?:\?(?:{character}|[/?])*)?(?:#(?:{character}|[/?])*)?"
    full = rf"[A-Za-z][A-Za-z0-9+.-]*:(?:{authority}|{absolute}|{character}+{segments}|){tail}"
    if not relative:
        return f"^{full}$"
    return rf"^(?:{full}|(?:{authority}|{absolute}|(?:{free}|@)+{segments}|){tail})$"


_VARIABLE = r"[A-Za-z0-9_](?:\.?[A-Za-z0-9_])*(?::[1-9][0-9]{0,2}|\*)?"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"

EXACT_FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}[Tt]{_TIME}$",
    "ipv6": f"^{_IPV6}$",
    "hostname": rf"^{_LABEL}(?:\.{_LABEL})*$",
    "uri-reference": _reference(unicode=False, relative=True),
    "iri": _reference(unicode=True, relative=False),
    "iri-reference": _reference(unicode=True, relative=True),
    # RFC 6570: literals and expressions; uri-template, which jsonschema checks with, takes no prefix of four digits,
    # and of percent-encoded names only some.
    "uri-template": rf"^(?:{_UNRESERVED}|[:/?#@\[\]]|\{{[+#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\}})*$",
    "json-pointer": f"^{_POINTER}$",
    # Python's jsonschema takes no digit after a zero: 100 is refused, and so it is here.
    "relative-json-pointer": f"^(?:0|[1-9]+0?)(?:#|{_POINTER})$",
    "idn-email": r'^[^\s@"(),:;<>\[\]\\]+@[^\s@"(),:;<>\[\]\\]+$',
}
"""Format → the pattern, in Rust's syntax, that replaces it."""

LONGEST = {"hostname": 253}
"""Format → the most characters that it may have."""

FORMATS_OF_LLGUIDANCE = frozenset({"duration", "email", "ipv4", "uuid", "uri"})
"""Formats that llguidance enforces as they are."""

CHECKED_FORMATS = frozenset({"regex", "idn-hostname"})
"""Formats that have a meaning but no pattern. All others are annotations, as JSON Schema says of unknown ones."""

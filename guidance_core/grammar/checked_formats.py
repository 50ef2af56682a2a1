"""Formats that no grammar expresses, more strictly than Python's jsonschema checks them."""

from __future__ import annotations

import re
import unicodedata

from jsonschema import FormatChecker

from guidance_core.grammar.patterns import PatternError, without_assertions

_SEPARATORS = re.compile("[.\u3002\uff0e\uff61]")
"""RFC 3490's full stops."""
_RIGHT_TO_LEFT = {"R", "AL", "AN"}


def stricter(checker: FormatChecker) -> FormatChecker:
    """A copy of a format checker that also rejects what only Python takes."""
    copy = FormatChecker(formats=())
    copy.checkers = dict(checker.checkers)
    copy.checkers["regex"] = (_is_regex, ())
    copy.checkers["idn-hostname"] = (_is_host_name, ())
    return copy


def _is_regex(instance: object) -> bool:
    """Whether a pattern is one of ECMA-262: jsonschema asks whether it is one of Python's."""
    if not isinstance(instance, str):
        return True
    try:
        without_assertions(instance)
    except PatternError:
        return False
    return "(?P" not in instance


def _is_host_name(instance: object) -> bool:
    """Whether a host name's labels go together, which jsonschema does not ask: none is empty, none breaks RFC 5893.

    In a name with right-to-left characters, left-to-right labels must begin with a letter and end with a letter or a
    digit. Here they may have nothing but these and hyphens, which is simpler and less than RFC 5893 allows.
    """
    if not isinstance(instance, str):
        return True
    labels = _SEPARATORS.split(instance)
    if not all(labels):
        return False
    directions = [[unicodedata.bidirectional(character) for character in label] for label in labels]
    if not any(_RIGHT_TO_LEFT.intersection(label) for label in directions):
        return True
    return all(
        _RIGHT_TO_LEFT.intersection(label)
        or (label[0] == "L" and label[-1] in ("L", "EN") and {*label} <= {"L", "EN", "ES"})
        for label in directions
    )

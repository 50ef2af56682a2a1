"""Patterns of keys that are all declared: behind the last one llguidance would allow a comma, and then nothing."""

from __future__ import annotations

import math
import re
from itertools import product

from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.rewrites.schemas import all_of

_MOST_WORDS = 256
_CHARACTER = r"[^()*+?{}.\\\[\]|^$]|\\x\{[0-9A-F]+\}"
_FINITE = re.compile(rf"\^(?:\((?:\?:)?(?:{_CHARACTER}|\|)*\)|{_CHARACTER})*\$")
"""Patterns in Rust's syntax of a few whole words, such as ``^(?:in|ex)clude$``."""
_PIECE = re.compile(r"\((?:\?:)?([^)]*)\)|([^(]+)")


def declare_last_keys(schema: Schema) -> None:
    """Put the schemas of such patterns beside the declared keys, in place, and drop the patterns.

    Args:
        schema: has ``patternProperties``, in Rust's syntax.
    """
    declared = schema.get("properties", {})
    names = {*declared, *schema.get("required", ())}
    patterns = schema["patternProperties"]
    for pattern, child in list(patterns.items()):
        words = _words(pattern)
        if words and names.issuperset(words):
            del patterns[pattern]
            declared |= {word: all_of(declared[word], child) if word in declared else child for word in words}
            schema["properties"] = declared
    if not patterns:
        del schema["patternProperties"]


def _words(pattern: str) -> list[str]:
    """All that a pattern matches; nothing where that is much, or not plain."""
    if _FINITE.fullmatch(pattern) is None:
        return []
    pieces = [(choice or text).split("|") for choice, text in _PIECE.findall(pattern[1:-1])]
    if math.prod(map(len, pieces)) > _MOST_WORDS:
        return []
    return [_unescaped("".join(chosen)) for chosen in product(*pieces)]


def _unescaped(text: str) -> str:
    return re.sub(r"\\x\{([0-9A-F]+)\}", lambda escape: chr(int(escape[1], 16)), text)

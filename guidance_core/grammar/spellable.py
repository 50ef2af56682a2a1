r"""Schemas without strings that cannot be spelled where ``\u`` escapes are not allowed.

Most control characters have no other escape. llguidance leaves such a character out where a constant, or a pattern, has
it alone: ``{"const": "a\u001bb"}`` would be answered with ``"ab"``.
"""

from __future__ import annotations

import re
from typing import Any

from guidance_core.grammar.keywords import Schema, subschemas

_UNSPELLABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
_IN_JSON = re.compile(r"\\(?:u00[01]|\\x\{(?:[01]?[0-9A-F]|7F)\})")
_IN_PATTERN = re.compile(r"\\x\{(?:[0-7BEF]|1[0-9A-F]|7F)\}")
_NOTHING = r"\x{1}\x{2}"
"""Members of a bracket expression: two characters at once are not left out, but match nothing."""


def needs_escapes(text: str) -> bool:
    """Whether a schema may have strings that cannot be spelled.

    Args:
        text: the schema as JSON, its patterns in Rust's syntax.
    """
    return "\x7f" in text or _IN_JSON.search(text) is not None


def only_spellable(root: Schema) -> None:
    """Take out what cannot be spelled, in place.

    Args:
        root: as llguidance takes it.
    """
    pending: list[Any] = [root]
    while pending:
        schema = pending.pop()
        if not isinstance(schema, dict):
            continue
        pending.extend(subschemas(schema))
        _restrict(schema)


def _restrict(schema: Schema) -> None:
    if "const" in schema and not _is_spellable(schema["const"]):
        schema["allOf"] = [*schema.get("allOf", ()), False]
        del schema["const"]
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if _is_spellable(value)]
        if not schema["enum"]:
            schema["allOf"] = [*schema.get("allOf", ()), False]
            del schema["enum"]
    if "pattern" in schema:
        schema["pattern"] = _spellable_pattern(schema["pattern"])
    if "patternProperties" in schema:
        schema["patternProperties"] = {
            _spellable_pattern(pattern): child for pattern, child in schema["patternProperties"].items()
        }


def _is_spellable(value: Any) -> bool:
    if isinstance(value, str):
        return _UNSPELLABLE.search(value) is None
    if isinstance(value, dict):
        return all(map(_is_spellable, (*value, *value.values())))
    return all(map(_is_spellable, value)) if isinstance(value, list) else True


def _spellable_pattern(pattern: str) -> str:
    if _IN_PATTERN.search(pattern) is None:
        return pattern
    parts = re.findall(r"\\x\{[0-9A-F]+\}|\\.|\[(?:\\.|[^\]\\])*\]|.", pattern, flags=re.DOTALL)
    return "".join(map(_spellable_part, parts))


def _spellable_part(part: str) -> str:
    if part.startswith("[") and _IN_PATTERN.search(part) is not None:
        start = "[^" if part.startswith("[^") else "["
        return start + _NOTHING + part[len(start) :]
    return f"[{_NOTHING}]" if _IN_PATTERN.fullmatch(part) is not None else part

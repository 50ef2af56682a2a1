"""``pattern`` and ``format``."""

from __future__ import annotations

from guidance_core.grammar.formats import CHECKED_FORMATS, EXACT_FORMATS, FORMATS_OF_LLGUIDANCE, LONGEST
from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.patterns import PatternError, common_regex, without_assertions
from guidance_core.grammar.refusals import refuse
from guidance_core.grammar.rewrites.assertions import leading_assertions
from guidance_core.grammar.rewrites.ledger import Ledger


def rewrite_strings(path: str, schema: Schema, ledger: Ledger) -> None:
    """Replace patterns by those that every reading shares, and formats by patterns or by nothing."""
    if "pattern" not in schema and "format" not in schema:
        return
    patterns: list[str] = []
    if "pattern" in schema:
        patterns.extend(_translated(path, schema.pop("pattern"), ledger))
    if "format" in schema:
        patterns.extend(_of_format(path, schema, ledger))
    if patterns:
        schema["pattern"] = patterns[0]
        if len(patterns) > 1:
            schema["allOf"] = [*schema.get("allOf", ()), *({"pattern": pattern} for pattern in patterns[1:])]


def _translated(path: str, pattern: str, ledger: Ledger) -> list[str]:
    try:
        return [common_regex(pattern)]
    except PatternError as error:
        problem = error
    equivalents = leading_assertions(pattern)
    try:
        if equivalents is not None:
            translated = [common_regex(part) for part in equivalents]
            ledger.rewrote(path, "pattern", "as several patterns")
            return translated
        wider = without_assertions(pattern)
    except PatternError:
        refuse(f"{path}/pattern", str(problem))
    ledger.relaxed(path, "pattern", str(problem))
    return [wider]


def _of_format(path: str, schema: Schema, ledger: Ledger) -> list[str]:
    """Take ``format`` out where llguidance does not know it; what it demands of strings, as Rust patterns."""
    name = schema["format"]
    if name in FORMATS_OF_LLGUIDANCE and _allows_strings(schema):
        return []
    del schema["format"]
    if not _allows_strings(schema):
        return []
    if name in LONGEST:
        schema["maxLength"] = min(LONGEST[name], schema.get("maxLength", LONGEST[name]))
    if name in EXACT_FORMATS:
        return [EXACT_FORMATS[name]]
    if name in CHECKED_FORMATS:
        ledger.relaxed(path, "format", f"no grammar expresses {name!r}")
    else:
        ledger.rewrote(path, "format", f"{name!r} is an annotation, which constrains nothing")
    return []


def _allows_strings(schema: Schema) -> bool:
    types = schema.get("type", "string")
    return "string" in types if isinstance(types, list) else types == "string"

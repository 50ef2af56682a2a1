"""``pattern`` and ``format``."""

from __future__ import annotations

from llguidance import LLMatcher

from guidance_core.grammar.formats import CHECKED_FORMATS, EXACT_FORMATS, FORMATS_OF_LLGUIDANCE, LONGEST
from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.patterns import PatternError, common_regex, without_assertions
from guidance_core.grammar.refusals import refuse
from guidance_core.grammar.rewrites.assertions import leading_assertions
from guidance_core.grammar.rewrites.ledger import Ledger
from guidance_core.grammar.rust_regex import escaped

_MANY = 32
"""Values of an ``enum``."""


def rewrite_strings(path: str, schema: Schema, ledger: Ledger, *, relaxed: bool) -> None:
    """Replace patterns by those that every reading shares, and formats by patterns or by nothing.

    Args:
        path: of the schema.
        schema: may have the keywords.
        ledger: takes notes.
        relaxed: leave to the check what llguidance cannot put together with the first pattern.
    """
    patterns: list[str] = []
    if relaxed and (words := _words(schema)) is not None:
        patterns.append(words)
    if not patterns and "pattern" not in schema and "format" not in schema:
        return
    if "pattern" in schema:
        patterns.extend(_translated(path, schema.pop("pattern"), ledger))
    if "format" in schema:
        patterns.extend(_of_format(path, schema, ledger))
    if patterns:
        schema["pattern"] = patterns[0]
        lengths: Schema = {keyword: schema[keyword] for keyword in ("minLength", "maxLength") if keyword in schema}
        if relaxed and (lengths or len(patterns) > 1) and _is_undecided(lengths, patterns):
            for keyword in lengths:
                del schema[keyword]
            ledger.relaxed(path, "pattern", "llguidance cannot tell whether a string has all that is demanded of it")
        elif len(patterns) > 1:
            schema["allOf"] = [*schema.get("allOf", ()), *({"pattern": pattern} for pattern in patterns[1:])]


def _words(schema: Schema) -> str | None:
    """A long ``enum`` of strings taken out, as a pattern: llguidance merges two patterns at once, but each value of one
    list with each of another.
    """
    values = schema.get("enum", ())
    if len(values) < _MANY or not _allows_strings(schema) or not all(isinstance(value, str) for value in values):
        return None
    del schema["enum"]
    schema["type"] = "string"
    return f"^(?:{'|'.join(map(escaped, values))})$"


def _is_undecided(lengths: Schema, patterns: list[str]) -> bool:
    """Whether llguidance gives up on finding a string of these lengths that matches all of the patterns."""
    schema = {"type": "string", **lengths, "allOf": [{"pattern": pattern} for pattern in patterns]}
    return "Unable to determine" in LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema))


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

r"""A JSON schema as llguidance should get it: what it would take wrongly is mended or refused.

llguidance compiles a schema or says why it cannot, with few departures from JSON Schema
(https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md). This module closes what those leave open, so
that every complete answer validates:

- Keywords whose values no meta-schema allows are refused everywhere, not only where llguidance looks.
- Bounds of numbers are made safe to enforce digit by digit (`bounds`); steps and constants that doubles cannot hold are
  refused.
- Patterns match only what ECMA-262 and Python both match (`patterns`), and dates exist (`formats`).
- In llguidance, keys that are not declared may be spelled with ``\u`` escapes: ``"\u0061"`` would dodge what the
  schema says about ``"a"``. Where an object has both declared and undeclared keys, ``\u`` escapes are not allowed.
- Undeclared keys may repeat, so a count of two or more of them cannot be promised and is refused.
- llguidance reads keywords in order, a group at a time; those that belong together are put together.
- Schemas that no finite value satisfies are refused (`satisfiable`).
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any, NoReturn

from llguidance import LLMatcher

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar.bounds import safe_ranges
from guidance_core.grammar.compatibility import understands
from guidance_core.grammar.formats import EXACT_FORMATS, FORMATS_WITHOUT_MEANING
from guidance_core.grammar.keywords import BOUNDS, Schema, malformed, resolve, subschemas
from guidance_core.grammar.patterns import PatternError, common_regex, widest_regex
from guidance_core.grammar.satisfiable import has_finite_instance

WHITESPACE = r"[ ]|\n[ ]{0,64}"
"""Between two tokens of JSON: nothing, one space, or one line break with indentation.

That covers every usual layout. llguidance's default allows any amount, on which a model can spend all of its answer.
"""

_MAX_DEPTH = 96
"""Deepest nesting. llguidance's own JSON reader stops at 128 levels, and our rewriting adds a few."""

_UNIQUE_SPELLING = 'nrbtf\\"'
"""llguidance's ``json_allowed_escapes`` without ``u``: every string then has exactly one spelling."""

_APPLICATORS = frozenset({"const", "enum", "allOf", "anyOf", "oneOf", "$ref"})
_TOGETHER = (("properties", "patternProperties", "additionalProperties"), ("prefixItems", "items", "additionalItems"))
_CONSTRAIN_NOTHING: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "propertyNames": (True, {}, {"type": "string"}),
    "dependencies": ({},),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "minContains": (0,),
}


def json_schema_grammar(schema: Schema) -> str:
    """Llguidance's grammar for a schema.

    Args:
        schema: an object; it is not changed.

    Raises:
        InvalidGrammar: the schema is malformed, or needs what cannot be promised; the message names the place.
    """
    _check_depth(schema)
    root: Schema = json.loads(json.dumps(schema))
    users = root.pop("x-guidance", {})
    rewriter = _Rewriter(root)
    rewriter.rewrite_all()
    if not has_finite_instance(root):
        _refuse("", "no finite value satisfies it: something is required inside of itself without end")
    options = {"whitespace_pattern": WHITESPACE} | _checked_options(users)
    if rewriter.keys_can_collide:
        if not understands("json_allowed_escapes"):
            _refuse(
                "",
                "this version of llguidance cannot keep undeclared keys apart from declared ones; "
                "set 'additionalProperties' to false wherever keys are declared, or update llguidance",
            )
        options["json_allowed_escapes"] = _UNIQUE_SPELLING
    elif understands("json_allow_general_unicode_escapes"):
        options = {"json_allow_general_unicode_escapes": True} | options
    return LLMatcher.grammar_from_json_schema(json.dumps(root | {"x-guidance": options}, ensure_ascii=False))


def _checked_options(options: Any) -> dict[str, Any]:
    if not isinstance(options, dict):
        _refuse("x-guidance", "must be an object")
    for option in ("lenient", "coerce_one_of"):
        if options.get(option):
            _refuse(f"x-guidance/{option}", "would accept answers that do not validate; leave it out")
    if "whitespace_flexible" in options and "whitespace_pattern" not in options:
        return {"whitespace_pattern": None} | options
    return options


class _Rewriter:
    """Checks and rewrites all schemas of one document, in place."""

    def __init__(self, root: Schema) -> None:
        self.keys_can_collide = False
        self._root = root
        self._is_draft4 = "/draft-04/" in str(root.get("$schema"))
        if "/draft-03/" in str(root.get("$schema")):
            _refuse("$schema", "draft 3 is not supported; write the schema in draft 4 or later")
        self._seen: set[int] = set()
        self._references: list[str] = []
        self._steps: list[float] = []

    def rewrite_all(self) -> None:
        """Rewrite what the keywords lead to, then what references lead to (``#/components/schemas/…``)."""
        self._walk("", self._root)
        while self._references:
            reference = self._references.pop()
            target = resolve(self._root, reference)
            if target is not None:
                self._walk(reference[1:], target)
        self._check_steps()

    def _walk(self, path: str, schema: Any) -> None:
        if isinstance(schema, bool) or id(schema) in self._seen:
            return
        if not isinstance(schema, dict):
            _refuse(path, "a schema must be an object or true or false")
        self._seen.add(id(schema))
        if self._is_draft4:
            _modernise_bounds(path, schema)
        problem = malformed(schema)
        if problem is not None:
            _refuse(path, problem)
        for relative, child in subschemas(schema):
            self._walk(f"{path}/{relative}", child)
        self._rewrite(path, schema)

    def _rewrite(self, path: str, schema: Schema) -> None:
        for keyword, values in _CONSTRAIN_NOTHING.items():
            if any(type(schema.get(keyword)) is type(value) and schema[keyword] == value for value in values):
                del schema[keyword]
        if "$ref" in schema:
            self._references.append(schema["$ref"])
        _rewrite_strings(path, schema)
        _rewrite_numbers(path, schema)
        if "multipleOf" in schema:
            self._steps.append(schema["multipleOf"])
        self._rewrite_objects(path, schema)
        _group(schema)

    def _rewrite_objects(self, path: str, schema: Schema) -> None:
        additional = schema.get("additionalProperties", True)
        patterns = schema.get("patternProperties", {})
        declared = set(schema.get("properties", {})) | set(schema.get("required", ()))
        is_open = additional is not False or bool(patterns)
        self.keys_can_collide |= is_open and bool(declared or patterns)
        undeclared = schema.get("minProperties", 0) - len(set(schema.get("required", ())))
        if is_open and undeclared > 1:
            _refuse(
                path,
                f"'minProperties' asks for {undeclared} keys that are not declared, and an answer could repeat one "
                "instead; name the keys in 'required', or leave 'minProperties' out",
            )
        if patterns:
            schema["patternProperties"] = _rewrite_pattern_properties(path, patterns, additional)

    def _check_steps(self) -> None:
        """Llguidance 1.9 multiplies the steps of schemas that it merges as 32-bit numbers."""
        steps = [Fraction(step) for step in self._steps]
        if len(steps) > 1 and max(steps) * math.lcm(*(math.ceil(step * 10**6) for step in steps)) >= 2**32 * 10**6:
            _refuse("", "the values of 'multipleOf' have too large a common multiple; use smaller ones")


def _modernise_bounds(path: str, schema: Schema) -> None:
    """Draft 4's ``"minimum": 3, "exclusiveMinimum": true`` as ``"exclusiveMinimum": 3``."""
    for plain, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        flag = schema.pop(exclusive, False)
        if not isinstance(flag, bool):
            _refuse(
                path, f"'{exclusive}' must be true or false in draft 4, not {flag!r}; a later '$schema' allows numbers"
            )
        if flag and plain in schema:
            schema[exclusive] = schema.pop(plain)


def _rewrite_strings(path: str, schema: Schema) -> None:
    if "pattern" in schema:
        schema["pattern"] = _translated(f"{path}/pattern", schema["pattern"])
    name = schema.get("format")
    if name in FORMATS_WITHOUT_MEANING or (name is not None and not _allows_strings(schema)):
        del schema["format"]
    elif name in EXACT_FORMATS:
        del schema["format"]
        if "pattern" in schema:
            schema["allOf"] = [*schema.get("allOf", ()), {"pattern": EXACT_FORMATS[name]}]
        else:
            schema["pattern"] = EXACT_FORMATS[name]


def _allows_strings(schema: Schema) -> bool:
    types = schema.get("type", "string")
    return "string" in types if isinstance(types, list) else types == "string"


def _translated(path: str, pattern: str, *, widest: bool = False) -> str:
    try:
        return widest_regex(pattern) if widest else common_regex(pattern)
    except PatternError as error:
        _refuse(path, str(error))


def _rewrite_pattern_properties(path: str, patterns: dict[str, Any], additional: Any) -> dict[str, Any]:
    """Patterns of keys, in a reading that holds whichever reading the validator has.

    A key that only some readings match must satisfy the pattern's schema *and* ``additionalProperties``. With the
    former alone it does where the latter forbids nothing; where the latter forbids everything no such key is allowed;
    anything between is refused.
    """
    rewritten: dict[str, Any] = {}
    for pattern, schema in patterns.items():
        where = f"{path}/patternProperties/{pattern}"
        narrow, wide = _translated(where, pattern), _translated(where, pattern, widest=True)
        if narrow != wide and additional not in (True, False, {}):
            _refuse(
                where,
                "regex dialects differ in what it matches, which matters beside a schema in 'additionalProperties'; "
                r"write [0-9] for \d, [A-Za-z0-9_] for \w, and a bracket expression for . and \s",
            )
        chosen = narrow if additional is False else wide
        if chosen in rewritten:
            _refuse(where, "another pattern here matches the same keys")
        rewritten[chosen] = schema
    return rewritten


def _rewrite_numbers(path: str, schema: Schema) -> None:
    step = schema.get("multipleOf")
    if step is not None and (step * 2**20) % 1:
        _refuse(
            f"{path}/multipleOf",
            f"{step!r} is not a sum of powers of two, so validators that compute in doubles reject right answers "
            "(19.99 is no multiple of 0.01 to them) and none can be promised to validate; use a whole number of the "
            "smallest unit, or a string with a 'pattern'",
        )
    if any(keyword in schema for keyword in BOUNDS):
        _rewrite_bounds(path, schema)


def _rewrite_bounds(path: str, schema: Schema) -> None:
    try:
        ranges = safe_ranges(schema, integer=schema.get("type") == "integer")
    except ValueError as error:
        _refuse(path, str(error))
    for keyword in BOUNDS:
        schema.pop(keyword, None)
    if len(ranges) == 1:
        schema |= ranges[0]
    elif "anyOf" in schema:
        schema["allOf"] = [*schema.get("allOf", ()), {"anyOf": ranges}]
    else:
        schema["anyOf"] = ranges


def _group(schema: Schema) -> None:
    """Put keywords that only mean something together side by side, at the place of the first of them."""
    if _APPLICATORS.isdisjoint(schema):
        return
    items = dict(schema)
    schema.clear()
    for keyword in items:
        if keyword not in schema:
            group = next((group for group in _TOGETHER if keyword in group), (keyword,))
            schema.update({member: items[member] for member in group if member in items})


def _check_depth(schema: Any) -> None:
    level = [schema]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for value in level
            if isinstance(value, (dict, list))
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    _refuse("", f"it is nested more than {_MAX_DEPTH} levels deep")


def _refuse(path: str, problem: str) -> NoReturn:
    place = f"The JSON schema at #/{path.lstrip(chr(47))}" if path else "The JSON schema"
    raise InvalidGrammar(f"{place}: {problem}.")

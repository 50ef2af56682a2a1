"""Short instances of a JSON schema, computed from the schema alone: a least fixed point over its subschemas.

What comes out is a proposal: keywords may interact in ways that are not looked into here, so whoever uses an instance
verifies it on a matcher.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from guidance_core.grammar.keywords import BOUNDS, Schema, resolve
from guidance_core.guidance.shortest_match import shortest_match

Json = Any
"""A JSON value."""

_MOST_ROUNDS = 64
_MOST_ALTERNATIVES = 64
_LONGEST = 20_000
"""Characters of an instance; longer ones are not looked for."""

_FILLERS = ("-", " ", "=", "a", "0", "_", "*", "ab")
"""What strings of a least length are filled with: runs of some of these are single tokens in most vocabularies."""

_FORMATS = {
    "email": "a@a.aa",
    "hostname": "a",
    "ipv4": "0.0.0.0",
    "ipv6": "::",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "uri": "a:a",
    "duration": "P1D",
    "date": "0001-01-01",
    "time": "00:00:00z",
    "date-time": "0001-01-01T00:00:00z",
}
_TYPES = ("integer", "string", "null", "boolean", "array", "object")
_APPLICATORS = ("$ref", "allOf", "anyOf", "oneOf")
_LEAST = frozenset({"minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum"})
_MOST = frozenset({"maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum"})


def shortest_instance(root: Schema, cost: Callable[[str], int]) -> str | None:
    """A short instance as compact JSON, or None where none was found.

    Args:
        root: a schema as `json_schema` rewrites it.
        cost: of a text; lower is better.
    """
    return _Instances(root, cost).of_root()


class _Instances:
    """The table of the fixed point: for each schema that an instance needs, the cheapest text known so far."""

    def __init__(self, root: Schema, cost: Callable[[str], int]) -> None:
        self._root = root
        self._cost = cost
        self._best: dict[int, tuple[int, str]] = {}
        self._pending: dict[int, Any] = {}
        self._merges: dict[tuple[int, ...], Schema] = {}
        self._alternatives: dict[int, list[Schema]] = {}
        self._changed = False

    def of_root(self) -> str | None:
        self._pending[id(self._root)] = self._root
        for _ in range(_MOST_ROUNDS):
            self._changed = False
            # Later schemas are those that earlier ones need: looking at them first saves rounds.
            for schema in reversed(list(self._pending.values())):
                self._improve(schema)
            if not self._changed:
                break
        best = self._best.get(id(self._root))
        return None if best is None else best[1]

    def _get(self, schema: Any) -> str | None:
        if schema is True or schema == {}:
            return "0"
        if schema is False or not isinstance(schema, dict):
            return None
        if id(schema) not in self._pending:
            self._pending[id(schema)] = schema
            self._changed = True
        best = self._best.get(id(schema))
        return None if best is None else best[1]

    def _improve(self, schema: Schema) -> None:
        if id(schema) not in self._alternatives:
            self._alternatives[id(schema)] = list(
                itertools.islice(self._expanded([schema], frozenset()), _MOST_ALTERNATIVES)
            )
        for flat in self._alternatives[id(schema)]:
            for text in self._instances(flat):
                if len(text) <= _LONGEST:
                    best, cost = self._best.get(id(schema)), self._cost(text)
                    if best is None or cost < best[0]:
                        self._best[id(schema)] = (cost, text)
                        self._changed = True

    def _expanded(self, parts: list[Any], followed: frozenset[int]) -> Iterator[Schema]:
        """Schemas without applicators whose union is the conjunction of the parts; subschemas stay as they are.

        What comes of an applicator takes its place among the keywords: llguidance orders keys by that.
        """
        for position, part in enumerate(parts):
            if part is False:
                return
            keyword = next((keyword for keyword in _APPLICATORS if isinstance(part, dict) and keyword in part), None)
            if keyword is None:
                continue
            keywords = list(part.items())
            place = list(part).index(keyword)
            before = [*parts[:position], dict(keywords[:place])]
            after = [dict(keywords[place + 1 :]), *parts[position + 1 :]]
            if keyword == "$ref":
                target = resolve(self._root, part["$ref"])
                if target is not None and id(target) not in followed:
                    yield from self._expanded([*before, target, *after], followed | {id(target)})
            elif keyword == "allOf":
                yield from self._expanded([*before, *part["allOf"], *after], followed)
            else:
                for branch in part[keyword]:
                    yield from self._expanded([*before, branch, *after], followed)
            return
        yield self._merged([part for part in parts if isinstance(part, dict)])

    def _merged(self, parts: list[Schema]) -> Schema:
        merged: Schema = {}
        for part in parts:
            additional = merged.get("additionalProperties", True), part.get("additionalProperties", True)
            for keyword, value in part.items():
                if keyword not in merged:
                    merged[keyword] = value
                elif keyword == "properties":
                    both = {
                        name: self._both(merged[keyword][name], value[name]) for name in merged[keyword] & value.keys()
                    }
                    merged[keyword] = merged[keyword] | value | both
                elif keyword == "required":
                    merged[keyword] = list(dict.fromkeys([*merged[keyword], *value]))
                elif keyword in ("items", "additionalProperties") and not isinstance(value, list):
                    merged[keyword] = self._both(merged[keyword], value)
                elif keyword == "type":
                    merged[keyword] = _common_types(merged[keyword], value)
                elif keyword == "enum":
                    merged[keyword] = [choice for choice in merged[keyword] if choice in value]
                elif keyword in _LEAST:
                    merged[keyword] = max(merged[keyword], value)
                elif keyword in _MOST:
                    merged[keyword] = min(merged[keyword], value)
            if False in additional:
                merged["additionalProperties"] = False
        return merged

    def _both(self, one: Any, other: Any) -> Any:
        """A schema for the conjunction of two: the same object for the same two."""
        if one is True or one == {} or one is other:
            return other
        if other is True or other == {}:
            return one
        if not isinstance(one, dict) or not isinstance(other, dict):
            return False
        return self._merges.setdefault((id(one), id(other)), {"allOf": [one, other]})

    def _instances(self, schema: Schema) -> Iterator[str]:
        if "const" in schema or "enum" in schema:
            for value in [schema["const"]] if "const" in schema else schema["enum"]:
                if _fits(value, schema):
                    yield _json(value)
            return
        types = schema.get("type", _TYPES)
        for name in [types] if isinstance(types, str) else types:
            if name in ("integer", "number"):
                yield from map(_json, _numbers(schema, whole=name == "integer"))
            elif name == "string":
                yield from map(_json, _strings(schema))
            elif name == "null":
                yield "null"
            elif name == "boolean":
                yield from ("true", "false")
            elif name == "array":
                yield from self._arrays(schema)
            elif name == "object":
                yield from self._objects(schema)

    def _arrays(self, schema: Schema) -> Iterator[str]:
        first, items = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(items, list):
            first, items = items, schema.get("additionalItems", True)
        least = schema.get("minItems", 0)
        if least > _LONGEST:
            return
        texts = [self._get(item) for item in first[:least]]
        if least > len(texts):
            texts += [self._get(items)] * (least - len(texts))
        if None not in texts:
            yield "[" + ",".join(text for text in texts if text is not None) + "]"

    def _objects(self, schema: Schema) -> Iterator[str]:
        properties: Schema = schema.get("properties", {})
        required = set(schema.get("required", ()))
        members: dict[str, str] = {}
        for name in [name for name in properties if name in required] + [
            name for name in schema.get("required", ()) if name not in properties
        ]:
            text = self._get(properties[name] if name in properties else self._of_undeclared(schema, name))
            if text is None:
                return
            members[name] = text
        missing = schema.get("minProperties", 0) - len(members)
        if missing > 0:
            members = self._with_more(schema, members, missing)
            if len(members) < schema["minProperties"]:
                return
        yield "{" + ",".join(f"{_json(name)}:{text}" for name, text in members.items()) + "}"

    def _with_more(self, schema: Schema, members: dict[str, str], missing: int) -> dict[str, str]:
        """The members, with the cheapest optional ones added, in the order that grammars want."""
        declared = schema.get("properties", {})
        optional = {name: self._get(child) for name, child in declared.items() if name not in members}
        more = {name: text for name, text in optional.items() if text is not None}
        for name in itertools.islice(_new_names(schema, declared), missing):
            text = self._get(self._of_undeclared(schema, name))
            if text is not None:
                more[name] = text
        cheapest = sorted(more, key=lambda name: self._cost(f"{_json(name)}:{more[name]},"))[:missing]
        members = members | {name: more[name] for name in cheapest}
        order = [*(name for name in declared if name in members), *(name for name in members if name not in declared)]
        return {name: members[name] for name in order}

    def _of_undeclared(self, schema: Schema, name: str) -> Any:
        matching = [child for pattern, child in schema.get("patternProperties", {}).items() if _matches(pattern, name)]
        if not matching:
            return schema.get("additionalProperties", True)
        found = matching[0]
        for other in matching[1:]:
            found = self._both(found, other)
        return found


def _new_names(schema: Schema, declared: Schema) -> Iterator[str]:
    if schema.get("additionalProperties", True) is not False:
        yield from (name for name in map(str, itertools.count()) if name not in declared)
    for pattern in schema.get("patternProperties", {}):
        name = shortest_match(pattern)
        if name is not None and name not in declared:
            yield name


def _matches(pattern: str, name: str) -> bool:
    """Whether a rewritten pattern matches; False where Python's ``re`` does not understand it."""
    as_python = re.sub(r"\\x\{([0-9A-Fa-f]+)\}", lambda code: f"\\U{int(code.group(1), 16):08x}", pattern)
    try:
        return re.search(as_python, name) is not None
    except re.error:
        return False


def _common_types(one: Any, other: Any) -> list[str]:
    first, second = ([types] if isinstance(types, str) else types for types in (one, other))
    wider = [*first, *(["integer"] if "number" in first else [])]
    return [name for name in second if name in wider] or [
        name for name in first if name in second or (name == "integer" and "number" in second)
    ]


def _numbers(schema: Schema, *, whole: bool) -> Iterator[int | float]:
    step = Fraction(schema.get("multipleOf", 0))
    low = max(
        (Fraction(schema[keyword]) for keyword in ("minimum", "exclusiveMinimum") if keyword in schema), default=None
    )
    high = min(
        (Fraction(schema[keyword]) for keyword in ("maximum", "exclusiveMaximum") if keyword in schema), default=None
    )
    candidates: list[Fraction] = [Fraction(digit) for digit in range(10)] + [Fraction(-digit) for digit in range(1, 10)]
    for bound, direction in ((low, 1), (high, -1)):
        if bound is not None:
            nearest = math.ceil(bound) if direction > 0 else math.floor(bound)
            candidates += [bound, Fraction(nearest), Fraction(nearest + direction)]
            if step:
                multiple = math.ceil(bound / step) if direction > 0 else math.floor(bound / step)
                candidates += [multiple * step, (multiple + direction) * step]
    if step:
        candidates.append(step)
    if low is not None and high is not None:
        tenths = range(math.ceil(low * 10), math.floor(high * 10) + 1)
        candidates += [Fraction(tenth, 10) for tenth in tenths[:10]]
    for number in candidates:
        if (
            (not whole or number.denominator == 1)
            and (not step or number % step == 0)
            and all(_within(number, keyword, schema) for keyword in BOUNDS)
        ):
            yield int(number) if number.denominator == 1 else float(number)


def _within(number: Fraction, keyword: str, schema: Schema) -> bool:
    if keyword not in schema:
        return True
    bound = Fraction(schema[keyword])
    return {
        "minimum": number >= bound,
        "exclusiveMinimum": number > bound,
        "maximum": number <= bound,
        "exclusiveMaximum": number < bound,
    }[keyword]


def _strings(schema: Schema) -> Iterator[str]:
    least = schema.get("minLength", 0)
    if least > _LONGEST:
        return
    if "pattern" in schema:
        text = shortest_match(schema["pattern"])
        if text is None:
            return
        more = least - len(text)
        if more <= 0:
            yield text
            return
        longer = [text + (filler * more)[:more] for filler in _FILLERS]
        longer += [text[:1] * more + text, text + text[-1:] * more]
        yield from [each for each in longer if _matches(schema["pattern"], each)] or longer
    elif "format" in schema:
        if schema["format"] in _FORMATS:
            yield _FORMATS[schema["format"]]
    else:
        yield from ((filler * least)[:least] for filler in (_FILLERS if least else _FILLERS[:1]))


def _fits(value: Json, schema: Schema) -> bool:
    """Whether a constant is of the schema's type: where schemas were merged, it need not be."""
    types = schema.get("type")
    if types is None:
        return True
    names = {
        bool: ("boolean",),
        int: ("integer", "number"),
        float: ("number", "integer") if isinstance(value, float) and value.is_integer() else ("number",),
        str: ("string",),
        type(None): ("null",),
        list: ("array",),
        dict: ("object",),
    }[type(value)]
    return any(name in ([types] if isinstance(types, str) else types) for name in names)


def _json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

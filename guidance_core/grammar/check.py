r"""Whether a whole answer validates against the JSON schema that its grammar only approximates.

Validators do not read every schema alike: most compute in doubles, where 19.99 is no multiple of 0.01, and their
regular expressions differ in what ``\d`` and ``$`` match. So an answer must be right in two readings at once: as
Python's ``jsonschema`` reads it, and as the specification does, with exact numbers and ECMA-262's classes.

Neither reading ever fetches a schema, and no pattern can hang it: patterns run under a time limit.
"""

from __future__ import annotations

import json
import re
from decimal import Context, Decimal, DecimalException, localcontext
from functools import lru_cache
from typing import Any

import regex
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from guidance_core.grammar.checked_formats import stricter
from guidance_core.grammar.drafts import DRAFTS
from guidance_core.grammar.keywords import subschemas
from guidance_core.grammar.meta_schemas import fault
from guidance_core.grammar.timed_patterns import compiled, limits, shared_time
from guidance_core.grammar.validator_classes import validator_class

_SHOWN_CHARACTERS = 300
_PLAIN = re.compile(r"\^?[A-Za-z0-9 _/:@-]*")
"""Patterns that are looked for in no time, and mean the same to everybody."""
_EXACT = Context(prec=2000)
"""Digits in which remainders are computed: those of the largest double over the smallest, and to spare."""


class CheckError(ValueError):
    """The schema cannot be evaluated, or not on this instance."""


def violation(schema: str, text: str) -> str | None:
    """Why a text is not valid against a schema, or None where it is.

    An object that repeats a key is never valid: its readers differ in which value they keep.

    Args:
        schema: JSON text.
        text: what was answered.
    """
    try:
        with shared_time():
            for reading in readings(schema):
                problem = reading.problem(reading.parse(text))
                if problem is not None:
                    return problem
    except RecursionError:
        return "it is nested too deeply to be checked"
    except ValueError as error:  # no JSON, or a key twice
        return str(error)
    return None


class Reading:
    """One way to read schemas: parses and validates."""

    def __init__(self, schema: Any, kind: Any, *, exact: bool) -> None:
        """Prepare a validator.

        Args:
            schema: parsed, with numbers as `parse` gives them, and without ``$schema``.
            kind: jsonschema's class for the schema's draft.
            exact: as the specification reads it; else as Python's jsonschema does.
        """
        self._exact = exact
        kind = validator_class(kind, exact=exact)
        formats = stricter(kind.FORMAT_CHECKER) if exact else kind.FORMAT_CHECKER
        self._validator = kind(schema, registry=Registry(), format_checker=formats)

    def parse(self, text: str) -> Any:
        """JSON text as this reading has it.

        Raises:
            ValueError: not JSON, or an object that repeats a key.
        """
        return parse(text, exact=self._exact)

    def problem(self, instance: Any) -> str | None:
        """Why an instance does not validate, or None where it does."""
        try:
            error = self._first_error(self._validator, instance)
        except CheckError as failure:
            return str(failure)
        if error is None:
            return None
        place = "".join(f"/{part}" for part in error.absolute_path)
        message = error.message if len(error.message) <= _SHOWN_CHARACTERS else error.message[:_SHOWN_CHARACTERS] + "…"
        return f"at {place}: {message}" if place else message

    def accepts(self, instance: Any, subschema: Any) -> bool:
        """Whether an instance validates against a part of the schema.

        Raises:
            CheckError: that cannot be decided.
        """
        return self._first_error(self._validator.evolve(schema=_without_draft(subschema)), instance) is None

    @staticmethod
    def _first_error(validator: Any, instance: Any) -> ValidationError | None:
        try:
            with localcontext(_EXACT):
                return next(validator.iter_errors(instance), None)
        except TimeoutError as error:
            raise CheckError(f"the schema's patterns take more than {limits()}") from error
        except (OverflowError, DecimalException) as error:
            raise CheckError("a number is beyond those that can be divided") from error
        except Unresolvable as error:
            raise CheckError(f"the schema refers to what it does not hold: {error}") from error


def parse(text: str, *, exact: bool = False) -> Any:
    """JSON text as Python values; with ``exact``, numbers with a fraction or an exponent are decimals.

    Raises:
        ValueError: not JSON, an object that repeats a key, or a number that no decimal holds.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=Decimal if exact else None
        )
    except DecimalException as error:
        raise ValueError("a number has an exponent of too many digits") from error


@lru_cache(maxsize=256)
def readings(schema: str) -> tuple[Reading, Reading]:
    """Both readings of a schema, kept for the answers to come.

    Args:
        schema: JSON text.

    Raises:
        CheckError: no validator could evaluate it: not a schema, a reference that leads nowhere or elsewhere.
    """
    kind = validators.validator_for(parse(schema), default=Draft202012Validator)
    parsed = _without_draft(parse(schema))
    if (error := fault(parsed, kind)) is not None:
        place = "".join(f"/{part}" for part in error.absolute_path)
        raise CheckError(f"at #{place}: {error.message[:_SHOWN_CHARACTERS]}")
    _check_patterns(parsed)
    _check_references(parsed, kind)
    return (
        Reading(parsed, kind, exact=False),
        Reading(_without_draft(parse(schema, exact=True)), kind, exact=True),
    )


def prepare() -> None:
    """Make what all schemas of a draft share, for every draft: 1 to 6 ms each, which a first client would wait for."""
    for name in DRAFTS:
        readings(json.dumps({"$schema": name}))


def _without_draft(root: Any) -> Any:
    """A schema without ``$schema``: where jsonschema meets one again it goes on with a class of its own, not ours."""
    if isinstance(root, dict):
        root = {keyword: value for keyword, value in root.items() if keyword != "$schema"}
        pending = subschemas(root)
        while pending:
            schema = pending.pop()
            if isinstance(schema, dict):
                schema.pop("$schema", None)
                pending.extend(subschemas(schema))
    return root


def _check_patterns(root: Any) -> None:
    pending = [root]
    while pending:
        schema = pending.pop()
        if not isinstance(schema, dict):
            continue
        pending.extend(subschemas(schema))
        patterns = schema.get("patternProperties", {})
        if "unevaluatedProperties" in schema and not all(map(_PLAIN.fullmatch, patterns)):
            # jsonschema looks for these by itself, without a limit of time and with Python's classes.
            raise CheckError("'unevaluatedProperties' beside 'patternProperties' cannot be checked in bounded time")
        for pattern in (*patterns, *([schema["pattern"]] if "pattern" in schema else ())):
            _check_pattern(pattern)


def _check_references(root: Any, kind: Any) -> None:
    specification = specification_with(kind.META_SCHEMA["$schema"], default=DRAFT202012)
    resource = specification.create_resource(root)
    pending: list[tuple[Any, Any]] = [(root, Registry().resolver_with_root(resource))]
    while pending:
        schema, resolver = pending.pop()
        if not isinstance(schema, dict):
            continue
        if schema is not root:
            resolver = resolver.in_subresource(specification.create_resource(schema))
        try:
            if isinstance(schema.get("$ref"), str):
                resolver.lookup(schema["$ref"])
        except Unresolvable as error:
            raise CheckError(f"it refers to what it does not hold: {error}") from error
        pending.extend((child, resolver) for child in subschemas(schema))


def _check_pattern(pattern: str) -> None:
    try:
        compiled(pattern, False)
        compiled(pattern, True)
    except regex.error as error:
        raise CheckError(f"the pattern {pattern!r} cannot be read: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {repeated!r} more than once")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

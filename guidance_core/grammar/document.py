"""One JSON schema as the client wrote it: what its references lead to, and what can be known of its parts."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

from guidance_core.grammar.check import CheckError, Reading, parse, readings
from guidance_core.grammar.keywords import Schema, resolve, subschemas
from guidance_core.grammar.rewrites.facts import Prover
from guidance_core.grammar.rewrites.negation import Negation
from guidance_core.grammar.rewrites.references import References

_DRAFTS = {"/draft-04/": 4, "/draft-06/": 6, "/draft-07/": 7, "/2019-09/": 2019}
_LATEST = 2020
_INTRODUCED = {
    "const": 6,
    "contains": 6,
    "propertyNames": 6,
    "if": 7,
    "then": 7,
    "else": 7,
    "dependentRequired": 2019,
    "dependentSchemas": 2019,
    "minContains": 2019,
    "maxContains": 2019,
    "unevaluatedItems": 2019,
    "unevaluatedProperties": 2019,
    "$recursiveRef": 2019,
    "$dynamicRef": 2020,
}


def draft_of(schema: Schema) -> int:
    """4, 6, 7, 2019 or 2020, which also stands for none and unknown ones."""
    name = str(schema.get("$schema"))
    return next((draft for part, draft in _DRAFTS.items() if part in name), _LATEST)


class Document:
    """What rewrites need to know of a whole schema."""

    def __init__(self, text: str, root: Schema) -> None:
        """Keep the schema.

        Args:
            text: as the client wrote it.
            root: parsed, draft 4's bounds modernised; it is never changed.
        """
        self.draft = draft_of(root)
        self.references_stand_alone = self.draft <= 7
        """Keywords beside ``$ref`` mean nothing."""
        self._text = text
        self._root = root

    def resolve(self, reference: str) -> Any:
        """What a JSON pointer leads to; None also where the schema holds others with an identifier of their own.

        Pointers inside of those are relative to them.
        """
        return None if self._has_resources else resolve(self._root, reference)

    @cached_property
    def _has_resources(self) -> bool:
        keyword = "id" if self.draft == 4 else "$id"
        pending = [child for _, child in subschemas(self._root)]
        while pending:
            schema = pending.pop()
            if isinstance(schema, dict):
                identifier = schema.get(keyword)
                if isinstance(identifier, str) and not identifier.startswith("#"):
                    return True
                pending.extend(child for _, child in subschemas(schema))
        return False

    def means_nothing(self, keyword: str) -> bool:
        """Whether the schema's draft does not have a keyword."""
        return _INTRODUCED.get(keyword, 0) > self.draft

    def is_valid(self, value: Any, schema: Any) -> bool:
        """Whether a value satisfies a part of the schema in every reading.

        Raises:
            CheckError: no validator can tell.
        """
        return all(
            reading.accepts(_as_read(value, exact), _as_read(schema, exact))
            for exact, reading in zip((False, True), self._readings, strict=True)
        )

    def may_accept(self, value: Any, schema: Any) -> bool:
        """Whether a value satisfies a part of the schema in any reading, or no validator can tell."""
        try:
            return any(
                reading.accepts(_as_read(value, exact), _as_read(schema, exact))
                for exact, reading in zip((False, True), self._readings, strict=True)
            )
        except CheckError:
            return True

    @cached_property
    def _readings(self) -> tuple[Reading, Reading]:
        return readings(self._text)

    @cached_property
    def prover(self) -> Prover:
        """Of this document."""
        return Prover(
            self.resolve,
            self.may_accept,
            means_nothing=self.means_nothing,
            references_stand_alone=self.references_stand_alone,
        )

    @cached_property
    def negation(self) -> Negation:
        """Of this document."""
        return Negation(
            self.resolve, means_nothing=self.means_nothing, references_stand_alone=self.references_stand_alone
        )

    @cached_property
    def references(self) -> References:
        """Of this document."""
        return References(self.resolve)


def _as_read(value: Any, exact: bool) -> Any:
    return parse(json.dumps(value), exact=True) if exact else value

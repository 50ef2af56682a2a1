"""One JSON schema as the client wrote it: what its references lead to, and what can be known of its parts."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

from guidance_core.grammar.check import CheckError, Reading, parse, readings
from guidance_core.grammar.drafts import draft_of, has_keyword
from guidance_core.grammar.keywords import Schema, resolve
from guidance_core.grammar.rewrites.facts import Prover
from guidance_core.grammar.rewrites.negation import Negation
from guidance_core.grammar.rewrites.references import References


class Document:
    """What rewrites need to know of a whole schema."""

    def __init__(self, text: str, root: Schema) -> None:
        """Keep the schema.

        Args:
            text: as the client wrote it.
            root: parsed, its references pointers, draft 4's bounds modernised; it is never changed.
        """
        self.draft = draft_of(root)
        self.references_stand_alone = self.draft <= 7
        """Keywords beside ``$ref`` mean nothing."""
        self._text = text
        self._root = root
        self._targets: dict[str, Any] = {}

    def resolve(self, reference: str) -> Any:
        """What a JSON pointer leads to; None where it leads nowhere."""
        if reference not in self._targets:
            self._targets[reference] = resolve(self._root, reference)
        return self._targets[reference]

    def means_nothing(self, keyword: str) -> bool:
        """Whether the schema's draft does not have a keyword."""
        return not has_keyword(self.draft, keyword)

    def is_valid(self, value: Any, schema: Any) -> bool:
        """Whether a value satisfies a part of the schema in every reading.

        Raises:
            CheckError: no validator can tell.
        """
        if self._depends_on_the_way:
            raise CheckError("what '$dynamicRef' and '$recursiveRef' lead to depends on the way to them")
        return all(
            reading.accepts(_as_read(value, exact), _as_read(schema, exact))
            for exact, reading in zip((False, True), self._readings, strict=True)
        )

    def may_accept(self, value: Any, schema: Any) -> bool:
        """Whether a value satisfies a part of the schema in any reading, or no validator can tell."""
        if self._depends_on_the_way:
            return True
        try:
            return any(
                reading.accepts(_as_read(value, exact), _as_read(schema, exact))
                for exact, reading in zip((False, True), self._readings, strict=True)
            )
        except CheckError:
            return True

    @cached_property
    def _depends_on_the_way(self) -> bool:
        text = json.dumps(self._root)
        return '"$dynamicRef"' in text or '"$recursiveRef"' in text

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

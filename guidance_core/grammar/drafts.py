"""The drafts of JSON Schema: which one a schema is written in, and which keywords it has."""

from __future__ import annotations

from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.refusals import refuse

_DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}
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
    """4, 6, 7, 2019 or 2020, which also stands for none."""
    return _DRAFTS.get(str(schema.get("$schema")).removesuffix("#"), _LATEST)


def has_keyword(draft: int, keyword: str) -> bool:
    """Whether a draft has a keyword that some draft has."""
    return _INTRODUCED.get(keyword, 0) <= draft


def check_draft(path: str, name: str) -> None:
    """Refuse a ``$schema`` that readers of schemas take for different drafts, or do not know.

    Args:
        path: of the schema that has it.
        name: its value.

    Raises:
        InvalidGrammar: it names none of the drafts from 4 on.
    """
    if "/draft-03/" in name:
        refuse(f"{path}/$schema", "draft 3 is not supported; write the schema in draft 4 or later")
    if name and name.removesuffix("#") not in _DRAFTS:
        known = ", ".join(f"'{draft}'" for draft in _DRAFTS)
        refuse(f"{path}/$schema", f"{name!r} names no draft that is known here; write one of {known}, or leave it out")

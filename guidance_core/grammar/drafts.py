"""The drafts of JSON Schema: which one a schema is written in, and which keywords it has."""

from __future__ import annotations

import re

from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.refusals import refuse

DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}
"""``$schema`` → the draft that it names."""
LATEST = 2020
_ALMOST = re.compile(
    r"(?:https?:)?/?/?(?:www\.)?json-schema\.org/(draft-0[467]|draft/(?:2019-09|2020-12))(?:/.*)?", re.DOTALL
)
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
    """4, 6, 7, 2019 or 2020, which also stands for none and, as for other readers, for names that are none of these."""
    return DRAFTS.get(str(schema.get("$schema")).removesuffix("#"), LATEST)


def is_known(name: str) -> bool:
    """Whether a ``$schema`` names one of the drafts."""
    return name.removesuffix("#") in DRAFTS


def meant_draft(name: str) -> tuple[int, str] | None:
    """The draft, and its right name, that a ``$schema`` means but misspells; None where it misspells none."""
    almost = _ALMOST.fullmatch(name)
    if almost is None or is_known(name):
        return None
    return next((draft, right) for right, draft in DRAFTS.items() if f"/{almost[1]}/" in right)


def has_keyword(draft: int, keyword: str) -> bool:
    """Whether a draft has a keyword that some draft has."""
    return _INTRODUCED.get(keyword, 0) <= draft


def check_draft(path: str, name: str) -> None:
    """Refuse a draft that is too old.

    Args:
        path: of the schema that has it.
        name: ``$schema``'s value.

    Raises:
        InvalidGrammar: it names draft 3.
    """
    if "/draft-03/" in name:
        refuse(f"{path}/$schema", "draft 3 is not supported; write the schema in draft 4 or later")

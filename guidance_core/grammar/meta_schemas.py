"""Whether JSON schemas are schemas at all, as the meta-schemas of their drafts have it.

From 2019-09 on a meta-schema is spread over vocabularies that refer to each other dynamically, which takes
``jsonschema`` some milliseconds to follow for a schema of a few lines. Put together they take an eighth of that.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any
from urllib.parse import urljoin

from jsonschema import FormatChecker
from jsonschema.exceptions import ValidationError, best_match
from jsonschema_specifications import REGISTRY

_OWN = ("$schema", "$id", "$vocabulary", "$dynamicAnchor", "$recursiveAnchor", "allOf")
"""Keywords that make a meta-schema a part of several."""
_ELSEWHERE = re.compile(r'"\$(?:dynamicRef": "#meta|recursiveRef": "#|ref": "meta/[a-z-]+#)')


def fault(schema: Any, kind: Any) -> ValidationError | None:
    """What makes a schema none, or None.

    Args:
        schema: parsed.
        kind: jsonschema's validator class for its draft. Formats are not looked at.
    """
    error: ValidationError | None = best_match(_validator(kind).iter_errors(schema))
    return error


@cache
def _validator(kind: Any) -> Any:
    return kind(_whole(kind.META_SCHEMA), format_checker=FormatChecker(formats=()))


def _whole(meta: dict[str, Any]) -> dict[str, Any]:
    """A meta-schema with its vocabularies in it."""
    if "$vocabulary" not in meta:
        return meta
    parts = [meta, *(REGISTRY.contents(urljoin(meta["$id"], part["$ref"])) for part in meta["allOf"])]
    whole = {name: value for name, value in meta.items() if name not in _OWN}
    for keyword in ("properties", "$defs"):
        whole[keyword] = {name: value for part in parts for name, value in part.get(keyword, {}).items()}
    if "prefixItems" in whole["properties"]:
        # The list of schemas of earlier drafts, which is common where no draft is named.
        whole["properties"]["items"] = {
            "anyOf": [whole["properties"]["items"], {"type": "array", "items": {"$ref": "#"}, "minItems": 1}]
        }
    pointers: dict[str, Any] = json.loads(_ELSEWHERE.sub('"$ref": "#', json.dumps(whole)))
    return pointers

"""What recursion does to a JSON schema: whether it has any finite instance, and whether validating one ends.

llguidance notices contradictions (``minimum`` above ``maximum``) but not a schema that requires itself, whose grammar
never comes to an end: ``{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}``.
"""

from __future__ import annotations

from typing import Any

from guidance_core.grammar.keywords import Schema, resolve, subschemas

_MOST_ROUNDS = 64
_IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""Keywords whose schemas apply to the same value."""


def has_finite_instance(root: Schema) -> bool:
    """False only where every instance would be infinite.

    A least fixed point: nothing is finite at first, and a round finds what is finite by what the earlier ones found.
    Chains of more than 64 references against the order of the document count as finite.

    Args:
        root: a well-formed schema. References other than JSON pointers into it count as finite.
    """
    schemas: list[Schema] = []
    seen: set[int] = set()
    _post_order(root, schemas, seen)
    references = [schema["$ref"] for schema in schemas if "$ref" in schema]
    if not references:
        return True
    while references:
        start = len(schemas)
        _post_order(resolve(root, references.pop()), schemas, seen)
        references.extend(schema["$ref"] for schema in schemas[start:] if "$ref" in schema)
    finite: set[int] = set()
    for _ in range(_MOST_ROUNDS):
        before = len(finite)
        for schema in schemas:
            if id(schema) not in finite and _is_finite(schema, root, finite):
                finite.add(id(schema))
        if id(root) in finite or len(finite) == before:
            return id(root) in finite
    return True


def endless_reference(root: Schema) -> str | None:
    """A reference that leads back to itself without ever looking inside of a value, or None where there is none.

    JSON Schema leaves undefined what such a schema means, and validators never come to an end with it.

    Args:
        root: as the client wrote it; its keywords may hold anything.
    """
    ended: set[str] = set()
    pending = _references(root)
    while pending:
        # Depth first, with the way so far: each reference on it, and where it leads on without leaving the value.
        way: list[tuple[str, list[str]]] = []
        upcoming = [pending.pop()]
        while True:
            following = upcoming.pop() if upcoming else None
            if following is None:
                if not way:
                    break
                reference, upcoming = way.pop()
                ended.add(reference)
            elif following in {reference for reference, _ in way}:
                return following
            elif following not in ended:
                way.append((following, upcoming))
                upcoming = _references(resolve(root, following), only_in_place=True)
    return None


def _references(schema: Any, *, only_in_place: bool = False) -> list[str]:
    found: list[str] = []
    pending = [schema]
    while pending:
        schema = pending.pop()
        if not isinstance(schema, dict):
            continue
        if isinstance(schema.get("$ref"), str):
            found.append(schema["$ref"])
        pending.extend(
            child for place, child in subschemas(schema) if not only_in_place or place.split("/")[0] in _IN_PLACE
        )
    return found


def _post_order(schema: Any, found: list[Schema], seen: set[int]) -> None:
    if isinstance(schema, dict) and id(schema) not in seen:
        seen.add(id(schema))
        for _, child in subschemas(schema):
            _post_order(child, found, seen)
        found.append(schema)


def _is_finite(schema: Schema, root: Schema, finite: set[int]) -> bool:
    def known(child: Any) -> bool:
        return not isinstance(child, dict) or id(child) in finite

    if "const" in schema or "enum" in schema:
        return True
    if "$ref" in schema and not known(resolve(root, schema["$ref"])):
        return False
    if not all(known(child) for child in schema.get("allOf", ())):
        return False
    if any(keyword in schema and not any(map(known, schema[keyword])) for keyword in ("anyOf", "oneOf")):
        return False
    types = schema.get("type")
    if types in ("object", ["object"]):
        properties = schema.get("properties", {})
        return all(known(properties.get(name)) for name in schema.get("required", ()))
    if types in ("array", ["array"]):
        first = schema.get("prefixItems", ())
        items = schema.get("items")
        if isinstance(items, list):
            first, items = items, schema.get("additionalItems")
        least = schema.get("minItems", 0)
        return all(map(known, first[:least])) and (least <= len(first) or known(items))
    return True

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
_DEMANDING = frozenset({"$ref", "allOf", "anyOf", "oneOf", "required", "minItems"})
"""Keywords of which a schema needs one to demand an instance of another schema."""


def has_finite_instance(root: Schema) -> bool:
    """False only where every instance would be infinite.

    A least fixed point: nothing that could be endless is finite at first, and a round finds what is finite by what the
    earlier ones found. Chains of more than 64 references against the order of the document count as finite.

    Args:
        root: a well-formed schema. References other than JSON pointers into it count as finite.
    """
    undecided: list[Schema] = []
    seen: set[int] = set()
    _post_order(root, undecided, seen)
    references = _references_of(undecided)
    targets: dict[str, Any] = {}
    while references:
        reference = references.pop()
        if reference not in targets:
            start = len(undecided)
            targets[reference] = resolve(root, reference)
            _post_order(targets[reference], undecided, seen)
            references += _references_of(undecided[start:])
    endless = {id(schema) for schema in undecided}
    for _ in range(_MOST_ROUNDS if targets else 0):
        left = []
        for schema in undecided:
            if _is_finite(schema, targets, endless):
                endless.remove(id(schema))
            else:
                left.append(schema)
        if id(root) not in endless or len(left) == len(undecided):
            return id(root) not in endless
        undecided = left
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
        if only_in_place:
            schema = {keyword: value for keyword, value in schema.items() if keyword in _IN_PLACE}
        pending.extend(subschemas(schema))
    return found


def _references_of(schemas: list[Schema]) -> list[str]:
    return [schema["$ref"] for schema in schemas if "$ref" in schema]


def _post_order(schema: Any, undecided: list[Schema], seen: set[int]) -> None:
    """Find the schemas that could be endless, what is inside of them first."""
    if isinstance(schema, dict) and id(schema) not in seen:
        seen.add(id(schema))
        for child in subschemas(schema):
            _post_order(child, undecided, seen)
        if not _DEMANDING.isdisjoint(schema):
            undecided.append(schema)


def _is_finite(schema: Schema, targets: dict[str, Any], endless: set[int]) -> bool:
    def known(child: Any) -> bool:
        return id(child) not in endless

    if "const" in schema or "enum" in schema:
        return True
    if "$ref" in schema and not known(targets[schema["$ref"]]):
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

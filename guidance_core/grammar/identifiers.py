"""Identifiers, anchors and what refers to them, as JSON pointers from the root of the whole schema.

A reference means another schema wherever an identifier changes its base, and a keyword may mean something else wherever
``$schema`` changes the draft. Everything after this module reads one document in one draft, whose references are
pointers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

from pydantic_core import to_json

from guidance_core.grammar.drafts import LATEST, check_draft, draft_of, has_keyword, is_known, meant_draft
from guidance_core.grammar.keywords import Schema, placed_subschemas, subschemas
from guidance_core.grammar.refusals import refuse
from guidance_core.grammar.rewrites.references import BESIDE_REFERENCES

_BASE = "file:///"
"""Of a schema without an identifier: a base that relative identifiers can be joined to."""
_BY_NAME = re.compile(r'"\$(?:ref":\s*"(?!#["/])|dynamicRef"|recursiveRef")')
"""A reference that is no pointer, or may be none."""
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_URI = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?#-]|%[0-9A-Fa-f]{2})*")
_CHANGED = frozenset({"prefixItems", "dependencies", "unevaluatedItems", "unevaluatedProperties"})
"""Keywords that some drafts have and do not read alike."""
_CHANGED_AFTER_4 = frozenset({"id", "$id", "exclusiveMinimum", "exclusiveMaximum"})


def pointers_only(root: Schema, text: str) -> str:
    """Turn references into JSON pointers, and drop identifiers, in place.

    References that depend on the way to them (``$dynamicRef``, ``$recursiveRef``) stay where more than one schema is in
    question.

    Args:
        root: as parsed; keywords may hold anything.
        text: the same, as written.

    Returns:
        The root as it is now, as JSON.

    Raises:
        InvalidGrammar: a draft is too old or misspelt, or a reference leads out of the document.
    """
    if isinstance(root.get("$schema"), str):
        _check_name("", root)
        if not is_known(root["$schema"]):
            del root["$schema"]  # the latest draft then; some readers would look for it elsewhere
            text = to_json(root).decode()
    inside = [name for name in ("$schema", "$id" if draft_of(root) > 4 else "id") if _is_below(name, root, text)]
    if inside or _BY_NAME.search(text) is not None:
        _Resources(root).point()
        return to_json(root).decode()
    return text


@dataclass(slots=True)
class _Reference:
    path: str
    schema: Schema
    base: str


@dataclass(slots=True)
class _Resources:
    root: Schema
    draft: int = field(init=False)
    places: dict[str, str] = field(default_factory=dict)
    """From URIs of schemas to pointers."""
    anchors: dict[tuple[str, str], str] = field(default_factory=dict)
    dynamic: dict[str, set[str]] = field(default_factory=dict)
    """From names to the pointers of all dynamic anchors so called."""
    recursive: bool = False

    def point(self) -> None:
        self.draft = draft_of(self.root)
        references = list(self._survey())
        for reference in references:
            schema = reference.schema
            if isinstance(schema.get("$ref"), str):
                schema["$ref"] = self._pointer(reference, schema["$ref"])
            if self.draft == 2020 and isinstance(schema.get("$dynamicRef"), str):
                self._fix(reference)
            if self.draft == 2019 and schema.get("$recursiveRef") == "#" and not self._is_ambiguous():
                _rename(schema, "$recursiveRef", self._pointer(reference, "#"))

    def _survey(self) -> Iterator[_Reference]:
        """Note what has a name, take the names away, and give what refers."""
        identifier = "id" if self.draft == 4 else "$id"
        self.places[_BASE] = ""
        pending = [("", self.root, _BASE)]
        while pending:
            path, schema, base = pending.pop()
            if path and isinstance(schema.get("$schema"), str):
                self._check_draft(path, schema)
                del schema["$schema"]
            if "$ref" in schema and self.draft <= 7:
                schema.pop(identifier, None)  # beside a reference it means nothing
            elif isinstance(schema.get(identifier), str):
                base = self._name(path, base, schema.pop(identifier))
            for keyword in ("$anchor", "$dynamicAnchor"):
                if self.draft >= (2019 if keyword == "$anchor" else 2020) and isinstance(schema.get(keyword), str):
                    self.anchors[base, schema[keyword]] = path
                    if keyword == "$dynamicAnchor":
                        self.dynamic.setdefault(schema[keyword], set()).add(path)
                    del schema[keyword]
            self.recursive |= schema.get("$recursiveAnchor") is True
            if not _REFERENCES.isdisjoint(schema):
                yield _Reference(path, schema, base)
            children = placed_subschemas(schema)
            pending.extend((f"{path}/{place}", child, base) for place, child in children if isinstance(child, dict))

    def _name(self, path: str, base: str, identifier: str) -> str:
        """Note an identifier, which may be an anchor up to draft 7, and return what it is a base of."""
        uri, name = urldefrag(_joined(base, identifier))
        if name:
            self.anchors[uri, name] = path
        if not identifier.startswith("#"):
            self.places[uri] = path
            return uri
        return base

    def _pointer(self, reference: _Reference, target: str) -> str:
        if target == "#" or target.startswith("#/"):
            return f"#{_fragment(self.places[reference.base])}{target[1:]}"
        uri, name = urldefrag(_joined(reference.base, target))
        if not name or name.startswith("/"):
            place = self.places.get(uri)
        else:
            place = self.anchors.get((uri, name))
            name = ""
        if place is None:
            refuse_reference(reference.path, target)
        return f"#{_fragment(place)}{name}"

    def _fix(self, reference: _Reference) -> None:
        """Turn a dynamic reference into a plain one, unless it leads to one of several dynamic anchors."""
        target = reference.schema["$dynamicRef"]
        pointer = self._pointer(reference, target)
        name = urldefrag(target)[1]
        places = {f"#{_fragment(place)}" for place in self.dynamic.get(name, ())}
        if pointer not in places or len(places) == 1:
            _rename(reference.schema, "$dynamicRef", pointer)

    def _is_ambiguous(self) -> bool:
        return self.recursive and len(set(self.places.values())) > 1

    def _check_draft(self, path: str, schema: Schema) -> None:
        _check_name(path, schema)
        keyword = _difference(schema, draft_of(schema), self.draft)
        if keyword is not None:
            refuse(
                f"{path}/$schema",
                f"{keyword!r} could mean something else in this draft than in that of the whole schema; "
                "write both in one draft",
            )


def _check_name(path: str, schema: Schema) -> None:
    """Refuse a draft that is too old, or one that is misspelt where the latest, for which others take it, differs."""
    name = schema["$schema"]
    check_draft(path, name)
    if (meant := meant_draft(name)) is None:
        return
    draft, right = meant
    keyword = _difference(schema, draft, LATEST)
    if keyword is not None:
        refuse(
            f"{path}/$schema",
            f"{name!r} is read as {right!r} by some and as the latest draft by others, and {keyword!r} could mean "
            "something else there; write the former exactly so",
        )


def _difference(schema: Schema, one: int, other: int) -> str | None:
    """A keyword in a schema that could mean something else in one draft than in the other."""
    if one == other:
        return None
    pending = [schema]
    while pending:
        part = pending.pop()
        for keyword in part:
            if _differs(keyword, part, one, other):
                return keyword
        pending.extend(child for child in subschemas(part) if isinstance(child, dict))
    return None


def _differs(keyword: str, schema: Schema, one: int, other: int) -> bool:
    if keyword == "items":
        return isinstance(schema["items"], list)
    if keyword == "$ref":
        return not schema.keys() <= BESIDE_REFERENCES
    if keyword in _CHANGED_AFTER_4 and 4 in (one, other):
        return True
    return keyword in _CHANGED or has_keyword(one, keyword) != has_keyword(other, keyword)


def _is_below(name: str, root: Schema, text: str) -> bool:
    return text.count(f'"{name}"') > (name in root)


def refuse_reference(path: str, reference: str) -> NoReturn:
    """Raise the refusal of a reference that leads nowhere.

    Raises:
        InvalidGrammar: always.
    """
    refuse(
        f"{path}/$ref",
        f"{reference!r} leads to nothing in the schema, and nothing is fetched from elsewhere; put what it means into "
        "'$defs', and refer to it as '#/$defs/name'",
    )


def as_uri(reference: str) -> str:
    """A JSON pointer as a reference that has only what URIs can have: generators write ``#/definitions/List<T>``."""
    return reference if _URI.fullmatch(reference) is not None else f"#{_fragment(unquote(reference[1:]))}"


def _joined(base: str, reference: str) -> str:
    if reference.startswith("#"):
        return base + reference
    return reference if urlsplit(reference).scheme else urljoin(base, reference)


def _fragment(pointer: str) -> str:
    """A JSON pointer as a part of a URI."""
    return quote(pointer, safe="/~!$&'()*+,;=:@?")


def _rename(schema: Schema, keyword: str, reference: str) -> None:
    """Put a plain reference in the place of another one."""
    if "$ref" in schema:
        del schema[keyword]
        schema["allOf"] = [*schema.get("allOf", ()), {"$ref": reference}]
        return
    items = list(schema.items())
    schema.clear()
    for name, value in items:
        schema |= {"$ref": reference} if name == keyword else {name: value}

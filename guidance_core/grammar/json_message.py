"""Calls and answers that are both JSON, as one JSON schema.

llguidance's lexer would otherwise have to choose between the two at their first brace. What is put together are
schemas as llguidance takes them (`json_schema.translations`), so that every keyword has been read in the draft of the
schema that it comes from, and every refusal has named its place there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llguidance import LLMatcher

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar.drafts import draft_of
from guidance_core.grammar.json_schema import Translation, translations
from guidance_core.grammar.keywords import Schema, subschemas
from guidance_core.grammar.spellable import needs_escapes, only_spellable
from guidance_core.grammar.taking import taken
from guidance_core.tool_format import ToolFormat

_ONE_LINE = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}
"""llguidance's options with which its JSON is spelt as the literals of `ToolFormat` are."""


def one_schema(
    tool_format: ToolFormat,
    names: Sequence[str],
    arguments: Sequence[Translation],
    answer: Translation,
    *,
    parallel: bool,
) -> str:
    """Llguidance's grammar for calls of functions, or an answer.

    Args:
        tool_format: one whose messages with calls are JSON.
        names: of the functions.
        arguments: of each function.
        answer: what a message without calls must be.
        parallel: there may be several calls, where they are the items of an array.
    """
    calls: list[Schema] = [
        _object({"name": {"const": name}, _key(tool_format): {"$ref": f"#/$defs/arguments_{index}"}})
        for index, name in enumerate(names)
    ]
    if tool_format.begin:
        array = {"type": "array", "items": {"anyOf": calls}, "minItems": 1}
        calls = [_object({"tool_calls": array if parallel else array | {"maxItems": 1}})]
    parts = {f"arguments_{index}": translation for index, translation in enumerate(arguments)}
    return _compiled({"anyOf": [*calls, {"$ref": "#/$defs/answer"}]}, parts | {"answer": answer})


def one_line(answer: Translation) -> str:
    """An answer's grammar alone, spelt as it is in `one_schema`."""
    return _compiled({"$ref": "#/$defs/answer"}, {"answer": answer})


def narrowed(answer: Schema, tool_format: ToolFormat, names: Sequence[str]) -> Translation | None:
    """An answer's schema without what reads as a call, or None where no grammar expresses that exactly.

    Args:
        answer: the schema, which llguidance takes.
        tool_format: one whose messages with calls are JSON.
        names: of the functions.
    """
    call: Schema = {"required": ["tool_calls"]}
    if not tool_format.begin:
        call = {"properties": {"name": {"enum": list(names)}}, "required": ["name", _key(tool_format)]}
    schema = {**answer, "allOf": [*answer.get("allOf", ()), {"not": {"type": "object", **call}}]}
    try:
        translation = taken(translations(json.dumps(schema, ensure_ascii=False), exact=True))
    except InvalidGrammar:
        return None
    note = "what reads as a call of a function is left out of it"
    return Translation(translation.source, "rewritten", None, (note,))


def _compiled(schema: Schema, parts: dict[str, Translation]) -> str:
    definitions: dict[str, Schema] = {}
    options: list[dict[str, Any]] = []
    for name, translation in parts.items():
        definition = json.loads(translation.source)["grammars"][0]["json_schema"]
        options.append(definition.pop("x-guidance", {}))
        older = draft_of(definition) < 2020
        for identifier in ("$schema", "$id", "id"):
            definition.pop(identifier, None)
        _move(definition, f"#/$defs/{name}", older=older)
        definitions[name] = definition
    escapes = _escapes(options)
    merged = {**schema, "$defs": definitions, "x-guidance": _ONE_LINE | escapes}
    if "u" not in escapes.get("json_allowed_escapes", "u") and needs_escapes(json.dumps(merged, ensure_ascii=False)):
        only_spellable(merged)
    return LLMatcher.grammar_from_json_schema(json.dumps(merged, ensure_ascii=False))


def _escapes(options: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The options of strings' escapes with which each part allows no more than with its own."""
    allowed = [given["json_allowed_escapes"] for given in options if given.get("json_allowed_escapes") is not None]
    if allowed:
        return {"json_allowed_escapes": "".join(escape for escape in allowed[0] if all(escape in a for a in allowed))}
    if all(given.get("json_allow_general_unicode_escapes") for given in options):
        return {"json_allow_general_unicode_escapes": True}
    return {}


def _key(tool_format: ToolFormat) -> str:
    """The name of a call's arguments, which `ToolFormat.middle` spells."""
    return tool_format.middle.split('"')[-2]


def _object(properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _move(schema: Any, to: str, *, older: bool) -> None:
    """Make a schema's references to its own root point to where it is put.

    Args:
        schema: to be changed.
        to: where it is put.
        older: it is of a draft before 2020-12, the one in which all is put together: ``prefixItems`` means nothing.
    """
    if isinstance(schema, dict):
        if older:
            schema.pop("prefixItems", None)
        reference = schema.get("$ref")
        if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
            schema["$ref"] = to + reference[1:]
        for child in subschemas(schema):
            _move(child, to, older=older)

"""Tools → one grammar: what the model may write is free text, or calls whose arguments validate.

The parts of a call that are always the same are literals, which the grammar forces; only names and arguments are left
to the model. Once a call has begun (`ToolFormat.trigger`), nothing but a complete call of a known function follows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar.json_schema import Translation, translations
from guidance_core.grammar.keywords import subschemas
from guidance_core.tool_format import ToolFormat

_ANY_TEXT = "/(?s:.*)/"
_ONE_LINE = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}
"""llguidance's options with which its JSON is spelt as the literals of `ToolFormat` are."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function that may be called.

    Attributes:
        name: letters, digits, ``_`` and ``-``.
        parameters: JSON schema of its arguments, an object.
    """

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a message without calls must be.

    Attributes:
        translations: of which the first that llguidance takes is used.
        schema: the JSON schema that they come from, or None where they come from something else.
    """

    translations: Iterator[Translation]
    schema: dict[str, Any] | None


def tools_grammar(
    tool_format: ToolFormat,
    functions: Sequence[Function],
    *,
    required: bool,
    parallel: bool,
    answer: Answer | None,
    token_ids: Mapping[str, int],
) -> Translation:
    """Llguidance's grammar for a message that may call functions.

    Args:
        tool_format: how calls are written.
        functions: at least one, with different names.
        required: there must be a call; otherwise there may be an answer instead.
        parallel: there may be several calls.
        answer: what a message without calls must be; None for any text.
        token_ids: of `ToolFormat.special_tokens` that are special tokens of the model.

    Raises:
        InvalidGrammar: a parameter schema cannot be enforced; the message names the function.
    """
    arguments = [_arguments_grammar(function) for function in functions]
    told_apart = tool_format.anywhere or tool_format.trigger in token_ids
    if answer is not None and answer.schema is not None and not required and not told_apart:
        return _as_one_schema(tool_format, functions, parallel=parallel, answer=answer.schema)
    lark = _Lark(tool_format, [function.name for function in functions], token_ids, parallel=parallel)
    if required:
        lark.rules["start"] = lark.calls()
    elif answer is not None:
        lark.rules["start"] = f"@answer | {lark.calls()}"
    else:
        lark.rules["start"] = lark.text_or_calls()
    parts = {f"arguments_{i}": translation for i, translation in enumerate(arguments)}
    if answer is not None and not required:
        parts["answer"] = _taken(answer.translations)
    grammars = [{"name": "message", "lark_grammar": lark.text()}]
    for name, translation in parts.items():
        grammars += translation.named(name)
    return Translation(
        json.dumps({"grammars": grammars}, ensure_ascii=False),
        route="exact" if all(part.route == "exact" for part in parts.values()) else "rewritten",
        notes=tuple(note for part in parts.values() for note in part.notes),
    )


class _Lark:
    """Rules of the message, without those of the arguments."""

    def __init__(
        self, tool_format: ToolFormat, names: Sequence[str], token_ids: Mapping[str, int], *, parallel: bool
    ) -> None:
        self._format = tool_format
        self._token_ids = token_ids
        self._parallel = parallel
        self.rules = {"start": ""}
        opened = [f"{self._literal(name + tool_format.middle)} @arguments_{i}" for i, name in enumerate(names)]
        self.rules["opened"] = f"({' | '.join(opened)}) {self._literal(tool_format.closer)}"

    def text(self) -> str:
        return "\n".join(["%llguidance {}", *(f"{name}: {body}" for name, body in self.rules.items())])

    def calls(self) -> str:
        """The calls, from the first character."""
        return f"{self._literal(self._format.begin + self._format.opener)} {self._rest()}"

    def text_or_calls(self) -> str:
        """Free text that does not contain the trigger (or begin with it), or calls with or without text before."""
        trigger = _regex(self._format.trigger)
        start = self._format.begin + self._format.opener
        if not self._format.anywhere:
            # After a special token a call is JSON, and JSON without it would be neither call nor words.
            forbidden = r"\{" if self._format.trigger in self._token_ids else trigger
            self.rules["TEXT"] = rf"{_ANY_TEXT} & ~/\s*{forbidden}(?s:.*)/"
            return f"TEXT | {self.calls()}"
        if self._format.trigger in self._token_ids:
            # No text contains a special token, so there is nothing to tell apart.
            self.rules["TEXT"] = _ANY_TEXT
            return f"TEXT ({self.calls()})?"
        self.rules["TEXT"] = f"{_ANY_TEXT} & ~/(?s:.*){trigger}(?s:.*)/"
        # Lazy: it ends with the first trigger.
        self.rules["text_and_trigger[lazy]"] = f"/(?s:.*){trigger}/"
        return f"TEXT | text_and_trigger {self._literal(start.removeprefix(self._format.trigger))} {self._rest()}"

    def _rest(self) -> str:
        """What follows the first call's opener."""
        more = f"({self._literal(self._format.between + self._format.opener)} opened)*" if self._parallel else ""
        return f"opened {more} {self._literal(self._format.end)}"

    def _literal(self, text: str) -> str:
        """Text in which special tokens are such."""
        if not text:
            return ""
        special = [token for token in self._format.special_tokens if token in self._token_ids]
        pieces = re.split(f"({'|'.join(map(re.escape, special))})", text) if special else [text]
        return " ".join(
            f"<[{self._token_ids[piece]}]>" if piece in self._token_ids else json.dumps(piece)
            for piece in pieces
            if piece
        )


def _regex(text: str) -> str:
    """A pattern of Rust's ``regex`` crate, inside of ``/…/``, that matches ``text``."""
    return re.sub(r"([\\.+*?()|\[\]{}^$/])", r"\\\1", text)


def _taken(candidates: Iterable[Translation]) -> Translation:
    """The first translation that llguidance takes, whatever the tokenizer."""
    problem = ""
    for candidate in candidates:
        _, messages = LLMatcher.validate_grammar_with_warnings(candidate.source, LLTokenizer("byte"))
        if not messages:
            return candidate
        problem = "; ".join(messages)
    raise InvalidGrammar(f"llguidance refuses the grammar: {problem}")


def _schema_grammar(schema: dict[str, Any]) -> Translation:
    return _taken(translations(json.dumps(schema, ensure_ascii=False), exact=True))


def _arguments_grammar(function: Function) -> Translation:
    try:
        return _schema_grammar(_arguments_schema(function))
    except InvalidGrammar as error:
        raise InvalidGrammar(f"The parameters of {function.name!r}: {error.message}") from None


def _arguments_schema(function: Function) -> dict[str, Any]:
    kind = function.parameters.get("type", "object")
    if kind != "object":
        raise InvalidGrammar(f"'type' must be \"object\", not {json.dumps(kind)}: arguments have names.")
    return {**function.parameters, "type": "object"}


def _as_one_schema(
    tool_format: ToolFormat, functions: Sequence[Function], *, parallel: bool, answer: dict[str, Any]
) -> Translation:
    """Calls and answers that are both JSON, as one schema.

    llguidance's lexer would otherwise have to choose between the two at their first brace.
    """
    definitions = {f"arguments_{i}": _arguments_schema(function) for i, function in enumerate(functions)}
    definitions["answer"] = answer
    definitions = json.loads(json.dumps(definitions))
    call_schemas = [
        _object({"name": {"const": function.name}, _key(tool_format): {"$ref": f"#/$defs/arguments_{i}"}})
        for i, function in enumerate(functions)
    ]
    if tool_format.begin:
        array = {"type": "array", "items": {"anyOf": call_schemas}, "minItems": 1}
        calls = [_object({"tool_calls": array if parallel else array | {"maxItems": 1}})]
    else:
        calls = call_schemas
    for name, schema in definitions.items():
        _move_references(schema, f"#/$defs/{name}")
    merged = {"$defs": definitions, "anyOf": [*calls, {"$ref": "#/$defs/answer"}], "x-guidance": _ONE_LINE}
    return _schema_grammar(merged)


def _key(tool_format: ToolFormat) -> str:
    """The name of a call's arguments, which `ToolFormat.middle` spells."""
    return tool_format.middle.split('"')[-2]


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _move_references(schema: Any, to: str) -> None:
    """Make a schema's references to its own root point to where it is put."""
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            schema["$ref"] = to + reference[1:]
        for _, child in subschemas(schema):
            _move_references(child, to)

"""Tools → one grammar: what the model may write is free text, or calls whose arguments validate.

The parts of a call that are always the same are literals, which the grammar forces; only names and arguments are left
to the model. Once a call has begun (`ToolFormat.trigger`), nothing but a complete call of a known function follows.

A message without calls may have a form of its own. Where that can begin as a call does, it is narrowed to what cannot;
where that is not possible, the whole message is checked in the reading that its client gets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guidance_core.errors import InvalidGrammar
from guidance_core.generation import MessageCheck
from guidance_core.grammar.check import CheckError, readings
from guidance_core.grammar.json_message import narrowed, one_line, one_schema
from guidance_core.grammar.json_schema import Translation, translations
from guidance_core.grammar.taking import can_begin, taken
from guidance_core.tool_format import ToolFormat

_ANY_TEXT = "/(?s:.*)/"


@dataclass(frozen=True, slots=True)
class Function:
    """A function that may be called.

    Attributes:
        name: letters, digits, ``_`` and ``-``.
        parameters: JSON schema of its arguments, an object.
        exact: parameters that could only be kept by checking whole answers are refused.
        param: the request field with the parameters, for errors.
    """

    name: str
    parameters: dict[str, Any]
    exact: bool = False
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a message without calls must be.

    Attributes:
        translations: of which the first that llguidance takes is used.
        schema: the JSON schema that they come from, or None where they come from something else.
        exact: what could only be kept by checking whole answers is refused.
        param: the request field that it comes from, for errors.
    """

    translations: Iterator[Translation]
    schema: dict[str, Any] | None
    exact: bool = False
    param: str | None = None


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
        parallel: there may be several calls, save where calls and answers are JSON of one schema and a call is a whole
            message.
        answer: what a message without calls must be; None for any text.
        token_ids: of `ToolFormat.special_tokens` that are special tokens of the model.

    Raises:
        InvalidGrammar: a schema cannot be enforced; the message names the function, ``param`` the field.
    """
    arguments = [_arguments(function) for function in functions]
    names = [function.name for function in functions]
    lark = _Lark(tool_format, names, token_ids, parallel=parallel)
    if required or answer is None:
        lark.rules["start"] = lark.calls() if required else lark.text_or_calls()
        return _message(tool_format, functions, arguments, _with_parts(lark, arguments, None), free_text=answer is None)
    reply = _reply(answer)
    openings = [tool_format.opening(name) for name in names]
    if answer.schema is None or tool_format.anywhere or tool_format.trigger in token_ids:
        mistakable = can_begin(reply.source, openings)
        lark.rules["start"] = f"@answer | {lark.calls()}"
        source = _with_parts(lark, arguments, reply)
    else:
        mistakable = can_begin(one_line(reply), openings)
        without = narrowed(answer.schema, tool_format, names) if mistakable else None
        if without is not None and not can_begin(one_line(without), openings):
            reply, mistakable = replace(without, notes=reply.notes + without.notes), False
        source = one_schema(tool_format, names, arguments, reply, parallel=parallel)
    if mistakable and (answer.exact or any(function.exact for function in functions)):
        raise InvalidGrammar(
            "An answer could begin as a call of a function does, so that only a check of the whole message keeps its "
            "promise, which strict ('exact') forbids: leave it out, or ask for an answer that begins otherwise.",
            param=answer.param,
        )
    return _message(tool_format, functions, arguments, source, free_text=False, reply=reply, mistakable=mistakable)


def _with_parts(lark: _Lark, arguments: Sequence[Translation], reply: Translation | None) -> str:
    grammars = [{"name": "message", "lark_grammar": lark.text()}]
    for index, part in enumerate(arguments):
        grammars += part.named(f"arguments_{index}")
    if reply is not None:
        grammars += reply.named("answer")
    return json.dumps({"grammars": grammars}, ensure_ascii=False)


def _message(
    tool_format: ToolFormat,
    functions: Sequence[Function],
    arguments: Sequence[Translation],
    source: str,
    *,
    free_text: bool,
    reply: Translation | None = None,
    mistakable: bool = False,
) -> Translation:
    """The grammar with what is left to check.

    Args:
        tool_format: of calls.
        functions: that may be called.
        arguments: their parameters.
        source: of the grammar.
        free_text: see `MessageCheck`.
        reply: what a message without calls must be.
        mistakable: it can begin as a call does, so that what is read as a call may be none of the grammar's.
    """
    parts = [*arguments, *([] if reply is None else [reply])]
    notes = [
        f"The parameters of {function.name!r}: {note}"
        for function, part in zip(functions, arguments, strict=True)
        for note in part.notes
    ]
    notes += [] if reply is None else [f"The answer: {note}" for note in reply.notes]
    if mistakable:
        notes.append("Whether an answer that begins as a call does is one is checked on the whole answer")
    if not mistakable and all(part.check is None for part in parts):
        return Translation(source, "rewritten" if notes else "exact", None, tuple(notes))
    schemas = [
        (function.name, _checkable(function) if mistakable or part.check is not None else None)
        for function, part in zip(functions, arguments, strict=True)
    ]
    left = None if reply is None or not isinstance(reply.check, str) else reply.check
    return Translation(source, "checked", MessageCheck(tool_format, tuple(schemas), free_text, left), tuple(notes))


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
            forbidden = rf"(\{{|{trigger})" if self._format.trigger in self._token_ids else trigger
            self.rules["TEXT"] = rf"{_ANY_TEXT} & ~/\s*{forbidden}(?s:.*)/"
            return f"TEXT | {self.calls()}"
        self.rules["TEXT"] = f"{_ANY_TEXT} & ~/(?s:.*){trigger}(?s:.*)/"
        if self._format.trigger in self._token_ids:
            # Ordinary tokens that spell the special one would read as it does.
            return f"TEXT ({self.calls()})?"
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


def _reply(answer: Answer) -> Translation:
    try:
        return taken(answer.translations)
    except InvalidGrammar as error:
        raise InvalidGrammar(error.message, param=answer.param) from None


def _arguments(function: Function) -> Translation:
    try:
        return taken(translations(_schema_text(function), exact=function.exact))
    except InvalidGrammar as error:
        raise _about(function, error.message) from None


def _checkable(function: Function) -> str:
    text = _schema_text(function)
    try:
        readings(text)
    except CheckError as error:
        raise _about(function, f"The JSON schema cannot be checked: {error}.") from None
    return text


def _schema_text(function: Function) -> str:
    kind = function.parameters.get("type", "object")
    if kind != "object":
        raise InvalidGrammar(f"'type' must be \"object\", not {json.dumps(kind)}: arguments have names.")
    return json.dumps({**function.parameters, "type": "object"}, ensure_ascii=False)


def _about(function: Function, problem: str) -> InvalidGrammar:
    return InvalidGrammar(f"The parameters of {function.name!r}: {problem}", param=function.param)

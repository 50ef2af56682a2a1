"""What a client wants its answer to be, as a dialect hands it over: checked for shape, not yet compiled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import to_json

from guidance_core.errors import InvalidGrammar
from guidance_core.generation import GrammarKind
from guidance_core.grammar.gbnf import is_gbnf, lark_from_gbnf
from guidance_core.grammar.json_schema import Translation, translations
from guidance_core.grammar.lark_text import enforceable, enforceable_grammars
from guidance_core.grammar.reasoning import Thoughts, with_thoughts
from guidance_core.grammar.rust_regex import between_slashes, escaped
from guidance_core.grammar.taking import can_begin, is_empty
from guidance_core.grammar.tools import Answer, Function, tools_grammar
from guidance_core.tool_format import ToolFormat


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint, cheap to make and to compare.

    Attributes:
        kind: what the client wrote.
        definition: the client's own text, as `Grammar.definition` has it.
        exact: a JSON schema that could only be kept by checking whole answers (the route ``checked``) is refused.
    """

    kind: GrammarKind
    definition: str
    exact: bool = False

    @property
    def is_json(self) -> bool:
        """Whether the definition is a JSON schema."""
        return self.kind in ("json_schema", "json_object")

    @property
    def written_for_llguidance(self) -> str | None:
        """What the client wrote in Lark, GBNF or llguidance's own form, as llguidance is to read it; or None.

        Beside functions and after thoughts, too.

        Raises:
            InvalidGrammar: as `translations`.
        """
        match self.kind:
            case "lark" | "llguidance" | "gbnf":
                return self._translated()
            case "tools" | "reasoning":
                answer = json.loads(self.definition)["answer"]
                return None if answer is None else Constraint(**answer).written_for_llguidance
        return None

    def translations(self, written: str | None = None) -> Iterator[Translation]:
        """Llguidance grammars of which the first that it takes is to be used; up to some tenths of a second each.

        Args:
            written: `written_for_llguidance`, where that is known: then it is not translated again.

        Raises:
            InvalidGrammar: the definition is malformed, or needs what cannot be promised.
        """
        match self.kind:
            case "json_schema" | "json_object":
                yield from translations(self.definition, exact=self.exact)
            case "choice":
                options = json.loads(self.definition)
                yield Translation(_regex_grammar("|".join(map(escaped, options))))
            case "regex":
                source = _regex_grammar(self.definition)
                if is_empty(source):
                    raise InvalidGrammar("The regular expression matches no text at all.")
                yield Translation(source)
            case "lark" | "llguidance" | "gbnf":
                yield Translation(self._translated() if written is None else written)
            case "reasoning":
                yield from _reasoned_translations(json.loads(self.definition), written)
            case "tools":
                yield _tools_translation(json.loads(self.definition), written)

    def _translated(self) -> str:
        """Lark, GBNF or llguidance's own form, as llguidance is to read it."""
        return _enforceable(lark_from_gbnf(self.definition) if self.kind == "gbnf" else self.definition)


def json_schema(schema: Any, *, exact: bool = False) -> Constraint:
    """A JSON value that validates against the schema: an object, or true (any JSON value).

    Args:
        schema: as parsed from JSON.
        exact: refuse what the grammar itself cannot enforce, instead of checking whole answers.

    Raises:
        InvalidGrammar: not a schema, or one that nothing satisfies.
    """
    if schema is True:
        schema = {}
    elif schema is False:
        raise InvalidGrammar("The JSON schema is false: no value satisfies it.")
    if not isinstance(schema, dict):
        raise InvalidGrammar(f"A JSON schema must be an object or true, not {type(schema).__name__}.")
    return _constraint("json_schema", _json(schema), exact=exact)


def json_object() -> Constraint:
    """Any JSON object."""
    return Constraint("json_object", '{"type": "object"}')


def regex(pattern: Any) -> Constraint:
    """Text that matches the pattern from its first to its last character, in the syntax of Rust's ``regex`` crate.

    Raises:
        InvalidGrammar: not a string.
    """
    return _constraint("regex", pattern)


def choice(options: Any) -> Constraint:
    """Exactly one of the given strings.

    Raises:
        InvalidGrammar: not a list of at least one string.
    """
    if not isinstance(options, Sequence) or isinstance(options, str) or not options:
        raise InvalidGrammar("A choice must be a list of at least one string.")
    if not all(isinstance(option, str) for option in options):
        raise InvalidGrammar("Every option of a choice must be a string.")
    return _constraint("choice", _json(list(options)))


def lark(text: Any) -> Constraint:
    """Text in a context-free language, in llguidance's Lark syntax.

    Raises:
        InvalidGrammar: not a string.
    """
    constraint = _constraint("lark", text)
    if constraint.definition.lstrip().startswith("{"):
        raise InvalidGrammar("A Lark grammar cannot start with '{'; is it a serialised llguidance grammar?")
    return constraint


def ebnf(text: Any) -> Constraint:
    """A grammar in Lark, or in llama.cpp's GBNF (recognised by its ``::=``).

    Raises:
        InvalidGrammar: not a string.
    """
    return _constraint("gbnf", text) if isinstance(text, str) and is_gbnf(text) else lark(text)


def llguidance(grammar: Any) -> Constraint:
    """Llguidance's own serialised grammar, ``{"grammars": […]}`` as an object or as text, or Lark text.

    It is enforced as llguidance reads it; JSON schemas inside of it get none of our stricter readings.

    Raises:
        InvalidGrammar: neither of these.
    """
    if isinstance(grammar, str) and not grammar.lstrip().startswith("{"):
        return _constraint("llguidance", grammar)
    try:
        parsed = json.loads(grammar) if isinstance(grammar, str) else grammar
    except (ValueError, RecursionError) as error:
        raise InvalidGrammar(f"The llguidance grammar is not valid JSON: {error}") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("grammars"), list):
        raise InvalidGrammar('An llguidance grammar must be Lark text or an object with a list "grammars".')
    if parsed.get("max_tokens") is not None:
        raise InvalidGrammar('"max_tokens" of an llguidance grammar would cut answers off; use the request\'s own.')
    return _constraint("llguidance", _json(parsed))


def tools(
    tool_format: ToolFormat,
    functions: Sequence[Function],
    *,
    required: bool,
    parallel: bool,
    answer: Constraint | None,
    token_ids: Mapping[str, int],
    answer_param: str | None = None,
) -> Constraint:
    """A message that may call functions; see `tools.tools_grammar`, which has the same arguments.

    Args:
        tool_format: see there.
        functions: see there.
        required: see there.
        parallel: see there.
        answer: what a message without calls must be; None for any text.
        token_ids: see there.
        answer_param: the request field that ``answer`` comes from, for errors.

    Raises:
        InvalidGrammar: two functions have one name.
    """
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise InvalidGrammar("Two functions have the same name: give each its own.")
    return _constraint(
        "tools",
        _json(
            {
                "format": asdict(tool_format),
                "functions": [asdict(function) for function in functions],
                "required": required,
                "parallel": parallel,
                "answer": None if answer is None else asdict(answer),
                "answer_param": answer_param,
                "token_ids": dict(token_ids),
            }
        ),
    )


def reasoned(thoughts: Thoughts, answer: Constraint | None) -> Constraint:
    """Thoughts, then what the answer must be; see `reasoning.with_thoughts`."""
    definition = {"thoughts": asdict(thoughts), "answer": None if answer is None else asdict(answer)}
    return _constraint("reasoning", _json(definition))


def _reasoned_translations(definition: dict[str, Any], written: str | None) -> Iterator[Translation]:
    thoughts = Thoughts(**definition["thoughts"])
    if definition["answer"] is None:
        yield with_thoughts(thoughts, None)
        return
    answer = Constraint(**definition["answer"])
    for translation in answer.translations(written):
        yield with_thoughts(thoughts, translation, gap=not _may_begin_with_line_break(answer, translation.source))


def _may_begin_with_line_break(answer: Constraint, source: str) -> bool:
    """False only where no answer does, or where nobody asked for it (free text beside tools)."""
    if answer.is_json:
        return False
    if answer.kind != "tools":
        # Tokens named by their number may have any text.
        return "<[" in source or can_begin(source, ["\n"])
    beside = json.loads(answer.definition)["answer"]
    return beside is not None and not Constraint(**beside).is_json


def _tools_translation(definition: dict[str, Any], written: str | None) -> Translation:
    given = None if definition["answer"] is None else Constraint(**definition["answer"])
    return tools_grammar(
        ToolFormat(**definition["format"]),
        [Function(**function) for function in definition["functions"]],
        required=definition["required"],
        parallel=definition["parallel"],
        answer=None
        if given is None
        else Answer(
            given.translations(written),
            json.loads(given.definition) if given.is_json else None,
            given.exact,
            definition["answer_param"],
        ),
        token_ids=definition["token_ids"],
    )


def _constraint(kind: GrammarKind, definition: Any, *, exact: bool = False) -> Constraint:
    if not isinstance(definition, str):
        raise InvalidGrammar(f"A grammar of kind '{kind}' must be a string, not {type(definition).__name__}.")
    if not definition.strip() and kind != "regex":
        raise InvalidGrammar("The grammar is empty.")
    try:
        definition.encode()
    except UnicodeEncodeError as error:
        raise InvalidGrammar("The grammar contains half of a surrogate pair, which no text can contain.") from error
    return Constraint(kind, definition, exact)


def _json(value: Any) -> str:
    """JSON text; pydantic's writer is several times as fast as the standard library's, but it has no limits."""
    try:
        text: str = to_json(value).decode()
        if "NaN" not in text and "Infinity" not in text:
            return text
    except ValueError:
        pass  # which the standard library may explain, or even write
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidGrammar(f"The grammar is not a JSON value: {error}") from error


def _enforceable(definition: str) -> str:
    return enforceable_grammars(definition) if definition.lstrip().startswith("{") else enforceable(definition)


def _regex_grammar(pattern: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": f"start: {between_slashes(pattern)}"}]}, ensure_ascii=False)

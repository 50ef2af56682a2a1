"""Our constraints as the guides that TensorRT-LLM's Triton backend takes (``guided_decoding_guide_type``)."""

from __future__ import annotations

import json

from guidance_core.errors import Unsupported
from guidance_core.generation import Grammar

Guide = tuple[str, str | None]
"""(``json``, ``json_schema``, ``regex`` or ``ebnf_grammar``; what it is to match, or None where the type says it)."""


def guide(grammar: Grammar) -> Guide:
    """The guide that keeps an answer inside a grammar, as far as the server's own guidance does.

    Raises:
        Unsupported: the grammar is in Lark or llguidance's own form, which the server cannot read.
    """
    match grammar.kind:
        case "json_schema":
            # An empty schema is any JSON value, which has a type of its own (XGrammar's: any array or object).
            return ("json_schema", grammar.definition) if json.loads(grammar.definition) else ("json", None)
        case "json_object":
            # Not `json`: that also means arrays.
            return "json_schema", grammar.definition
        case "regex":
            return "regex", grammar.definition
        case "gbnf":
            # XGrammar's own notation is GBNF.
            return "ebnf_grammar", grammar.definition
        case "choice":
            options = json.loads(grammar.definition)
            return "ebnf_grammar", f"root ::= {' | '.join(map(_literal, options))}"
        case _:
            raise Unsupported(
                "The model runs on a Triton server, whose guided decoding knows JSON schemas, regular expressions, "
                "choices and GBNF, but no Lark and no llguidance grammars (tool calls and reasoning are such grammars "
                "too): use one of the former, or a service that runs the model itself."
            )


def _literal(text: str) -> str:
    """A string literal of the EBNF that XGrammar reads."""
    escaped = text.translate({ord("\\"): "\\\\", ord('"'): '\\"', ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"})
    return f'"{escaped}"'

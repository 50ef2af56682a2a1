"""JSON schemas and texts against the grammars that they become."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from guidance_core.api.checking import satisfies
from guidance_core.generation import Grammar
from guidance_core.grammar.json_schema import Translation, translations
from guidance_core.grammar.taking import is_unsatisfiable


def translated(schema: dict[str, Any], *, exact: bool = False) -> Translation:
    """The translation that is used: the first that llguidance takes."""
    problem = ""
    for translation in translations(json.dumps(schema), exact=exact):
        if is_unsatisfiable(problem) and translation.route == "checked":
            break
        problem = LLMatcher.validate_grammar(translation.source)
        if not problem:
            return translation
    raise AssertionError(problem)


def grammar_accepts(tokenizer: LLTokenizer, translation: Translation, text: str) -> bool:
    """Whether a text is in the grammar, whatever the check says."""
    matcher = LLMatcher(tokenizer, translation.source, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_bytes(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def passes(translation: Translation, text: str) -> bool:
    """Whether a text passes the check."""
    check = translation.check
    return satisfies(Grammar("", "json_schema", "", "", translation.route, check), text) is None

"""How a grammar spells a value: llguidance fixes the order of declared keys, and every order is the same value."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher, LLTokenizer


def spelled(tokenizer: LLTokenizer, source: str, value: Any, *, most_attempts: int = 20_000) -> str | None:
    """A text of the value that a grammar accepts, with keys in any order, or None where there is none.

    Args:
        tokenizer: with which to walk the grammar.
        source: llguidance's grammar.
        value: as parsed from JSON.
        most_attempts: pieces of text tried before giving up, with either order of keys to begin with.
    """
    for as_given in (True, False):
        found = _Speller(tokenizer, source, most_attempts, as_given=as_given).spell([value])
        if found is not None:
            return found
    return None


class _Speller:
    def __init__(self, tokenizer: LLTokenizer, source: str, attempts: int, *, as_given: bool) -> None:
        self._tokenizer = tokenizer
        self._source = source
        self._matcher = LLMatcher(tokenizer, source, log_level=0)
        self._attempts = attempts
        self._as_given = as_given

    def spell(self, pending: list[Any]) -> str | None:
        """Spell pieces of text (`_Text`) and values, from the last to the first."""
        if not pending:
            return "" if self._matcher.is_accepting() else None
        *rest, first = pending
        if isinstance(first, _Text):
            return self._try(first.text, rest)
        if isinstance(first, _Members):
            for key in first.values if self._as_given else sorted(first.values, key=self._first_mention):
                others = {name: value for name, value in first.values.items() if name != key}
                start = ("" if first.are_first else ", ") + json.dumps(key, ensure_ascii=False) + ": "
                following = [_Members(others, are_first=False)] if others else [_Text("}")]
                found = self._try(start, [*rest, *following, first.values[key]])
                if found is not None:
                    return found
            return None
        if isinstance(first, dict) and first:
            return self._try("{", [*rest, _Members(first, are_first=True)])
        if isinstance(first, list) and first:
            items = [part for item in first for part in (_Text(", "), item)][1:]
            return self._try("[", [*rest, _Text("]"), *reversed(items)])
        if isinstance(first, float) and first.is_integer():
            first = int(first)
        return self._try(json.dumps(first, ensure_ascii=False), rest)

    def _first_mention(self, key: str) -> int:
        """Where the grammar names a key: most often keys come in this order, and those that it does not name last."""
        found = self._source.find(json.dumps(key, ensure_ascii=False) + ":")
        return found if found >= 0 else len(self._source)

    def _try(self, text: str, rest: list[Any]) -> str | None:
        self._attempts -= 1
        tokens = self._tokenizer.tokenize_bytes(text.encode())
        if self._attempts < 0:
            return None
        consumed = self._matcher.try_consume_tokens(tokens)
        found = self.spell(rest) if consumed == len(tokens) else None
        if found is None:
            self._matcher.rollback(consumed)
            return None
        return text + found


class _Text:
    def __init__(self, text: str) -> None:
        self.text = text


class _Members:
    def __init__(self, values: dict[str, Any], *, are_first: bool) -> None:
        self.values = values
        self.are_first = are_first

"""Log-probabilities as completions have them: parallel lists over an echoed prompt and its continuation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guidance_core.api.json_text import Json, logprob_json
from guidance_core.api.openai.logprobs import TokenNames
from guidance_core.output import PromptToken, TokenSpelling, TokenTextLogprob

Logprobs = dict[str, list[Any]]
"""Parallel lists, by name."""


@dataclass(frozen=True, slots=True)
class Echo:
    """What comes before the text of a choice.

    Attributes:
        text: the prompt, where it is echoed.
        tokens: of the prompt, where its log-probabilities are wanted.
        before: characters of the choice that were given out earlier.
    """

    text: str = ""
    tokens: Sequence[PromptToken] = ()
    before: int = 0

    def behind(self) -> Echo:
        """For the pieces that come after the one with the echo."""
        return replace(self, text="", tokens=(), before=self.before + len(self.text))

    def offsets(self) -> list[int]:
        """Where each token begins in the text.

        The two may differ at their beginnings: the tokens may have a BOS that the text lacks, or be cut to a prompt's
        end.
        """
        if not self.tokens:
            return []
        last = self.tokens[-1]
        surplus = last.text_offset + len(last.spelling.text) - len(self.text)
        return [max(0, token.text_offset - surplus) for token in self.tokens]


def logprobs_object(entries: Sequence[TokenTextLogprob], echo: Echo, *, top: int, names: TokenNames) -> Logprobs:
    """A choice's ``logprobs``; offsets are in characters of the choice's text, the echo included.

    Args:
        entries: of the continuation's tokens.
        echo: what comes before it.
        top: how many of the likeliest tokens are wanted; the prompt's may have more.
        names: of tokens.
    """
    start = echo.before + len(echo.text)
    name = names.name
    spellings = [*(token.spelling for token in echo.tokens), *(entry.spelling for entry in entries)]
    scored = [*(token.scored for token in echo.tokens), *entries]
    return {
        "tokens": [Json(name(spelling)) for spelling in spellings],
        # Nothing is known of a prompt's first token.
        "token_logprobs": [None if entry is None else Json(logprob_json(entry.logprob)) for entry in scored],
        "top_logprobs": [None if entry is None else _likeliest(entry, top, name) for entry in scored],
        "text_offset": [*echo.offsets(), *(start + entry.text_offset for entry in entries)],
    }


def _likeliest(entry: TokenTextLogprob, top: int, name: Callable[[TokenSpelling], str]) -> Json:
    """By name; where several tokens have one text, the likeliest of them."""
    likeliest: dict[str, float] = {}
    for spelling, logprob in entry.top(top):
        likeliest.setdefault(name(spelling), logprob)
    # The token itself is always among them, as in OpenAI's answers.
    likeliest.setdefault(name(entry.spelling), entry.logprob)
    return Json("{" + ",".join([f"{token}:{logprob_json(logprob)}" for token, logprob in likeliest.items()]) + "}")

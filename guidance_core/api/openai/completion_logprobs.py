"""Log-probabilities as completions have them: parallel lists over an echoed prompt and its continuation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from guidance_core.api.openai.logprobs import finite, token_name
from guidance_core.output import PromptToken, TokenTextLogprob


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
        """For the chunks of a stream that come after the one with the echo."""
        return replace(self, text="", tokens=(), before=len(self.text))

    def offsets(self) -> list[int]:
        """Where each token begins in the text.

        The two may differ at their beginnings: the tokens may have a BOS that the text lacks, or be cut to a prompt's
        end.
        """
        if not self.tokens:
            return []
        last = self.tokens[-1]
        surplus = last.text_offset + len(last.token) - len(self.text)
        return [max(0, token.text_offset - surplus) for token in self.tokens]


def logprobs_object(entries: Sequence[TokenTextLogprob], echo: Echo, *, top: int, by_id: bool) -> dict[str, Any]:
    """A choice's ``logprobs``; offsets are in characters of the choice's text, the echo included.

    Args:
        entries: of the continuation's tokens.
        echo: what comes before it.
        top: how many of the likeliest tokens are wanted; the prompt's may have more.
        by_id: as in `token_name`.
    """
    start = echo.before + len(echo.text)
    tokens: list[PromptToken | TokenTextLogprob] = [*echo.tokens, *entries]
    scored = [*(token.scored for token in echo.tokens), *entries]
    return {
        "tokens": [token_name(token, by_id=by_id) for token in tokens],
        # Nothing is known of a prompt's first token.
        "token_logprobs": [None if entry is None else finite(entry.logprob) for entry in scored],
        "top_logprobs": [None if entry is None else _likeliest(entry, top, by_id) for entry in scored],
        "text_offset": [*echo.offsets(), *(start + entry.text_offset for entry in entries)],
    }


def _likeliest(entry: TokenTextLogprob, top: int, by_id: bool) -> dict[str, float]:
    """By name; where several tokens have one text, the likeliest of them."""
    likeliest: dict[str, float] = {}
    # The token itself is always among them, as in OpenAI's answers.
    for token in (*entry.top[:top], entry):
        likeliest.setdefault(token_name(token, by_id=by_id), finite(token.logprob))
    return likeliest

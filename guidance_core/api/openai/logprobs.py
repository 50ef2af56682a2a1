"""Log-probabilities as chat answers have them, and those of prompts as vLLM writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidance_core.output import PromptToken, TokenText, TokenTextLogprob


def logprobs_object(entries: Sequence[TokenTextLogprob]) -> dict[str, Any]:
    """A choice's ``logprobs``."""
    return {"content": token_logprobs(entries), "refusal": None}


def token_logprobs(entries: Sequence[TokenTextLogprob]) -> list[dict[str, Any]]:
    """Each token with the likeliest ones at its place."""
    return [{**_token(entry), "top_logprobs": [_token(top) for top in entry.top]} for entry in entries]


def prompt_logprobs(tokens: Sequence[PromptToken], count: int) -> list[dict[str, Any] | None]:
    """A prompt's ``prompt_logprobs``: for each token an object by token id, of the token itself and the likeliest.

    Args:
        tokens: of the prompt.
        count: how many of the likeliest.
    """
    return [None if token.scored is None else _by_id(token.scored, token.rank, count) for token in tokens]


def _by_id(scored: TokenTextLogprob, rank: int | None, count: int) -> dict[str, Any]:
    ranked: list[tuple[TokenText, int | None]] = [(scored, rank)]
    ranked += [(top, place) for place, top in enumerate(scored.top[:count], start=1)]
    return {
        str(token.token_id): {
            "logprob": finite(token.logprob),
            "rank": place,
            "decoded_token": token.token,
        }
        for token, place in ranked
    }


def finite(logprob: float) -> float:
    """A log-probability as JSON can say it: OpenAI writes -9999 for a token that is as good as impossible."""
    return max(logprob, -9999.0)


def _token(token: TokenText) -> dict[str, Any]:
    return {"token": token.token, "logprob": finite(token.logprob), "bytes": list(token.bytes)}

"""Log-probabilities as chat answers have them, and those of prompts as vLLM writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidance_core.output import PromptToken, TokenText, TokenTextLogprob


def logprobs_object(entries: Sequence[TokenTextLogprob], *, by_id: bool = False) -> dict[str, Any]:
    """A choice's ``logprobs``; ``by_id`` as in `token_name`."""
    return {"content": token_logprobs(entries, by_id=by_id), "refusal": None}


def token_logprobs(entries: Sequence[TokenTextLogprob], *, by_id: bool = False) -> list[dict[str, Any]]:
    """Each token with the likeliest ones at its place; ``by_id`` as in `token_name`."""
    return [{**_token(entry, by_id), "top_logprobs": [_token(top, by_id) for top in entry.top]} for entry in entries]


def token_name(token: TokenText | PromptToken, *, by_id: bool) -> str:
    """How a token is called: by its text or, where ``by_id``, by its id, as vLLM writes it."""
    return f"token_id:{token.token_id}" if by_id else token.token


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


def _token(token: TokenText, by_id: bool) -> dict[str, Any]:
    return {"token": token_name(token, by_id=by_id), "logprob": finite(token.logprob), "bytes": list(token.bytes)}

"""Log-probabilities as chat answers have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidance_core.output import TokenText, TokenTextLogprob


def logprobs_object(entries: Sequence[TokenTextLogprob]) -> dict[str, Any]:
    """A choice's ``logprobs``."""
    return {"content": token_logprobs(entries), "refusal": None}


def token_logprobs(entries: Sequence[TokenTextLogprob]) -> list[dict[str, Any]]:
    """Each token with the likeliest ones at its place."""
    return [{**_token(entry), "top_logprobs": [_token(top) for top in entry.top]} for entry in entries]


def _token(token: TokenText) -> dict[str, Any]:
    # JSON has no infinity; OpenAI writes -9999 for a token that is as good as impossible.
    return {"token": token.token, "logprob": max(token.logprob, -9999.0), "bytes": list(token.bytes)}

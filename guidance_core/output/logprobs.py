"""Log-probabilities with the tokens written out."""

from __future__ import annotations

from dataclasses import dataclass

from guidance_core.generation import TokenLogprob
from guidance_core.output.detokenizer import Detokenizer


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token and its log-probability.

    Attributes:
        token_id: its id.
        token: its text; where its bytes are no UTF-8 of their own (part of a character), with U+FFFD in their place.
        bytes: its exact bytes.
        logprob: natural log.
    """

    token_id: int
    token: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenTextLogprob(TokenText):
    """A token of the answer.

    Attributes:
        top: the likeliest tokens at this position, likeliest first.
        text_offset: characters of the answer before this token (a token inside a character: before that character).
    """

    top: tuple[TokenText, ...]
    text_offset: int


def with_text(logprob: TokenLogprob, detokenizer: Detokenizer, text_offset: int) -> TokenTextLogprob:
    """Write out the tokens of one position."""
    token_id = logprob.token_id
    return TokenTextLogprob(
        token_id,
        detokenizer.token_text(token_id),
        detokenizer.token_bytes(token_id),
        logprob.logprob,
        tuple(
            TokenText(id, detokenizer.token_text(id), detokenizer.token_bytes(id), value) for id, value in logprob.top
        ),
        text_offset,
    )

"""Log-probabilities with their place in the answer's text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from guidance_core.generation import TokenLogprob
from guidance_core.output.detokenizer import Detokenizer
from guidance_core.output.token_spelling import TokenSpelling


@dataclass(frozen=True, slots=True)
class TokenTextLogprob:
    """A token of an answer or of a prompt; the likeliest ones at its place are only written out for who asks.

    Attributes:
        spelling: the token.
        logprob: natural log.
        text_offset: characters of the text before this token (a token inside a character: before that character).
    """

    spelling: TokenSpelling
    logprob: float
    text_offset: int
    _top: tuple[tuple[int, float], ...] = field(repr=False)
    _detokenizer: Detokenizer = field(repr=False, compare=False)

    @classmethod
    def of(cls, logprob: TokenLogprob, detokenizer: Detokenizer, text_offset: int) -> TokenTextLogprob:
        """The token of one position."""
        return cls(detokenizer.spelling(logprob.token_id), logprob.logprob, text_offset, logprob.top, detokenizer)

    @property
    def token_id(self) -> int:
        """The token's id."""
        return self.spelling.token_id

    @property
    def token(self) -> str:
        """The token's text, as `TokenSpelling` has it."""
        return self.spelling.text

    def top(self, count: int | None = None) -> Iterator[tuple[TokenSpelling, float]]:
        """The likeliest tokens at this place with their log-probabilities, likeliest first: so many, or all known."""
        spelling = self._detokenizer.spelling
        return ((spelling(token_id), logprob) for token_id, logprob in self._top[:count])

"""A prompt's tokens written out, with their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from guidance_core.generation import TokenLogprob
from guidance_core.output.detokenizer import Detokenizer
from guidance_core.output.logprobs import TokenTextLogprob
from guidance_core.output.token_spelling import TokenSpelling


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token of a prompt.

    Attributes:
        spelling: the token.
        scored: its log-probability and the likeliest tokens at its place; None for the first token, which follows on
            nothing.
        rank: its place among all tokens by probability, from 1; None for the first token.
        text_offset: characters of the prompt's text before this token (a token inside a character: before that
            character). Special tokens have their spelling as text.
    """

    spelling: TokenSpelling
    scored: TokenTextLogprob | None
    rank: int | None
    text_offset: int


def prompt_tokens(
    prompt_ids: Sequence[int], logprobs: Sequence[TokenLogprob], detokenizer: Detokenizer
) -> list[PromptToken]:
    """Write out a prompt.

    Args:
        prompt_ids: its tokens.
        logprobs: of those after the first.
        detokenizer: the model's.
    """
    stream = detokenizer.stream(skip_special_tokens=False)
    offset = 0
    tokens = []
    for token_id, logprob in zip(prompt_ids, (None, *logprobs), strict=True):
        scored = None if logprob is None else TokenTextLogprob.of(logprob, detokenizer, offset)
        rank = None if logprob is None else logprob.rank
        tokens.append(PromptToken(detokenizer.spelling(token_id), scored, rank, offset))
        offset += len(stream.push(token_id))
    return tokens

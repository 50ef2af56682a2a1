"""Log-probabilities as chat answers have them, and those of prompts as vLLM writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from guidance_core.api.json_text import Json, logprob_json
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.output import PromptToken, TokenSpelling, TokenTextLogprob

_repr = float.__repr__


@dataclass(frozen=True, slots=True)
class TokenNames:
    """How an answer calls tokens.

    Attributes:
        by_id: by their ids, as vLLM writes them, in place of their texts.
        in_ascii: for an event, not for a body in UTF-8.
    """

    by_id: bool = False
    in_ascii: bool = False

    @property
    def name(self) -> Callable[[TokenSpelling], str]:
        """Gives a token's name as a JSON string."""
        if self.by_id:
            return _id_name
        return _ascii_name if self.in_ascii else _unicode_name


def _id_name(spelling: TokenSpelling) -> str:
    return f'"token_id:{spelling.token_id}"'


def _ascii_name(spelling: TokenSpelling) -> str:
    return spelling.json_ascii


def _unicode_name(spelling: TokenSpelling) -> str:
    return spelling.json


def logprobs_object(content: list[Json]) -> dict[str, Any]:
    """A choice's ``logprobs`` of what `token_logprobs` wrote."""
    return {"content": content, "refusal": None}


def token_logprobs(entries: Iterable[TokenTextLogprob], names: TokenNames) -> list[Json]:
    """Each token with the likeliest ones at its place."""
    name = names.name
    written = []
    for entry in entries:
        # Some twenty for each token of an answer: calls would cost more than what they do.
        top = [
            f'{{"token":{name(spelling)},"logprob":{_repr(logprob) if logprob > -9999.0 else "-9999.0"},'
            f'"bytes":{spelling.json_bytes}}}'
            for spelling, logprob in entry.top()
        ]
        written.append(
            Json(
                f'{{"token":{name(entry.spelling)},"logprob":{logprob_json(entry.logprob)},'
                f'"bytes":{entry.spelling.json_bytes},"top_logprobs":[{",".join(top)}]}}'
            )
        )
    return written


async def prompt_logprobs(tokens: Sequence[PromptToken], count: int) -> list[Json | None]:
    """A prompt's ``prompt_logprobs``: for each token an object by token id, of the token itself and the likeliest.

    Args:
        tokens: of the prompt.
        count: how many of the likeliest.
    """

    def written() -> list[Json | None]:
        return [None if token.scored is None else _by_id(token.scored, token.rank, count) for token in tokens]

    return await off_the_loop(2 * len(tokens) * (1 + count), written)  # two characters, about, for the text of each


def _by_id(scored: TokenTextLogprob, rank: int | None, count: int) -> Json:
    ranked = {scored.token_id: _ranked(scored.spelling, scored.logprob, "null" if rank is None else str(rank))}
    for place, (spelling, logprob) in enumerate(scored.top(count), start=1):
        ranked[spelling.token_id] = _ranked(spelling, logprob, str(place))
    return Json("{" + ",".join([f'"{token_id}":{told}' for token_id, told in ranked.items()]) + "}")


def _ranked(spelling: TokenSpelling, logprob: float, rank: str) -> str:
    return f'{{"logprob":{logprob_json(logprob)},"rank":{rank},"decoded_token":{spelling.json}}}'

"""Pieces of an answer → tokens, details and events."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from guidance_core.api.answer import merged
from guidance_core.api.attempt import Piece
from guidance_core.api.events import data_event
from guidance_core.api.json_text import Json, finite, logprob_json
from guidance_core.api.served_model import LoadedModel
from guidance_core.api.tgi.requests import Seeded
from guidance_core.output import ChoiceOutput, PromptToken, TextDelta, TokenSpelling, TokenTextLogprob

Token = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """A token as clients read it.

    Attributes:
        index: counts from 1; two with the same index are parts of one token.
        token: its JSON.
        top_tokens: the likeliest ones at its position.
    """

    index: int
    token: Token
    top_tokens: list[Json]


class TokenWriter:
    """Writes the tokens of one answer. Their texts add up to the answer, character for character, then the end token's.

    Attributes:
        written: so far.
    """

    def __init__(self, model: LoadedModel, *, in_ascii: bool) -> None:
        """Start an answer.

        Args:
            model: answers it.
            in_ascii: for events, not for a body in UTF-8.
        """
        self.written: list[Written] = []
        self._in_ascii = in_ascii
        self._special_ids = model.detokenizer.special_ids
        self._end_id = model.executor.limits().eos_token_ids[0]
        self._chars = 0

    def write(self, piece: TextDelta, output: ChoiceOutput) -> list[Written]:
        """The tokens of the next piece; of the last one, at least one.

        Args:
            piece: of the answer.
            output: how the answer stands.
        """
        before = len(self.written)
        self._write_entries(piece)
        if piece.finish_reason is not None:
            if output.stop_token_id is not None:
                self._write_end(output.stop_token_id, output.stop_logprob)
            elif len(self.written) == before:
                self._repeat("")
        return self.written[before:]

    def details_tokens(self) -> tuple[list[Token], list[list[Json]]]:
        """All tokens so far, each in one part; and the likeliest ones at their positions."""
        whole: dict[int, Written] = {}
        for part in self.written:
            if (first := whole.get(part.index)) is not None:
                part = replace(first, token={**first.token, "text": first.token["text"] + part.token["text"]})
            whole[part.index] = part
        return [part.token for part in whole.values()], [part.top_tokens for part in whole.values() if part.top_tokens]

    def _write_entries(self, piece: TextDelta) -> None:
        entries = piece.logprobs or ()
        start, end = self._chars, self._chars + len(piece.text)
        # What was held back, because it might have begun a stop string, comes before the first token of its piece.
        if entries and entries[0].text_offset > start and self.written:
            self._chars = entries[0].text_offset
            self._repeat(piece.text[: self._chars - start])
        for i, entry in enumerate(entries):
            until = entries[i + 1].text_offset if i + 1 < len(entries) else end
            text = piece.text[self._chars - start : until - start]
            self._append(self._token(entry.spelling, entry.logprob, text), entry.top())
            self._chars = until
        if self._chars < end:
            self._repeat(piece.text[self._chars - start :])
            self._chars = end

    def _write_end(self, token_id: int, entry: TokenTextLogprob | None) -> None:
        if entry is None:
            self._append({"id": token_id, "text": "", "logprob": None, "special": True}, ())
        else:
            # It is no part of the text, whatever it is: clients leave out special tokens.
            self._append({**self._token(entry.spelling, entry.logprob, entry.token), "special": True}, entry.top())

    def _repeat(self, text: str) -> None:
        """One more part of the last token; an answer with no token at all gets an end token."""
        if not self.written:
            self._write_end(self._end_id, None)
            return
        last = self.written[-1]
        self.written.append(replace(last, token={**last.token, "text": text}))

    def _append(self, token: Token, top: Iterable[tuple[TokenSpelling, float]]) -> None:
        index = self.written[-1].index + 1 if self.written else 1
        self.written.append(Written(index, token, [self._top_token(*each) for each in top]))

    def _top_token(self, spelling: TokenSpelling, logprob: float) -> Json:
        text = spelling.json_ascii if self._in_ascii else spelling.json
        special = "true" if spelling.token_id in self._special_ids else "false"
        return Json(f'{{"id":{spelling.token_id},"text":{text},"logprob":{logprob_json(logprob)},"special":{special}}}')

    def _token(self, spelling: TokenSpelling, logprob: float, text: str) -> Token:
        return {
            "id": spelling.token_id,
            "text": text,
            "logprob": finite(logprob),
            "special": spelling.token_id in self._special_ids,
        }


def finish_reason(output: ChoiceOutput) -> str:
    """Why a finished answer ended, in its words. Where a grammar can go no further, all it allows is an end token."""
    if output.finish_reason == "length":
        return "length"
    return "eos_token" if output.stop_string is None else "stop_sequence"


async def stream_events(
    seeded: Seeded, pieces: AsyncGenerator[Piece, None], writer: TokenWriter, *, prompt: str, details: bool
) -> AsyncGenerator[bytes, None]:
    """The events of a stream: one for each token, the last one with the whole text.

    Args:
        seeded: the answer.
        pieces: of it.
        writer: of its tokens.
        prompt: what the whole text begins with.
        details: the last event says why the answer ended.
    """
    async with aclosing(pieces):
        async for _, piece in pieces:
            output = seeded.answer.output(0)
            parts = writer.write(piece, output)
            for i, part in enumerate(parts):
                if piece.finish_reason is None or i < len(parts) - 1:
                    yield _event(part)
                else:
                    yield _event(part, prompt + output.text, _stream_details(seeded, output) if details else None)


def _event(part: Written, generated_text: str | None = None, details: dict[str, Any] | None = None) -> bytes:
    top_tokens = {"top_tokens": part.top_tokens} if part.top_tokens else {}
    return data_event(
        {"index": part.index, "token": part.token, **top_tokens, "generated_text": generated_text, "details": details}
    )


def _stream_details(seeded: Seeded, output: ChoiceOutput) -> dict[str, Any]:
    return {
        "finish_reason": finish_reason(output),
        "generated_tokens": output.completion_tokens,
        "seed": seeded.seed,
        "input_length": seeded.answer.prompt_tokens,
    }


@dataclass(frozen=True, slots=True)
class Whole:
    """A finished answer.

    Attributes:
        seeded: the answer.
        tokens: it, in tokens; empty where these were not asked for.
        top_tokens: for each token, the likeliest ones at its position; empty where these were not asked for.
    """

    seeded: Seeded
    tokens: list[Token]
    top_tokens: list[list[Json]]

    @property
    def output(self) -> ChoiceOutput:
        """How it ended."""
        return self.seeded.answer.output(0)

    def mean_logprob(self) -> float:
        """By which its router chooses the best of several."""
        known = [token["logprob"] for token in self.tokens if token["logprob"] is not None]
        return sum(known) / len(known) if known else -math.inf

    def details(self, prefill: Sequence[Token]) -> dict[str, Any]:
        """The details object; ``prefill`` are the prompt's tokens, where they were asked for."""
        return {
            "finish_reason": finish_reason(self.output),
            "generated_tokens": self.output.completion_tokens,
            "seed": self.seeded.seed,
            "prefill": prefill,
            "tokens": self.tokens,
            **({"top_tokens": self.top_tokens} if self.top_tokens else {}),
        }


def prefill_tokens(tokens: Sequence[PromptToken]) -> list[Token]:
    """A prompt's tokens as the details have them; the first one has no logprob."""
    return [
        {
            "id": token.spelling.token_id,
            "text": token.spelling.text,
            "logprob": None if token.scored is None else finite(token.scored.logprob),
        }
        for token in tokens
    ]


async def wholes(answers: Sequence[Seeded], model: LoadedModel, *, with_tokens: bool) -> list[Whole]:
    """Several answers, generated side by side to their ends."""
    writers = {id(seeded.answer): TokenWriter(model, in_ascii=False) for seeded in answers}
    async with aclosing(merged([seeded.answer for seeded in answers])) as pieces:
        async for answer, (_, piece) in pieces:
            if with_tokens:
                writers[id(answer)].write(piece, answer.output(0))
    return [Whole(seeded, *writers[id(seeded.answer)].details_tokens()) for seeded in answers]

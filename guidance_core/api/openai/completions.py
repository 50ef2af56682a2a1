"""`POST /v1/completions`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from starlette.responses import Response

from guidance_core.api.answer import Answer, joined, merged
from guidance_core.api.attempt import Piece, TextOptions
from guidance_core.api.grammar_log import GrammarLog
from guidance_core.api.json_text import Json, JsonBody, json_unicode
from guidance_core.api.openai.adapters import adapter_of
from guidance_core.api.openai.bodies import CompletionBody
from guidance_core.api.openai.completion_logprobs import Echo, Logprobs, logprobs_object
from guidance_core.api.openai.constraints import constraint_of
from guidance_core.api.openai.events import DONE, ChunkWriter, event_stream
from guidance_core.api.openai.logprobs import TokenNames, prompt_logprobs
from guidance_core.api.openai.requests import (
    check_budget,
    compilation_of,
    generation_request,
    logged_grammar,
    remaining_context,
    truncated,
)
from guidance_core.api.openai.usage import usage_of
from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.api.streaming import started
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.errors import InvalidRequest, Unsupported
from guidance_core.generation import Grammar, LoraAdapter
from guidance_core.output import TextDelta
from guidance_core.prompt.infill import find_infill_tokens, infill_prompt

_DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


async def completion(
    served: ServedModel, body: CompletionBody, *, default_max_tokens: int | None = _DEFAULT_MAX_TOKENS
) -> Response:
    """Continue one prompt or several, at once or as a stream. Choices are numbered prompt by prompt.

    Args:
        served: answers it.
        body: the request.
        default_max_tokens: where the request does not say; None for the context's rest.

    Raises:
        RequestError: before the first token; later failures become the stream's last event.
    """
    model = served.get(body.model)
    settings = served.settings.server
    _check(body, settings.max_choices)
    compilation = await compilation_of(model, served.settings.guidance, constraint_of(body), stream=body.stream)
    grammar = None if compilation is None else compilation.grammar
    lora = adapter_of(served, model, body)
    answers = [await _answer(served, model, body, prompt, grammar, lora, default_max_tokens) for prompt in body.prompt]
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model,
        "system_fingerprint": model.fingerprint,
    }
    usage = partial(usage_of, answers, compilation, with_guidance=body.include_guidance)
    log = await GrammarLog.of(model, logged_grammar(body, grammar), choices=len(answers) * _best_of(body))
    if body.stream:
        pieces = await started(merged(answers))
        events = _events(model, ChunkWriter(head, body.stream_options), body, answers, usage, log, pieces)
        return event_stream(
            events,
            choices=len(answers) * body.n,
            comments_every=served.settings.guidance.held_stream_comments if answers[0].held else None,
        )
    return JsonBody({**head, "choices": await _choices(model, body, answers, log), "usage": usage()})


async def _answer(
    served: ServedModel,
    model: LoadedModel,
    body: CompletionBody,
    prompt: str | list[int],
    grammar: Grammar | None,
    lora: LoraAdapter | None,
    default_max_tokens: int | None,
) -> Answer:
    prompt_ids = truncated(model, body, await off_the_loop(len(prompt), lambda: _prompt_ids(model, body, prompt)))
    if not prompt_ids:
        raise InvalidRequest("'prompt' is empty: give it at least one token.", param="prompt")
    remaining = 0 if body.max_tokens == 0 else remaining_context(model, len(prompt_ids), param="prompt")
    about_prompt = [k for k in (body.prompt_logprobs, body.logprobs if body.echo else None) if k is not None]
    if _best_of(body) > body.n:
        body = body.model_copy(update={"n": _best_of(body), "logprobs": body.logprobs or 0})
    request = generation_request(
        model,
        served.settings.server,
        body,
        prompt_ids=prompt_ids,
        max_tokens=body.max_tokens,
        default_max_tokens=remaining if default_max_tokens is None else min(default_max_tokens, remaining),
        logprobs=body.logprobs,
        prompt_logprobs=max(about_prompt, default=None),
        grammar=grammar,
        lora=lora,
    )
    text = TextOptions(
        skip_special_tokens=body.skip_special_tokens,
        keep_leading_space=True,
        include_stop_string=body.include_stop_str_in_output,
    )
    return Answer(model, request, text, check_budget(served.settings.guidance, body))


def _check(body: CompletionBody, max_choices: int) -> None:
    """Refuse what contradicts itself or this service's limits."""
    best_of = _best_of(body)
    if len(body.prompt) * best_of > max_choices:
        if len(body.prompt) == 1:
            param = "n" if best_of == body.n else "best_of"
            raise InvalidRequest(
                f"{param!r} is {best_of}; at most {max_choices} choices are generated for one request.", param=param
            )
        raise InvalidRequest(
            f"{len(body.prompt)} prompts with {best_of} choices each are more than the {max_choices} choices that are "
            "generated for one request: send several requests.",
            param="prompt",
        )
    if best_of < body.n:
        raise InvalidRequest(f"'best_of' is {best_of}, less than 'n' ({body.n}).", param="best_of")
    if body.stream and best_of > body.n:
        raise InvalidRequest("'best_of' is only known at the end: leave out 'stream'.", param="best_of")
    if body.suffix and body.echo and body.logprobs is not None:
        raise InvalidRequest(
            "With 'suffix' the prompt's tokens are not those of the text that 'echo' gives: leave out 'logprobs', or "
            "use 'prompt_logprobs'.",
            param="logprobs",
        )
    if body.suffix and not all(isinstance(prompt, str) for prompt in body.prompt):
        raise InvalidRequest("'suffix' needs a prompt of text, not of token ids.", param="suffix")
    if body.suffix and not body.add_special_tokens:
        raise InvalidRequest(
            "'suffix' is written with special tokens: leave out 'add_special_tokens'.", param="add_special_tokens"
        )


def _best_of(body: CompletionBody) -> int:
    return body.best_of or body.n


def _prompt_ids(model: LoadedModel, body: CompletionBody, prompt: str | list[int]) -> tuple[int, ...]:
    context = model.executor.limits().max_model_len
    if not body.suffix or not isinstance(prompt, str):
        return model.prompts.completion(prompt, add_special_tokens=body.add_special_tokens, context=context)
    tokens = find_infill_tokens(model.prompts.tokenizer)
    if tokens is None:
        raise Unsupported("'suffix' is for models that were trained to fill gaps; this one was not.", param="suffix")
    return infill_prompt(model.prompts, tokens, prompt, body.suffix, context=context)


async def _events(
    model: LoadedModel,
    writer: ChunkWriter,
    body: CompletionBody,
    answers: Sequence[Answer],
    usage: Callable[[], dict[str, Any]],
    log: GrammarLog,
    pieces: AsyncGenerator[tuple[Answer, Piece], None],
) -> AsyncGenerator[bytes, None]:
    first_index = {id(answer): i * body.n for i, answer in enumerate(answers)}
    names = TokenNames(by_id=body.return_tokens_as_token_ids, in_ascii=True)
    echoes: dict[int, Echo] = {}
    async with aclosing(pieces):
        async for answer, (index, piece) in pieces:
            number = first_index[id(answer)] + index
            begins = number not in echoes
            echo = await _echo(model, body, answer, number // body.n) if begins else echoes[number]
            echoes[number] = echo.behind() if begins else echo
            choice = _choice(number, echo.text + piece.text, _logprobs(body, piece, echo, names), piece.finish_reason)
            if logs := await log.lines(number, piece):
                choice["llg_logs"] = logs
            if body.return_token_ids:
                choice |= {"prompt_token_ids": list(answer.prompt_ids)} if begins else {}
                choice["token_ids"] = list(piece.token_ids)
            yield writer.chunk(choice)
    if writer.include_usage:
        yield writer.usage(usage())
    yield DONE


@dataclass(slots=True)
class _Received:
    """What has come of one choice.

    Attributes:
        pieces: its text.
        logprobs: as they are answered, where they are asked for.
        scores: the log-probabilities of its tokens, where any have come.
        logs: of the grammar.
        echo: what comes before the next piece.
        echoed: the text that comes before the first one.
    """

    pieces: list[TextDelta] = field(default_factory=list)
    logprobs: Logprobs | None = None
    scores: list[float] = field(default_factory=list)
    logs: str = ""
    echo: Echo | None = None
    echoed: str = ""

    def add(self, piece: TextDelta, logprobs: Logprobs | None) -> None:
        """Take the next piece, and what it adds to the log-probabilities."""
        self.scores += [entry.logprob for entry in piece.logprobs or ()]
        self.pieces.append(piece if piece.logprobs is None else replace(piece, logprobs=None))
        if self.logprobs is None or logprobs is None:
            self.logprobs = logprobs
        else:
            for name, values in logprobs.items():
                self.logprobs[name] += values

    def mean_logprob(self) -> float:
        """Of its tokens."""
        return sum(self.scores) / len(self.scores) if self.scores else 0.0


async def _choices(model: LoadedModel, body: CompletionBody, answers: Sequence[Answer], log: GrammarLog) -> list[Json]:
    generated = _best_of(body)
    names = TokenNames(by_id=body.return_tokens_as_token_ids)
    first_index = {id(answer): i * generated for i, answer in enumerate(answers)}
    received = [_Received() for _ in range(len(answers) * generated)]
    async with aclosing(merged(answers)) as pieces:
        async for answer, (index, piece) in pieces:
            number = first_index[id(answer)] + index
            choice = received[number]
            if (echo := choice.echo) is None:
                echo = await _echo(model, body, answer, number // generated)
                choice.echoed = echo.text
            # Written as they come: all at the end would hold up everybody else.
            choice.add(piece, _logprobs(body, piece, echo, names))
            choice.echo = echo.behind()
            choice.logs += await log.lines(number, piece)
    choices: list[Json] = []
    for place, answer in enumerate(answers):
        for choice in _likeliest(received[place * generated : (place + 1) * generated], body.n):
            await asyncio.sleep(0)  # others' turn
            whole = joined(choice.pieces)
            written = _choice(len(choices), choice.echoed + whole.text, choice.logprobs, whole.finish_reason)
            if choice.logs:
                written["llg_logs"] = choice.logs
            if body.prompt_logprobs is not None:
                scored = await answer.scored_prompt()
                written["prompt_logprobs"] = await prompt_logprobs(scored, body.prompt_logprobs)
            if body.return_token_ids:
                written["prompt_token_ids"] = list(answer.prompt_ids)
                written["token_ids"] = list(whole.token_ids)
            choices.append(json_unicode(written))
    return choices


async def _echo(model: LoadedModel, body: CompletionBody, answer: Answer, place: int) -> Echo:
    """What comes before the text of a choice of the prompt in this place."""
    if not body.echo:
        return Echo()
    prompt = body.prompt[place]
    text = prompt if isinstance(prompt, str) else model.detokenizer.decode(prompt, skip_special_tokens=False)
    return Echo(text, await answer.scored_prompt() if body.logprobs is not None else ())


def _likeliest(choices: Sequence[_Received], count: int) -> list[_Received]:
    """The choices with the highest mean log-probability of their tokens, likeliest first; all as they are if all."""
    if count == len(choices):
        return list(choices)
    return sorted(choices, key=_Received.mean_logprob, reverse=True)[:count]


def _logprobs(body: CompletionBody, piece: TextDelta, echo: Echo, names: TokenNames) -> Logprobs | None:
    if body.logprobs is None:
        return None
    return logprobs_object(piece.logprobs or (), echo, top=body.logprobs, names=names)


def _choice(index: int, text: str, logprobs: Logprobs | None, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

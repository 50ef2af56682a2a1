"""`POST /v1/completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response

from guidance_core.api.answer import Answer, merged
from guidance_core.api.attempt import Piece, TextOptions
from guidance_core.api.grammar_log import GrammarLog
from guidance_core.api.openai.adapters import adapter_of
from guidance_core.api.openai.bodies import CompletionBody
from guidance_core.api.openai.completion_logprobs import Echo, logprobs_object
from guidance_core.api.openai.constraints import constraint_of
from guidance_core.api.openai.events import DONE, ChunkWriter, event_stream
from guidance_core.api.openai.logprobs import prompt_logprobs
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
    return JSONResponse({**head, "choices": await _choices(model, body, answers, log), "usage": usage()})


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
    echoes: dict[int, Echo] = {}
    async with aclosing(pieces):
        async for answer, (index, piece) in pieces:
            number = first_index[id(answer)] + index
            if (echo := echoes.get(number)) is None:
                echo = await _echo(model, body, answer, number)
                echoes[number] = echo.behind()
            yield writer.chunk(_choice(body, number, [piece], await log.lines(number, piece), echo))
    if writer.include_usage:
        yield writer.usage(usage())
    yield DONE


async def _choices(
    model: LoadedModel, body: CompletionBody, answers: Sequence[Answer], log: GrammarLog
) -> list[dict[str, Any]]:
    generated = _best_of(body)
    first_index = {id(answer): i * generated for i, answer in enumerate(answers)}
    received: list[list[TextDelta]] = [[] for _ in range(len(answers) * generated)]
    logs = [""] * len(received)
    async with aclosing(merged(answers)) as pieces:
        async for answer, (index, piece) in pieces:
            number = first_index[id(answer)] + index
            received[number].append(piece)
            logs[number] += await log.lines(number, piece)
    kept = [
        number
        for first in first_index.values()
        for number in _likeliest(range(first, first + generated), received, body.n)
    ]
    choices = []
    for index, number in enumerate(kept):
        answer = answers[index // body.n]
        echo = await _echo(model, body, answer, index)
        choice = _choice(body, index, received[number], logs[number], echo)
        if body.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(await answer.scored_prompt(), body.prompt_logprobs)
        choices.append(choice)
    return choices


async def _echo(model: LoadedModel, body: CompletionBody, answer: Answer, number: int) -> Echo:
    """What comes before the text of a choice."""
    if not body.echo:
        return Echo()
    prompt = body.prompt[number // body.n]
    text = prompt if isinstance(prompt, str) else model.detokenizer.decode(prompt, skip_special_tokens=False)
    return Echo(text, await answer.scored_prompt() if body.logprobs is not None else ())


def _likeliest(numbers: Sequence[int], received: Sequence[Sequence[TextDelta]], count: int) -> list[int]:
    """The choices with the highest mean log-probability of their tokens, likeliest first; all as they are if all."""
    if count == len(numbers):
        return list(numbers)

    def mean(number: int) -> float:
        logprobs = [entry.logprob for piece in received[number] for entry in piece.logprobs or ()]
        return sum(logprobs) / len(logprobs) if logprobs else 0.0

    return sorted(numbers, key=mean, reverse=True)[:count]


def _choice(body: CompletionBody, index: int, pieces: Sequence[TextDelta], logs: str, echo: Echo) -> dict[str, Any]:
    logprobs = None
    if body.logprobs is not None:
        entries = [entry for piece in pieces for entry in piece.logprobs or ()]
        logprobs = logprobs_object(entries, echo, top=body.logprobs, by_id=body.return_tokens_as_token_ids)
    return {
        "index": index,
        "text": echo.text + "".join(piece.text for piece in pieces),
        "logprobs": logprobs,
        "finish_reason": pieces[-1].finish_reason,
        **({"llg_logs": logs} if logs else {}),
    }

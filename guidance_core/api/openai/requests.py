"""A checked body → a `GenerationRequest`: the part that chat completions and completions share."""

from __future__ import annotations

import uuid

from guidance_core import telemetry
from guidance_core.api.openai.bodies import GenerationBody
from guidance_core.api.openai.constraints import constraint_of
from guidance_core.api.served_model import LoadedModel
from guidance_core.config import ServerSettings
from guidance_core.errors import ContextLengthExceeded, InvalidRequest
from guidance_core.generation import GenerationRequest, Grammar, SamplingParams


async def grammar_of(model: LoadedModel, body: GenerationBody) -> Grammar | None:
    """The compiled constraint of a request.

    Raises:
        InvalidRequest: several constraints.
        InvalidGrammar: it does not compile; ``param`` names the field.
    """
    found = constraint_of(body)
    if found is None:
        return None
    compilation = await model.grammars.compile(found.constraint, param=found.param)
    telemetry.GRAMMAR_SECONDS.labels(compilation.grammar.kind).observe(compilation.seconds)
    return compilation.grammar


def generation_request(
    model: LoadedModel,
    settings: ServerSettings,
    body: GenerationBody,
    *,
    prompt_ids: tuple[int, ...],
    max_tokens: int,
    logprobs: int | None,
    grammar: Grammar | None,
) -> GenerationRequest:
    """Put a request together.

    Raises:
        InvalidRequest: values that contradict each other or this service's limits.
    """
    if body.n > settings.max_choices:
        raise InvalidRequest(f"'n' is {body.n}; at most {settings.max_choices} choices are answered.", param="n")
    if body.min_tokens > max_tokens:
        raise InvalidRequest(
            f"'min_tokens' is {body.min_tokens}, more than 'max_tokens' ({max_tokens}).", param="min_tokens"
        )
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' needs 'stream': true.", param="stream_options")
    return GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompt_ids=prompt_ids,
        sampling=SamplingParams(
            max_tokens=max_tokens,
            min_tokens=body.min_tokens,
            n=body.n,
            temperature=body.temperature,
            top_k=max(body.top_k or 0, 0),
            top_p=max(body.top_p, _SMALLEST_TOP_P),
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias=_logit_bias(body, model.executor.limits().vocab_size),
            seed=body.seed,
            logprobs=logprobs,
            stop_token_ids=tuple(body.stop_token_ids or ()),
            ignore_eos=body.ignore_eos,
        ),
        grammar=grammar,
        stop=tuple(body.stop or ()),
    )


_SMALLEST_TOP_P = 1e-9
"""OpenAI allows 0, which `SamplingParams` does not: so small a nucleus is the likeliest token alone."""


def remaining_context(model: LoadedModel, prompt_tokens: int, *, param: str) -> int:
    """How many tokens an answer to this prompt can have.

    Raises:
        ContextLengthExceeded: none.
    """
    context = model.executor.limits().max_model_len
    if prompt_tokens >= context:
        raise ContextLengthExceeded(
            f"The prompt has {prompt_tokens} tokens; the model's context of {context} tokens leaves no room for an "
            "answer: shorten the prompt.",
            param=param,
        )
    return context - prompt_tokens


def _logit_bias(body: GenerationBody, vocab_size: int) -> dict[int, float]:
    bias = {}
    for key, value in (body.logit_bias or {}).items():
        if not (key.isascii() and key.isdecimal() and int(key) < vocab_size):
            raise InvalidRequest(
                f"'logit_bias' has the key {key!r}; keys are token ids below {vocab_size}, as strings.",
                param="logit_bias",
            )
        bias[int(key)] = value
    return bias

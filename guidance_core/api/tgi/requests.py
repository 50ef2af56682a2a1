"""A checked body → generation requests."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass, replace

from pydantic_core import from_json

from guidance_core.api.answer import Answer
from guidance_core.api.attempt import TextOptions
from guidance_core.api.constrained import compiled
from guidance_core.api.resampling import CheckBudget
from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.api.tgi.bodies import (
    GenerateParameters,
    Grammar,
    JsonGrammar,
    JsonSchemaGrammar,
    RegexGrammar,
    TGIGenerateBody,
)
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.errors import ContextLengthExceeded, InvalidGrammar, InvalidRequest, Unsupported
from guidance_core.executors.request_limits import MAX_LOGPROBS
from guidance_core.generation import GenerationRequest, LoraAdapter, SamplingParams
from guidance_core.grammar import constraint
from guidance_core.grammar.constraint import Constraint


@dataclass(frozen=True, slots=True)
class Seeded:
    """One answer that is generated, and its seed; None where nothing is sampled."""

    answer: Answer
    seed: int | None


async def seeded_answers(served: ServedModel, body: TGIGenerateBody, *, stream: bool) -> list[Seeded]:
    """What to generate for a body: ``best_of`` answers, each with a seed of its own that repeats it.

    Raises:
        RequestError: as `Executor.check`, or a field that is not supported or contradicts another one.
    """
    parameters = body.parameters
    settings = served.settings
    sampled = _is_sampled(parameters)
    _check(parameters, max_best_of=settings.server.max_choices, sampled=sampled, stream=stream)
    model = served.get()
    lora = _adapter(model, parameters.adapter_id)
    prompt_ids = await _prompt_ids(model, body)
    grammar = None
    if parameters.grammar is not None:
        found = _constraint(parameters.grammar)
        grammar = (
            await compiled(model, settings.guidance, found, param="parameters.grammar.value", stream=stream)
        ).grammar
    best_of = parameters.best_of or 1
    request = GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompt_ids=prompt_ids,
        sampling=SamplingParams(
            max_tokens=_max_tokens(model, len(prompt_ids), parameters.max_new_tokens),
            temperature=(parameters.temperature or 1.0) if sampled else 0.0,
            top_k=parameters.top_k or 0,
            top_p=parameters.top_p or 1.0,
            typical_p=parameters.typical_p or 1.0,
            repetition_penalty=parameters.repetition_penalty or 1.0,
            frequency_penalty=parameters.frequency_penalty or 0.0,
            logprobs=(parameters.top_n_tokens or 0) if stream or with_details(parameters) or best_of > 1 else None,
        ),
        grammar=grammar,
        stop=tuple(parameters.stop),
        lora=lora,
    )
    text = TextOptions(keep_leading_space=True, include_stop_string=True)
    budget = CheckBudget(settings.guidance.check_attempts, settings.guidance.check_tokens)
    answers = []
    for i in range(best_of):
        seed = parameters.seed
        if seed is None:
            seed = secrets.randbits(63)
        # All of them have one prompt: it is enough to ask the first one about it.
        about_prompt = 0 if parameters.decoder_input_details and i == 0 else None
        sampling = replace(request.sampling, seed=seed, prompt_logprobs=about_prompt)
        one = replace(request, request_id=f"{request.request_id}-{i}", sampling=sampling)
        answers.append(Seeded(Answer(model, one, text, budget), seed if sampled else None))
    return answers


def with_details(parameters: GenerateParameters) -> bool:
    """Whether the answer has details."""
    return parameters.details or parameters.decoder_input_details


def _is_sampled(parameters: GenerateParameters) -> bool:
    """Whether its `NextTokenChooser` would sample: a temperature of 1 alone does not."""
    return (
        parameters.do_sample
        or parameters.temperature not in (None, 1.0)
        or parameters.top_k is not None
        or parameters.top_p is not None
        or parameters.typical_p not in (None, 1.0)
    )


def _check(parameters: GenerateParameters, *, max_best_of: int, sampled: bool, stream: bool) -> None:
    def refuse(name: str, message: str) -> None:
        raise InvalidRequest(f"`{name}` {message}", param=f"parameters.{name}")

    best_of = parameters.best_of or 1
    if best_of > max_best_of:
        refuse("best_of", f"must be > 0 and <= {max_best_of}. Given: {best_of}")
    if best_of > 1 and stream:
        refuse("best_of", "!= 1 is not supported when streaming tokens")
    if best_of > 1 and not sampled:
        refuse("best_of", "> 1 needs sampling: set `do_sample`")
    if best_of > 1 and parameters.seed is not None:
        refuse("seed", "must not be set when `best_of` > 1")
    if parameters.decoder_input_details and stream:
        refuse("decoder_input_details", "== true is not supported when streaming tokens")
    if (parameters.top_n_tokens or 0) > MAX_LOGPROBS:
        refuse("top_n_tokens", f"must be >= 0 and <= {MAX_LOGPROBS}. Given: {parameters.top_n_tokens}")
    if parameters.watermark:
        raise Unsupported(
            "`watermark` is not supported: a watermark shifts probabilities between tokens, and under a grammar there "
            "is often only one token to choose. Leave it out.",
            param="parameters.watermark",
        )


def _adapter(model: LoadedModel, name: str | None) -> LoraAdapter | None:
    if name is None:
        return None
    if model.adapters is None:
        raise Unsupported(
            "`adapter_id` is not supported: this service has no adapters. Leave it out, or set lora.folder, where they "
            "are.",
            param="parameters.adapter_id",
        )
    return model.adapters.get(name, param="parameters.adapter_id")


async def _prompt_ids(model: LoadedModel, body: TGIGenerateBody) -> tuple[int, ...]:
    context = model.executor.limits().max_model_len
    truncate = body.parameters.truncate
    if truncate is not None and truncate >= context:
        raise InvalidRequest(
            f"`truncate` must be less than the model's context of {context} tokens. Given: {truncate}",
            param="parameters.truncate",
        )
    prompt_ids = await off_the_loop(
        len(body.inputs),
        lambda: model.prompts.completion(body.inputs, context=None if truncate is not None else context),
    )
    return prompt_ids if truncate is None else prompt_ids[-truncate:]


def _max_tokens(model: LoadedModel, prompt_tokens: int, max_new_tokens: int | None) -> int:
    context = model.executor.limits().max_model_len
    if prompt_tokens >= context:
        raise ContextLengthExceeded(
            f"`inputs` must have less than {context} tokens. Given: {prompt_tokens}; `truncate` shortens them.",
            param="inputs",
        )
    if max_new_tokens is None:
        return context - prompt_tokens
    if prompt_tokens + max_new_tokens > context:
        raise ContextLengthExceeded(
            f"`inputs` tokens + `max_new_tokens` must be <= {context}. Given: {prompt_tokens} `inputs` tokens and "
            f"{max_new_tokens} `max_new_tokens`",
            param="parameters.max_new_tokens",
        )
    return max_new_tokens


def _constraint(grammar: Grammar) -> Constraint:
    match grammar:
        case RegexGrammar(value=pattern):
            return constraint.regex(pattern)
        case JsonSchemaGrammar(value=named):
            return constraint.json_schema(named.schema_)
        case JsonGrammar(value=schema):
            return constraint.json_schema(_parsed(schema) if isinstance(schema, str) else schema)


def _parsed(schema: str) -> object:
    try:
        return from_json(schema, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidGrammar(f"The schema is not valid JSON: {error}.") from None

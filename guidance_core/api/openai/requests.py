"""A checked body → a `GenerationRequest`: the part that chat completions and completions share."""

from __future__ import annotations

import uuid

from guidance_core.api.bad_words import bad_token_ids
from guidance_core.api.constrained import compiled
from guidance_core.api.openai.bodies import AnswerFields, GenerationBody
from guidance_core.api.openai.constraints import FieldConstraint
from guidance_core.api.resampling import SMALLEST_TOP_P, CheckBudget
from guidance_core.api.served_model import LoadedModel
from guidance_core.config import GuidanceSettings, ServerSettings
from guidance_core.errors import ContextLengthExceeded, InvalidRequest
from guidance_core.generation import GenerationRequest, Grammar, LoraAdapter, PromptImage, SamplingParams
from guidance_core.grammar.compiler import Compilation


async def compilation_of(
    model: LoadedModel, settings: GuidanceSettings, found: FieldConstraint | None, *, stream: bool
) -> Compilation | None:
    """The compiled constraint of a request.

    Raises:
        InvalidGrammar: it does not compile; ``param`` names the field.
        Unsupported: a stream of what is checked as a whole, where these are refused.
    """
    if found is None:
        return None
    return await compiled(model, settings, found.constraint, param=found.param, stream=stream)


def check_budget(settings: GuidanceSettings, body: GenerationBody) -> CheckBudget:
    """What a choice may cost whose answer is checked.

    Raises:
        InvalidRequest: more attempts than this service makes.
    """
    attempts = body.check_attempts or settings.check_attempts
    if attempts > settings.check_attempts:
        raise InvalidRequest(
            f"'check_attempts' is {attempts}; at most {settings.check_attempts} attempts are made.",
            param="check_attempts",
        )
    return CheckBudget(attempts, settings.check_tokens)


def generation_request(
    model: LoadedModel,
    settings: ServerSettings,
    body: GenerationBody,
    *,
    prompt_ids: tuple[int, ...],
    max_tokens: int | None,
    default_max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    grammar: Grammar | None,
    lora: LoraAdapter | None,
    images: tuple[PromptImage, ...] = (),
) -> GenerationRequest:
    """Put a request together.

    Raises:
        InvalidRequest: values that contradict each other or this service's limits.
    """
    _check_constraint_options(body, grammar, max_tokens)
    if max_tokens is None:
        max_tokens = default_max_tokens
    if body.n > settings.max_choices:
        raise InvalidRequest(f"'n' is {body.n}; at most {settings.max_choices} choices are answered.", param="n")
    if body.min_tokens > max_tokens:
        raise InvalidRequest(
            f"'min_tokens' is {body.min_tokens}, more than 'max_tokens' ({max_tokens}).", param="min_tokens"
        )
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' needs 'stream': true.", param="stream_options")
    if body.include_guidance and body.stream and not (body.stream_options and body.stream_options.include_usage):
        raise InvalidRequest(
            "'include_guidance' adds to the usage, which a stream only has with "
            "'stream_options': {'include_usage': true}.",
            param="include_guidance",
        )
    if body.prompt_logprobs is not None and body.stream:
        raise InvalidRequest(
            "'prompt_logprobs' have no place in a stream: leave out 'stream'.", param="prompt_logprobs"
        )
    return GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompt_ids=prompt_ids,
        sampling=SamplingParams(
            max_tokens=max_tokens,
            min_tokens=body.min_tokens,
            n=body.n,
            temperature=body.temperature,
            top_k=max(body.top_k or 0, 0),
            top_p=max(body.top_p, SMALLEST_TOP_P),
            min_p=body.min_p,
            typical_p=body.typical_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias=_logit_bias(body, model.executor.limits().vocab_size),
            seed=body.seed,
            # A log of the grammar needs the tokens, which come with their logprobs.
            logprobs=0 if logprobs is None and logged_grammar(body, grammar) is not None else logprobs,
            prompt_logprobs=prompt_logprobs,
            stop_token_ids=tuple(body.stop_token_ids or ()),
            ignore_eos=body.ignore_eos,
            bad_token_ids=bad_token_ids(model.prompts, body.bad_words or (), param="bad_words"),
        ),
        grammar=grammar,
        stop=tuple(body.stop or ()),
        complete=body.fit_to_max_tokens,
        token_ids=body.return_token_ids,
        measure_mass=body.include_guidance and grammar is not None,
        lora=lora,
        priority=body.priority,
        images=images,
    )


def logged_grammar(body: AnswerFields, grammar: Grammar | None) -> Grammar | None:
    """The grammar on which llguidance shall report, or None."""
    return grammar if body.llg_log_level in ("json", "verbose") else None


def _check_constraint_options(body: GenerationBody, grammar: Grammar | None, max_tokens: int | None) -> None:
    """Refuse options that would have no effect."""
    if grammar is None:
        for option, given in (("fit_to_max_tokens", body.fit_to_max_tokens), ("check_attempts", body.check_attempts)):
            if given:
                raise InvalidRequest(
                    f"{option!r} is about a constrained answer: add a constraint, such as 'response_format', or leave "
                    "it out.",
                    param=option,
                )
    if body.fit_to_max_tokens and max_tokens is None:
        raise InvalidRequest(
            "'fit_to_max_tokens' needs 'max_tokens': how many tokens the answer shall fit into.",
            param="fit_to_max_tokens",
        )


def truncated(
    model: LoadedModel, body: GenerationBody, prompt_ids: tuple[int, ...], *, images: int = 0
) -> tuple[int, ...]:
    """The end of a prompt, as ``truncate_prompt_tokens`` says; at least one token of the context is left to answer.

    Args:
        model: answers it.
        body: the request.
        prompt_ids: of the whole prompt.
        images: how many the prompt has.

    Raises:
        InvalidRequest: it asks for no token at all, or would cut images.
    """
    kept = body.truncate_prompt_tokens
    if kept == 0:
        raise InvalidRequest(
            "'truncate_prompt_tokens' is 0, which leaves nothing: give it at least 1, or -1 for all that fit.",
            param="truncate_prompt_tokens",
        )
    if kept == -1:
        kept = model.executor.limits().max_model_len - (body.max_tokens or 1)
    if images and kept is not None and max(kept, 1) < len(prompt_ids):
        raise InvalidRequest(
            f"'truncate_prompt_tokens' would cut a prompt with images ({images} in {len(prompt_ids)} tokens): shorten "
            "the messages instead.",
            param="truncate_prompt_tokens",
        )
    return prompt_ids if kept is None else prompt_ids[-max(kept, 1) :]


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
        # Python refuses to read numbers of thousands of digits.
        if not (key.isascii() and key.isdecimal() and len(key) < 20 and int(key) < vocab_size):
            raise InvalidRequest(
                f"'logit_bias' has the key {key!r}; keys are token ids below {vocab_size}, as strings.",
                param="logit_bias",
            )
        bias[int(key)] = value
    return bias

"""What every executor refuses: values out of range, tokens that the model does not have, prompts that do not fit."""

from __future__ import annotations

import math
from collections.abc import Container

from guidance_core.errors import ContextLengthExceeded, InvalidRequest, QueueFull, Unsupported
from guidance_core.executors.base import ModelLimits
from guidance_core.generation import GenerationRequest, SamplingParams

MAX_LOGPROBS = 20


def check_request(request: GenerationRequest, limits: ModelLimits, *, max_choices: int) -> None:
    """Refuse a request that the model cannot answer.

    Args:
        request: any.
        limits: the model's.
        max_choices: largest ``n``.

    Raises:
        InvalidRequest: a value out of range; ``param`` names the field of `SamplingParams`, ``prompt`` or
            ``fit_to_max_tokens``.
        ContextLengthExceeded: prompt and ``max_tokens`` do not fit.
    """
    prompt, sampling = request.prompt_ids, request.sampling
    if not prompt:
        raise InvalidRequest("The prompt is empty: it must have at least one token.", param="prompt")
    _check_tokens("prompt", (min(prompt), max(prompt)), limits)
    _check_ranges(sampling, limits, max_choices)
    if request.complete and request.grammar is None:
        raise InvalidRequest(
            "Without a constraint there is nothing that an answer could be a complete instance of: add one, or leave "
            "'fit_to_max_tokens' out.",
            param="fit_to_max_tokens",
        )
    total = len(prompt) + sampling.max_tokens
    if total > limits.max_model_len:
        room = limits.max_model_len - len(prompt)
        mend = f"lower max_tokens to {room} or less, or shorten the prompt" if room > 0 else "shorten the prompt"
        raise ContextLengthExceeded(
            f"This model's context is {limits.max_model_len} tokens, but the request needs {total}: {len(prompt)} of "
            f"the prompt and {sampling.max_tokens} of the answer (max_tokens). To mend it, {mend}.",
            param="max_tokens" if room > 0 else "prompt",
        )


def check_room(request: GenerationRequest, *, in_flight: Container[str], open_choices: int, capacity: int) -> None:
    """Refuse a request that cannot be told from another one, or for which there is no room.

    Args:
        request: any.
        in_flight: ids of the requests that are being answered.
        open_choices: answers that are being generated or waited for.
        capacity: most of them at once.

    Raises:
        InvalidRequest: its id is taken, or it asks for more choices than ever fit.
        QueueFull: there is no room now.
    """
    if request.request_id in in_flight:
        raise InvalidRequest(f"A request with the id {request.request_id!r} is in flight already: use another id.")
    n = request.sampling.n
    if n > capacity:
        raise InvalidRequest(f"n is {n}, but at most {capacity} fit at once.", param="n")
    if open_choices + n > capacity:
        raise QueueFull(
            f"{open_choices} answers are being generated or waited for, and {capacity} fit: try again later.",
            retry_after=1,
        )


def refuse_lora(request: GenerationRequest, mend: str) -> None:
    """Refuse an adapter where there are none.

    Raises:
        Unsupported: the request wants one; ``mend`` says what to do.
    """
    if request.lora is not None:
        raise Unsupported(f"The adapter {request.lora.name!r} cannot be applied: {mend}", param="lora_model")


def refuse_images(request: GenerationRequest, reason: str) -> None:
    """Refuse images where the model or the executor takes none.

    Raises:
        Unsupported: the request has some; ``reason`` says why that does not work.
    """
    if request.images:
        raise Unsupported(f"Images are not taken here: {reason}. Send text only.", param="messages")


def refuse_priority(request: GenerationRequest, executor: str) -> None:
    """Refuse a priority where the executor has an order of its own.

    Raises:
        Unsupported: the request has one.
    """
    if request.priority:
        raise Unsupported(
            f"priority is {request.priority}, but the executor '{executor}' starts requests in the order in which they "
            "come: leave it out.",
            param="priority",
        )


def refuse_bad_words(request: GenerationRequest, executor: str) -> None:
    """Refuse sequences that must not come where the executor cannot forbid them.

    Raises:
        Unsupported: the request has some.
    """
    if request.sampling.bad_token_ids:
        raise Unsupported(f"The executor '{executor}' forbids no bad_words: leave them out.", param="bad_words")


def refuse_prompt_logprobs(request: GenerationRequest, executor: str) -> None:
    """Refuse log-probabilities of the prompt, and with them answers of no tokens, where the executor has none.

    Raises:
        Unsupported: the request asks for them.
    """
    if request.sampling.prompt_logprobs is not None:
        raise Unsupported(
            f"The executor '{executor}' answers no log-probabilities of the prompt: leave out what asks for them "
            "('prompt_logprobs', 'echo' with 'logprobs', 'decoder_input_details').",
            param="prompt_logprobs",
        )
    if request.sampling.max_tokens == 0:
        raise Unsupported(
            f"max_tokens is 0, but the executor '{executor}' answers at least one token: make it 1.", param="max_tokens"
        )


def _check_ranges(sampling: SamplingParams, limits: ModelLimits, max_choices: int) -> None:
    def require(holds: bool, name: str, wanted: str) -> None:
        if not holds:
            raise InvalidRequest(f"{name} is {getattr(sampling, name)!r}, but it must be {wanted}.", param=name)

    require(sampling.max_tokens >= 0, "max_tokens", "at least 0")
    require(0 <= sampling.min_tokens <= sampling.max_tokens, "min_tokens", "from 0 to max_tokens")
    require(1 <= sampling.n <= max_choices, "n", f"from 1 to {max_choices}")
    require(0 <= sampling.temperature < math.inf, "temperature", "a finite number, 0 or more")
    require(sampling.top_k >= 0, "top_k", "0 (keep all) or more")
    require(0 < sampling.top_p <= 1, "top_p", "above 0 and at most 1")
    require(0 <= sampling.min_p <= 1, "min_p", "from 0 to 1")
    require(0 < sampling.typical_p <= 1, "typical_p", "above 0 and at most 1")
    require(0 < sampling.repetition_penalty < math.inf, "repetition_penalty", "a finite number above 0")
    require(math.isfinite(sampling.presence_penalty), "presence_penalty", "a finite number")
    require(math.isfinite(sampling.frequency_penalty), "frequency_penalty", "a finite number")
    for name in ("logprobs", "prompt_logprobs"):
        count = getattr(sampling, name)
        require(count is None or 0 <= count <= MAX_LOGPROBS, name, f"from 0 to {MAX_LOGPROBS}")
    _check_tokens("logit_bias", sampling.logit_bias, limits)
    require(all(map(math.isfinite, sampling.logit_bias.values())), "logit_bias", "finite numbers")
    _check_tokens("stop_token_ids", sampling.stop_token_ids, limits)
    require(all(sampling.bad_token_ids), "bad_token_ids", "sequences of at least one token")
    for sequence in sampling.bad_token_ids:
        _check_tokens("bad_token_ids", sequence, limits)


def _check_tokens(name: str, token_ids: tuple[int, ...] | dict[int, float], limits: ModelLimits) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < limits.vocab_size:
            raise InvalidRequest(
                f"{name} has the token id {token_id}, but the model's are 0 to {limits.vocab_size - 1}.", param=name
            )

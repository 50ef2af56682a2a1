"""Token usage as OpenAI counts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidance_core.api.answer import Answer
from guidance_core.api.openai.guidance_details import guidance_details
from guidance_core.grammar.compiler import Compilation


def usage_of(answers: Sequence[Answer], compilation: Compilation | None, *, with_guidance: bool) -> dict[str, Any]:
    """The usage of a request's answers together.

    Args:
        answers: as far as they have come.
        compilation: of the request's constraint, if it has one.
        with_guidance: add `guidance_details`, or null where there is no constraint.
    """
    prompt = sum(answer.prompt_tokens for answer in answers)
    completion = sum(answer.completion_tokens for answer in answers)
    images = sum(answer.image_tokens for answer in answers)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(answer.cached_tokens for answer in answers),
            "audio_tokens": 0,
            **({"image_tokens": images} if images else {}),
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(answer.reasoning_tokens for answer in answers),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    if with_guidance:
        usage["guidance"] = None if compilation is None else guidance_details(answers, compilation)
    return usage

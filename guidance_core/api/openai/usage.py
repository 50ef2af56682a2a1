"""Token usage as OpenAI counts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidance_core.api.answer import Answer


def usage_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """The usage of a request's answers together."""
    prompt = sum(answer.prompt_tokens for answer in answers)
    completion = sum(answer.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(answer.cached_tokens for answer in answers),
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }

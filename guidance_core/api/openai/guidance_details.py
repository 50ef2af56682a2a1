"""What guidance did for a request, as its usage tells it; `schemas.GuidanceDetails` describes fields and units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from guidance_core.api.answer import Answer
from guidance_core.api.choice_guidance import ChoiceGuidance
from guidance_core.grammar.compiler import Compilation

_SMALLEST_MASS = 2.0**-126
"""Of float32's normal numbers; less is as good as nothing, and JSON has no infinity for the bits of 0."""


def guidance_details(answers: Sequence[Answer], compilation: Compilation) -> dict[str, Any]:
    """The details of a request's answers together, their choices numbered as in the answer."""
    grammar = compilation.grammar
    choices = [
        _choice(*choice)
        for answer in answers
        for choice in zip(answer.attempts, answer.discarded_tokens, answer.guidance, strict=True)
    ]
    return {
        "kind": grammar.kind,
        "route": grammar.route,
        "notes": list(grammar.notes),
        "compile_ms": round(compilation.seconds * 1e3, 3),
        "cached": compilation.cached,
        "choices": [{"index": index, **choice} for index, choice in enumerate(choices)],
    }


def _choice(attempts: int, discarded_tokens: int, guidance: ChoiceGuidance) -> dict[str, Any]:
    masses = guidance.allowed_mass
    bits = [-math.log2(min(max(mass, _SMALLEST_MASS), 1.0)) for mass in masses]
    return {
        "attempts": attempts,
        "discarded_tokens": discarded_tokens,
        "forced_tokens": guidance.forced_tokens,
        "mask_us": _microseconds(guidance.mask_seconds),
        "wait_us": _microseconds(guidance.wait_seconds),
        "allowed_mass": {"mean": math.fsum(masses) / len(masses), "min": min(masses)} if masses else None,
        "surprise_bits": {"total": math.fsum(bits), "max": max(bits)} if bits else None,
    }


def _microseconds(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    ordered = sorted(seconds)

    def percentile(share: float) -> float:
        return round(ordered[math.ceil(share * len(ordered)) - 1] * 1e6, 1)

    return {"p50": percentile(0.5), "p99": percentile(0.99), "total": round(math.fsum(ordered) * 1e6, 1)}

"""How long a model may think, as requests say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from guidance_core.api.attempt import Thinking
from guidance_core.api.openai.constraints import FieldConstraint
from guidance_core.errors import InvalidRequest, Unsupported
from guidance_core.grammar.constraint import reasoned
from guidance_core.grammar.reasoning import Thoughts

Budgeted = Literal["minimal", "low", "medium", "high", "xhigh", "max"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def thoughts_of(
    thinking: Thinking | None,
    budgets: Mapping[Budgeted, int | None],
    *,
    effort: ReasoningEffort | None,
    min_tokens: int | None,
    max_tokens: int | None,
) -> Thoughts | None:
    """The bounds on a request's thoughts; None where the model has none.

    Args:
        thinking: of the model.
        budgets: effort → most tokens.
        effort: of the request.
        min_tokens: of the request; goes before the effort.
        max_tokens: likewise.

    Raises:
        Unsupported: bounds on thoughts that the model does not have.
        InvalidRequest: bounds that contradict each other.
    """
    asked = {"min_thinking_tokens": min_tokens, "max_thinking_tokens": max_tokens}
    if thinking is None:
        given = [name for name, value in asked.items() if value is not None]
        if effort not in (None, "none"):
            given.append("reasoning_effort")
        if given:
            raise Unsupported(f"{given[0]!r} is for models that think first; this one does not.", param=given[0])
        return None
    most = max_tokens
    if most is None and effort is not None:
        most = 0 if effort == "none" else budgets.get(effort)
    least = min_tokens or 0
    if most is not None and least > most:
        raise InvalidRequest(
            f"'min_thinking_tokens' is {least}, more than the most that the model may think ({most} tokens).",
            param="min_thinking_tokens",
        )
    markers = thinking.markers
    return Thoughts(
        begin_id=None if thinking.begun else markers.begin_id,
        end_id=markers.end_id,
        excluded_ids=markers.special_ids,
        min_tokens=least,
        max_tokens=most,
    )


def with_thoughts(thoughts: Thoughts | None, answer: FieldConstraint | None) -> FieldConstraint | None:
    """What a whole message must be; None where nothing is asked of it."""
    if thoughts is None or (answer is None and thoughts.min_tokens == 0 and thoughts.max_tokens is None):
        return answer
    if answer is None:
        return FieldConstraint(reasoned(thoughts, None), "reasoning_effort")
    return FieldConstraint(reasoned(thoughts, answer.constraint), answer.param)

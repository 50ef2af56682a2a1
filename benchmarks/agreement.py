"""How often greedy answers equal those of `transformers`' ``generate``, token by token.

In bfloat16 they cannot always: sums of rounded numbers depend on their order, and two tokens that are nearly as likely
may change places. From there on the answers are different texts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of greedy answers to the same prompts.

    Attributes:
        prompts: how many were compared.
        identical_answers: share of the answers that are equal to the last token.
        equal_prefix: mean share of an answer before the first token that differs.
    """

    prompts: int
    identical_answers: float
    equal_prefix: float


def compare(answers: list[list[int]], references: list[list[int]]) -> Agreement:
    """Compare answers with references, prompt by prompt."""
    pairs = list(zip(answers, references, strict=True))
    return Agreement(
        prompts=len(pairs),
        identical_answers=sum(answer == reference for answer, reference in pairs) / len(pairs),
        equal_prefix=sum(_equal_prefix(answer, reference) for answer, reference in pairs) / len(pairs),
    )


def _equal_prefix(answer: list[int], reference: list[int]) -> float:
    longest = max(len(answer), len(reference))
    for position, (left, right) in enumerate(zip(answer, reference, strict=False)):
        if left != right:
            return position / longest
    return min(len(answer), len(reference)) / longest if longest else 1.0

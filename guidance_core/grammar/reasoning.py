"""Thoughts before an answer → one grammar, which counts them in tokens.

llguidance can repeat "any token but these" a given number of times, so that bounds on thinking are exact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from guidance_core.grammar.json_schema import Translation


@dataclass(frozen=True, slots=True)
class Thoughts:
    """What may come before an answer.

    Attributes:
        begin_id: the token that begins it; None where the prompt has begun it.
        end_id: the token that ends it.
        excluded_ids: tokens that are no part of it (besides the two).
        min_tokens: fewest tokens in it; above 0, the model must think.
        max_tokens: most tokens in it, or None.
    """

    begin_id: int | None
    end_id: int
    excluded_ids: Sequence[int]
    min_tokens: int
    max_tokens: int | None


def with_thoughts(thoughts: Thoughts, answer: Translation | None, *, gap: bool = True) -> Translation:
    """Llguidance's grammar for thoughts, then an answer.

    Args:
        thoughts: see there.
        answer: what follows; None for any text.
        gap: line breaks may stand between the two, part of neither. Only where no answer begins with one: whose it is
            could not be told.
    """
    excluded = sorted({thoughts.end_id, *thoughts.excluded_ids})
    if thoughts.begin_id is not None:
        excluded = sorted({*excluded, thoughts.begin_id})
    most = "" if thoughts.max_tokens is None else thoughts.max_tokens
    repeated = f"<[^{','.join(map(str, excluded))}]>{{{thoughts.min_tokens},{most}}}" if most != 0 else ""
    # Templates put up to two line breaks between thoughts and answer.
    thinking = f"{repeated} <[{thoughts.end_id}]>" + (r" /\n{0,2}/" if gap and answer is not None else "")
    if thoughts.begin_id is not None:
        thinking = f"<[{thoughts.begin_id}]> {thinking}"
        if thoughts.min_tokens == 0:
            thinking = f"({thinking})?"
    following = "@after_thoughts" if answer is not None else "/(?s:.*)/"
    lark = f"%llguidance {{}}\nstart: {thinking} {following}"
    grammars = [{"name": "message", "lark_grammar": lark}]
    if answer is None:
        return Translation(json.dumps({"grammars": grammars}))
    grammars += answer.named("after_thoughts")
    source = json.dumps({"grammars": grammars}, ensure_ascii=False)
    return Translation(source, answer.route, answer.check, answer.notes, gap_after_thoughts=gap)

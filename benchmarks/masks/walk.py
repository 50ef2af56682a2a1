"""One schema through one engine: what it cost, and whether the engine judged the given instances rightly."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.masks.engines import Engine, Ours

Outcome = Literal["compiled", "refused", "timed out", "crashed", "failed"]


@dataclass(slots=True)
class Walk:
    """What became of a schema. Times are seconds.

    Attributes:
        name: the schema's.
        outcome: ``refused`` says the engine, ``failed`` it says only once a text is walked.
        reason: why it did not compile.
        compile: from the schema to what matchers are made of.
        first_matcher: where the running batch compiles once more, in a process of its own: from there to the matcher.
        compile_again: from the same schema, again and again, to its matcher, for engines with a cache.
        masks: filling the mask, for each token.
        tokens: filling the mask and going on by the token.
        valid, invalid: how many instances were judged.
        valid_rejected, invalid_accepted: how many of them wrongly.
    """

    name: str
    outcome: Outcome = "compiled"
    reason: str = ""
    compile: float = 0.0
    first_matcher: float | None = None
    compile_again: float | None = None
    masks: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    valid: int = 0
    invalid: int = 0
    valid_rejected: int = 0
    invalid_accepted: int = 0


def walk_schema(engine: Engine, entry: dict[str, Any]) -> Walk:
    """Compile a schema and walk its instances, valid and invalid, token by token.

    Args:
        engine: walks.
        entry: ``name``, ``schema``, and ``tests`` with ``data`` and whether it is ``valid``.
    """
    walk = Walk(entry["name"])
    try:
        walk.compile = engine.compile(entry["schema"])
    except Exception as error:
        walk.outcome, walk.reason = "refused", str(error)[:300]
        return walk
    if isinstance(engine, Ours):
        walk.first_matcher = engine.first_matcher()
        walk.compile_again = engine.compile_again(entry["schema"])
    try:
        for test in entry["tests"]:
            accepted = _walk_text(engine, json.dumps(test["data"], ensure_ascii=False), walk)
            if test["valid"]:
                walk.valid += 1
                walk.valid_rejected += not accepted
            else:
                walk.invalid += 1
                walk.invalid_accepted += accepted
    except Exception as error:
        walk.outcome, walk.reason = "failed", str(error)[:300]
    return walk


def _walk_text(engine: Engine, text: str, walk: Walk) -> bool:
    """Whether masks allow every token of a text and then the end."""
    engine.start()
    for token in engine.tokenizer.tokenize_bytes(text.encode()):
        walk.masks.append(engine.fill())
        if not engine.allows(token):
            return False
        walk.tokens.append(walk.masks[-1] + engine.advance(token))
    walk.masks.append(engine.fill())
    return engine.allows(engine.eos_token_id) and engine.takes(text)

"""Llguidance's reports on an answer, as llgtrt writes them: a line ``JSON-OUT: {…}`` each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from typing_extensions import Self

from guidance_core.api.json_text import finite, json_ascii
from guidance_core.api.served_model import LoadedModel
from guidance_core.generation import Grammar
from guidance_core.grammar.replay import Replay, Report
from guidance_core.output import TextDelta


class GrammarLog:
    """Follows the choices of a request through its grammar. Their pieces need logprobs, which name the tokens."""

    def __init__(self, replays: Sequence[Replay]) -> None:
        """Take one for each choice; none at all for a log that stays empty."""
        self._replays = replays

    @classmethod
    async def of(cls, model: LoadedModel, grammar: Grammar | None, *, choices: int) -> Self:
        """A log of so many choices, which stays empty without a grammar."""
        if grammar is None:
            return cls(())
        grammars = model.grammars
        return cls(await grammars.run(grammar, lambda: [grammars.replay(grammar) for _ in range(choices)]))

    async def lines(self, choice: int, piece: TextDelta) -> str:
        """What the next piece of a choice adds."""
        if not self._replays:
            return ""
        reports = await asyncio.to_thread(_reports, self._replays[choice], piece)
        return "".join(f"JSON-OUT: {json_ascii(report)}\n" for report in reports)


def _reports(replay: Replay, piece: TextDelta) -> list[Report]:
    reports: list[Report] = []
    for entry in piece.logprobs or ():
        for report in replay.push([entry.token_id]):
            # Llguidance leaves a text's logprob at zero, as it does not know it.
            if report["object"] == "text" and report["num_tokens"]:
                report["log_prob"] = finite(entry.logprob)
            reports.append(report)
    return reports + replay.finish() if piece.finish_reason == "stop" else reports

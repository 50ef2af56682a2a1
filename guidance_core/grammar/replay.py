"""What llguidance has to tell about an answer: its captures, and the text as the parser saw it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llguidance import LLInterpreter, LLParserLimits, LLTokenizer

Report = dict[str, Any]
"""One of llguidance's progress objects (its ``parser/src/output.rs``): ``object`` is ``text``, ``capture`` or
``final_text``; bytes come as text (``str``) and in hexadecimal (``hex``)."""


class Replay:
    """Follows an answer through its grammar, token by token.

    Each call takes up to some milliseconds, as computing a mask does: callers on an event loop use a thread.
    """

    def __init__(self, tokenizer: LLTokenizer, source: str, limits: LLParserLimits) -> None:
        """Start at the beginning of a validated grammar."""
        self._end_token = tokenizer.eos_token
        self._interpreter = LLInterpreter(
            tokenizer, source, enable_backtrack=False, enable_ff_tokens=False, log_level=0, limits=limits
        )
        self._interpreter.start_without_prompt()
        self._stopped = False
        self._progress()

    def push(self, token_ids: Sequence[int]) -> list[Report]:
        """The reports on the next tokens of the answer."""
        return [report for token in token_ids if not self._stopped for report in self._commit(token)]

    def finish(self) -> list[Report]:
        """The reports on the end of an answer; none where the tokens so far cannot end it."""
        # A stop string may have cut the answer inside its last token.
        if self._stopped or not self._interpreter.is_accepting():
            return []
        return self._commit(self._end_token)

    def _commit(self, token: int) -> list[Report]:
        self._interpreter.commit_token(token)
        return self._progress()

    def _progress(self) -> list[Report]:
        _, text = self._interpreter.compute_mask()
        step = json.loads(text)
        self._stopped = step["stop"]
        reports: list[Report] = step["progress"]
        return reports

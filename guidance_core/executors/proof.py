"""Checks that a constrained answer is what it must be, where others guide it: their guidance is not believed.

Each answer under a grammar goes through a matcher of ours as it streams. What deviates is an error, never an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import GenerationFailed
from guidance_core.generation import Grammar
from guidance_core.grammar.consuming import consume_text
from guidance_core.grammar.standing import has_ended, may_end, may_end_with
from guidance_core.guidance.prototypes import Prototypes


def left_grammar(what: str) -> GenerationFailed:
    """The error of an answer that is not what it must be."""
    return GenerationFailed(f"The answer left the grammar that it was to follow ({what}), so it is withheld.")


Deviation = Callable[[str], GenerationFailed]
"""What is wrong with an answer → the error that says so."""


class Proof:
    """One answer's way through its grammar."""

    def __init__(self, matcher: LLMatcher, tokenizer: LLTokenizer, deviation: Deviation = left_grammar) -> None:
        """Start at the grammar's beginning.

        Args:
            matcher: a copy of its own.
            tokenizer: the matcher's.
            deviation: makes the error of an answer that leaves the grammar.
        """
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._deviation = deviation

    def take_tokens(self, token_ids: Sequence[int]) -> None:
        """The answer's next tokens, no end token among them.

        Raises:
            GenerationFailed: they leave the grammar.
        """
        if not token_ids:
            return
        taken = self._matcher.try_consume_tokens(list(token_ids))
        if self._matcher.is_error():
            raise self._deviation(self._matcher.get_error())
        if taken < len(token_ids):
            raise self._deviation(f"token {token_ids[taken]} is not allowed there")

    def take_text(self, text: str) -> None:
        """The answer's next text, however its tokens were cut.

        Raises:
            GenerationFailed: it leaves the grammar.
        """
        if not consume_text(self._matcher, self._tokenizer, text.encode()):
            raise self._deviation(f"{text!r} is not allowed there")

    @property
    def accepting(self) -> bool:
        """The answer so far is in the grammar."""
        return may_end(self._matcher)

    def may_end_with(self, token_id: int) -> bool:
        """Whether the answer so far is in the grammar with this end token behind it, which the grammar may name."""
        return may_end_with(self._matcher, token_id)

    @property
    def stopped(self) -> bool:
        """The answer so far is in the grammar, and nothing longer is."""
        return has_ended(self._matcher)


class Proofs:
    """Makes the proofs of all requests; a grammar that comes again is compiled once.

    Attributes:
        tokenizer: of the model.
        prototypes: of the proofs' matchers.
    """

    def __init__(self, tokenizer: LLTokenizer, settings: GuidanceSettings, deviation: Deviation = left_grammar) -> None:
        """Start the thread that compiles.

        Args:
            tokenizer: of the model.
            settings: what one grammar may cost.
            deviation: see `Proof`.
        """
        self.tokenizer = tokenizer
        self._deviation = deviation
        self.prototypes = Prototypes(tokenizer, settings, thread_name="proofs")

    async def start(self, grammar: Grammar) -> Proof:
        """A proof at the grammar's beginning.

        Raises:
            InvalidGrammar: llguidance does not take the grammar.
        """
        return Proof(await self.prototypes.copy_when_compiled(grammar), self.tokenizer, self._deviation)

    def close(self) -> None:
        """Stop the thread."""
        self.prototypes.close(wait=False)

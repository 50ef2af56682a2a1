"""Checks that a constrained answer is what it must be: the server's guidance is not ours, so it is not believed.

Each answer under a grammar goes through a matcher of ours as it streams. What deviates is an error, never an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import GenerationFailed
from guidance_core.generation import Grammar
from guidance_core.grammar.consuming import consume_text
from guidance_core.grammar.standing import has_ended, may_end
from guidance_core.guidance.prototypes import Prototypes


class Proof:
    """One answer's way through its grammar."""

    def __init__(self, matcher: LLMatcher, tokenizer: LLTokenizer) -> None:
        """Start at the grammar's beginning.

        Args:
            matcher: a copy of its own.
            tokenizer: the matcher's.
        """
        self._matcher = matcher
        self._tokenizer = tokenizer

    def take_tokens(self, token_ids: Sequence[int]) -> None:
        """The answer's next tokens, no end token among them.

        Raises:
            GenerationFailed: they leave the grammar.
        """
        if not token_ids:
            return
        taken = self._matcher.try_consume_tokens(list(token_ids))
        if taken < len(token_ids) or self._matcher.is_error():
            raise deviation(f"token {token_ids[taken]} is not allowed there" if taken < len(token_ids) else "it failed")

    def take_text(self, text: str) -> None:
        """The answer's next text, however its tokens were cut.

        Raises:
            GenerationFailed: it leaves the grammar.
        """
        if not consume_text(self._matcher, self._tokenizer, text.encode()):
            raise deviation(f"{text!r} is not allowed there")

    @property
    def accepting(self) -> bool:
        """The answer so far is in the grammar."""
        return may_end(self._matcher)

    @property
    def stopped(self) -> bool:
        """The answer so far is in the grammar, and nothing longer is."""
        return has_ended(self._matcher)


class Proofs:
    """Makes the proofs of all requests; a grammar that comes again is compiled once.

    Attributes:
        prototypes: of the proofs' matchers.
    """

    def __init__(self, tokenizer: LLTokenizer, settings: GuidanceSettings) -> None:
        """Start the thread that compiles."""
        self._tokenizer = tokenizer
        self.prototypes = Prototypes(tokenizer, settings, thread_name="triton-proofs")

    async def start(self, grammar: Grammar) -> Proof:
        """A proof at the grammar's beginning.

        Raises:
            InvalidGrammar: llguidance does not take the grammar.
        """
        return Proof(await self.prototypes.copy_when_compiled(grammar), self._tokenizer)

    def close(self) -> None:
        """Stop the thread."""
        self.prototypes.close(wait=False)


def deviation(what: str) -> GenerationFailed:
    """The error of an answer that is not what it must be."""
    return GenerationFailed(
        f"The Triton server's answer left the grammar that it was to follow ({what}), so it is withheld. Does its "
        "model have guided_decoding_backend and tokenizer_dir set? An equivalent constraint in other words may help."
    )

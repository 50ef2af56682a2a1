"""The service's own check of every constrained answer, whoever enforced its grammar."""

from __future__ import annotations

from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import GenerationFailed
from guidance_core.generation import Grammar
from guidance_core.grammar.standing import has_ended, may_end
from guidance_core.guidance.prototypes import Prototypes


class Proofs:
    """Makes a `Proof` for each constrained choice.

    Attributes:
        prototypes: of the proofs' matchers.

    Args:
        tokenizer: of the model.
        settings: what one grammar may cost.
    """

    def __init__(self, tokenizer: LLTokenizer, settings: GuidanceSettings) -> None:
        self.prototypes = Prototypes(tokenizer, settings, thread_name="trtllm-proofs")

    async def begin(self, grammar: Grammar) -> Proof:
        """A proof of nothing so far; compiles the grammar where it is not known.

        Raises:
            InvalidGrammar: llguidance does not take it.
        """
        return Proof(await self.prototypes.copy_when_compiled(grammar))

    def close(self) -> None:
        """Stop the thread."""
        self.prototypes.close(wait=False)


class Proof:
    """That a growing answer is the beginning of a text in the grammar.

    Args:
        matcher: at the grammar's start; nobody else uses it.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def take(self, token_id: int) -> None:
        """One more token of the answer, which is no end token.

        Raises:
            GenerationFailed: the grammar does not allow it here.
        """
        if self._matcher.try_consume_tokens([token_id]) != 1:
            why = self._matcher.get_error() if self._matcher.is_error() else f"token {token_id} is not allowed there"
            raise GenerationFailed(f"The model left the grammar: {why}")

    @property
    def complete(self) -> bool:
        """Whether the answer can only end here."""
        return has_ended(self._matcher)

    @property
    def accepting(self) -> bool:
        """Whether the answer is in the grammar."""
        return may_end(self._matcher)

"""The service's own check of every constrained answer, whoever enforced its grammar."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import Future

from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import GenerationFailed, InvalidGrammar
from guidance_core.generation import Grammar
from guidance_core.grammar.limits import parser_limits
from guidance_core.grammar.standing import MATCHERS_PER_LEXER, has_ended, may_end
from guidance_core.grammar.threads import deep_stack_pool


class Proofs:
    """Makes a `Proof` for each constrained choice.

    Args:
        tokenizer: of the model.
        settings: what one grammar may cost.
    """

    def __init__(self, tokenizer: LLTokenizer, settings: GuidanceSettings) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._limits = parser_limits(settings)
        self._threads = deep_stack_pool(1, "trtllm-proofs")
        self._prototypes: OrderedDict[str, tuple[Future[LLMatcher], int]] = OrderedDict()

    async def begin(self, grammar: Grammar) -> Proof:
        """A proof of nothing so far; compiles the grammar where it is not known.

        Raises:
            InvalidGrammar: llguidance does not take it.
        """
        compiled, copies = self._prototypes.get(grammar.key, (None, 0))
        if compiled is None or copies >= MATCHERS_PER_LEXER:
            compiled, copies = self._threads.submit(self._compile, grammar.source), 0
        self._prototypes[grammar.key] = compiled, copies + 1
        self._prototypes.move_to_end(grammar.key)
        while len(self._prototypes) > max(1, self._settings.cache_size):
            self._prototypes.popitem(last=False)
        # Shielded: a client that goes away must not cancel what another one waits for.
        matcher = await asyncio.shield(asyncio.wrap_future(compiled))
        if matcher.is_error():
            raise InvalidGrammar(matcher.get_error())
        return Proof(matcher.deep_copy())

    def close(self) -> None:
        """Stop the thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _compile(self, source: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, source, log_level=0, limits=self._limits)


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

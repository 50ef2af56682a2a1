"""Checks that a constrained answer is what it must be: the server's guidance is not ours, so it is not believed.

Each answer under a grammar goes through a matcher of ours as it streams. What deviates is an error, never an answer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import GenerationFailed, InvalidGrammar
from guidance_core.generation import Grammar
from guidance_core.grammar.limits import parser_limits
from guidance_core.grammar.standing import MATCHERS_PER_LEXER, has_ended, may_end
from guidance_core.grammar.threads import deep_stack_pool


@dataclass(slots=True)
class _Prototype:
    """A matcher at the grammar's start, perhaps still being compiled, to be copied for each answer."""

    matcher: asyncio.Future[LLMatcher]
    copies: int = 0


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
        tokens = self._tokenizer.tokenize_bytes(text.encode())
        if self._matcher.try_consume_tokens(tokens) < len(tokens) or self._matcher.is_error():
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
    """Makes the proofs of all requests; a grammar that comes again is compiled once."""

    def __init__(self, tokenizer: LLTokenizer, settings: GuidanceSettings) -> None:
        """Start the thread that compiles."""
        self._tokenizer = tokenizer
        self._settings = settings
        self._limits = parser_limits(settings)
        self._thread = deep_stack_pool(1, "triton-proofs")
        self._prototypes: OrderedDict[str, _Prototype] = OrderedDict()

    async def start(self, grammar: Grammar) -> Proof:
        """A proof at the grammar's beginning.

        Raises:
            InvalidGrammar: llguidance does not take the grammar.
        """
        prototype = self._prototypes.get(grammar.key)
        if prototype is None or prototype.matcher.cancelled() or prototype.copies >= MATCHERS_PER_LEXER:
            compiling = asyncio.get_running_loop().run_in_executor(self._thread, self._compile, grammar.source)
            prototype = self._prototypes[grammar.key] = _Prototype(compiling)
        prototype.copies += 1
        self._prototypes.move_to_end(grammar.key)
        while len(self._prototypes) > max(1, self._settings.cache_size):
            self._prototypes.popitem(last=False)
        # Shielded: a client that goes away must not cancel what another one waits for.
        matcher = await asyncio.shield(prototype.matcher)
        if matcher.is_error():
            raise InvalidGrammar(matcher.get_error())
        return Proof(matcher.deep_copy(), self._tokenizer)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compile(self, source: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, source, log_level=0, limits=self._limits)


def deviation(what: str) -> GenerationFailed:
    """The error of an answer that is not what it must be."""
    return GenerationFailed(
        f"The Triton server's answer left the grammar that it was to follow ({what}), so it is withheld. Does its "
        "model have guided_decoding_backend and tokenizer_dir set? An equivalent constraint in other words may help."
    )

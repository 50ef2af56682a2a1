"""Matchers at the beginning of their grammars: compiled once in a worker, kept by content, copied for each answer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import ExecutorUnavailable, InvalidGrammar
from guidance_core.generation import Grammar
from guidance_core.grammar.limits import parser_limits
from guidance_core.grammar.standing import MATCHERS_PER_LEXER, failure
from guidance_core.grammar.threads import Lanes, is_long
from guidance_core.guidance.shortest import Way

T = TypeVar("T")


@dataclass(slots=True)
class Prototype:
    """A matcher at its grammar's start, perhaps still being compiled.

    Attributes:
        matcher: never moved on; in an error state where llguidance does not take the grammar.
        shortest: a short whole answer, once somebody looked for one.
        copies: how many were made: they share a lexer.
    """

    matcher: Future[LLMatcher]
    shortest: Future[Way | None] | None = None
    copies: int = 0


class Prototypes:
    """The prototypes of the newest `GuidanceSettings.cache_size` grammars (at least one). Used from one thread.

    Attributes:
        hits: copies made of grammars that had been copied before, by another request or another choice of the same.
        misses: grammars compiled; one whose lexer so many used that it had to be built anew, or that llguidance
            panicked over, counts again.
        evictions: grammars dropped to make room for others.
    """

    def __init__(self, tokenizer: LLTokenizer, settings: GuidanceSettings, *, thread_name: str) -> None:
        """Start the threads that compile.

        Args:
            tokenizer: of the matchers.
            settings: how many are kept, and what one grammar may cost.
            thread_name: of the threads.
        """
        self._tokenizer = tokenizer
        self._room = max(1, settings.cache_size)
        self._limits = parser_limits(settings)
        self._threads = Lanes(thread_name, short=1, long=1)
        self._kept: OrderedDict[str, Prototype] = OrderedDict()
        self.hits = self.misses = self.evictions = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, grammar: Grammar) -> Prototype:
        """The prototype of a grammar; starts compiling where there is none. Never blocks."""
        prototype = self._kept.get(grammar.key)
        if prototype is not None and prototype.copies < MATCHERS_PER_LEXER:
            self._kept.move_to_end(grammar.key)
            return prototype
        shortest = None if prototype is None else prototype.shortest
        prototype = Prototype(self.submit(grammar, lambda: self._compile(grammar.source)), shortest)
        self._kept[grammar.key] = prototype
        self._kept.move_to_end(grammar.key)
        self.misses += 1
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)
            self.evictions += 1
        return prototype

    def copy(self, grammar: Grammar) -> LLMatcher:
        """A matcher at a grammar's start; blocks while the grammar is being compiled.

        Raises:
            InvalidGrammar: llguidance does not take the grammar.
        """
        prototype = self._use(grammar)
        return _copy(prototype.matcher.result())

    async def copy_when_compiled(self, grammar: Grammar) -> LLMatcher:
        """As `copy`, without blocking the event loop.

        Raises:
            InvalidGrammar: as `copy`.
            ExecutorUnavailable: `close` came before the grammar's turn.
        """
        compiled = self._use(grammar).matcher
        if not compiled.done():
            # Which cancels nothing when it is cancelled: another client may wait for the same.
            await asyncio.wait([asyncio.wrap_future(compiled)])
        if compiled.cancelled():
            raise ExecutorUnavailable("The service is shutting down.")
        return _copy(compiled.result())

    def submit(self, grammar: Grammar, work: Callable[[], T]) -> Future[T]:
        """Have something done in the thread that compiles a grammar, after what it was asked to compile so far."""
        return self._threads["long" if is_long(grammar.source) else "short"].submit(work)

    def close(self, *, wait: bool) -> None:
        """Stop the threads, and perhaps wait until they are gone."""
        self._threads.shutdown(wait=wait)

    def _use(self, grammar: Grammar) -> Prototype:
        prototype = self.get(grammar)
        if _is_broken(prototype):
            del self._kept[grammar.key]
            prototype = self.get(grammar)
        self.hits += prototype.copies > 0
        prototype.copies += 1
        return prototype

    def _compile(self, source: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, source, log_level=0, limits=self._limits)


def _is_broken(prototype: Prototype) -> bool:
    """Whether llguidance panicked over one of the copies, which leaves the lexer that all of them share locked."""
    if not prototype.copies or not prototype.matcher.done() or prototype.matcher.result().is_error():
        return False
    copy = prototype.matcher.result().deep_copy()
    copy.is_accepting()
    return bool(copy.is_error())


def _copy(matcher: LLMatcher) -> LLMatcher:
    if matcher.is_error():
        raise InvalidGrammar(f"llguidance cannot compile the grammar: {failure(matcher)}")
    return matcher.deep_copy()

"""Compiles constraints off the event loop, once per content, and refuses what llguidance refuses."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import ExecutorUnavailable, InvalidGrammar, QueueFull
from guidance_core.generation import Grammar
from guidance_core.grammar.check import prepare
from guidance_core.grammar.constraint import Constraint
from guidance_core.grammar.consuming import consume_text
from guidance_core.grammar.limits import parser_limits
from guidance_core.grammar.replay import Replay
from guidance_core.grammar.standing import failure, may_end
from guidance_core.grammar.taking import first_taken
from guidance_core.grammar.threads import Lanes, is_long
from guidance_core.grammar.trial import crashes, has_long_pattern, long_crashes

T = TypeVar("T")

_TRIED = frozenset({"lark", "gbnf", "llguidance"})
"""Kinds of constraints that are always tried in a process of their own: a tenth of a second and up to 5 s."""

_SHOWN_CHARACTERS = 300
_SHOWN_LINES = 20


@dataclass(frozen=True, slots=True)
class Compilation:
    """A grammar and what it cost to get.

    Attributes:
        grammar: validated.
        seconds: from the call to the grammar, waiting for a thread included.
        cached: an earlier request, or one at the same time, had the same constraint.
    """

    grammar: Grammar
    seconds: float
    cached: bool


class _Compiling:
    """A grammar that is compiled, or will be.

    Attributes:
        work: what the thread does.
    """

    def __init__(self, work: Future[Grammar]) -> None:
        self.work = work
        self._loop = asyncio.get_running_loop()
        self._waiters: set[asyncio.Future[None]] = set()
        # `asyncio.wrap_future` and `asyncio.wait` go round the loop three times more, a tenth of what compiling takes.
        work.add_done_callback(self._tell)

    async def wait(self) -> None:
        """Until it is compiled. What nobody waits for any more before its turn is not."""
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if not self._waiters:
                self.work.cancel()

    def _tell(self, _: Future[Grammar]) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class GrammarCompiler:
    """Turns constraints into validated grammars.

    Results and refusals are kept for `GuidanceSettings.cache_size` constraints; equal constraints that come together
    compile once. Used from one event loop.
    """

    def __init__(self, tokenizer: LLTokenizer, settings: GuidanceSettings, *, max_waiting: int = 256) -> None:
        """Start the threads.

        Args:
            tokenizer: what grammars are validated against.
            settings: how many are kept, and what one may cost.
            max_waiting: most requests that wait for a grammar that is being compiled or is yet to be.
        """
        self._tokenizer = tokenizer
        self._settings = settings
        self._limits = parser_limits(settings)
        self._threads = Lanes("grammar", short=2, long=1, tried=2, answers=1, long_answers=1)
        self._threads["answers"].submit(prepare)
        self._max_waiting = max_waiting
        self._compiled: OrderedDict[Constraint, _Compiling] = OrderedDict()
        self._waiting = 0

    async def compile(self, constraint: Constraint, *, param: str | None = None) -> Compilation:
        """Validate a constraint against the model's tokenizer.

        Args:
            constraint: one of `constraint`'s.
            param: the request field that it comes from, for an error that is not about a part with a field of its own.

        Raises:
            InvalidGrammar: it is too long, malformed, or llguidance refuses it; the message says why.
            QueueFull: too many others wait.
            ExecutorUnavailable: `close` came before the constraint's turn.
        """
        start = time.perf_counter()
        compiling = self._compiled.get(constraint)
        cached = compiling is not None and not compiling.work.cancelled()
        if compiling is None or not cached:
            compiling = self._compiled[constraint] = self._submit(constraint)
        self._compiled.move_to_end(constraint)
        while len(self._compiled) > self._settings.cache_size:
            self._compiled.popitem(last=False)
        await self._wait(compiling)
        if compiling.work.cancelled():
            raise ExecutorUnavailable("The service is shutting down.")
        try:
            grammar = compiling.work.result()
        except InvalidGrammar as error:
            raise InvalidGrammar(_shown(error.message), param=error.param or param) from error
        return Compilation(grammar, time.perf_counter() - start, cached)

    def _submit(self, constraint: Constraint) -> _Compiling:
        if self._waiting >= self._max_waiting:
            raise QueueFull(
                f"{self._waiting} requests wait for grammars to be compiled, and no more may: try again later.",
                retry_after=1,
            )
        lane = _lane(constraint)
        return _Compiling(self._threads[lane].submit(self._compile, constraint, lane))

    async def _wait(self, compiling: _Compiling) -> None:
        if compiling.work.done():
            return
        self._waiting += 1
        try:
            await compiling.wait()
        finally:
            self._waiting -= 1

    async def run(self, grammar: Grammar, work: Callable[[], T]) -> T:
        """Do something that compiles a grammar again, off the event loop and where the stack is deep enough for it."""
        lane = "long_answers" if is_long(grammar.source) else "answers"
        return await asyncio.get_running_loop().run_in_executor(self._threads[lane], work)

    def accepts(self, grammar: Grammar, text: bytes) -> bool:
        """Whether a whole text is in a grammar. Compiles it again: to be called within `run`."""
        matcher = LLMatcher(self._tokenizer, grammar.source, log_level=0, limits=self._limits)
        return consume_text(matcher, self._tokenizer, text) and may_end(matcher)

    def replay(self, grammar: Grammar) -> Replay:
        """What llguidance reports on an answer in a grammar. Compiles it again: to be called within `run`."""
        return Replay(self._tokenizer, grammar.source, self._limits)

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False)

    def _compile(self, constraint: Constraint, lane: str) -> Grammar:
        if len(constraint.definition.encode()) > self._settings.max_grammar_bytes:
            raise InvalidGrammar(
                f"The grammar is longer than {self._settings.max_grammar_bytes:,} bytes, the most accepted here."
            )
        crash = long_crashes(constraint) if constraint.kind not in _TRIED and lane != "short" else None
        if crash is None and (written := constraint.written_for_llguidance) is not None:
            crash = crashes(written)
        if crash is not None:
            raise InvalidGrammar(f"The grammar {crash}.")
        translation = first_taken(constraint.translations(written), self._problem)
        if written is not None:
            self._begin(translation.source)
        return Grammar(
            source=translation.source,
            kind=constraint.kind,
            definition=constraint.definition,
            key=sha256(translation.source.encode()).hexdigest(),
            route=translation.route,
            check=translation.check,
            notes=translation.notes,
            gap_after_thoughts=translation.gap_after_thoughts,
        )

    def _begin(self, source: str) -> None:
        """Find out whether a text can begin.

        Raises:
            InvalidGrammar: none can.
        """
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=self._limits)
        matcher.compute_bitmask()
        if (why := failure(matcher)) is not None:
            raise InvalidGrammar(f"No text is in the grammar, or none that llguidance can begin ({why}).")

    def _problem(self, source: str) -> str | None:
        """Why llguidance does not take a grammar, or would not enforce all of it."""
        is_error, messages = LLMatcher.validate_grammar_with_warnings(source, self._tokenizer, limits=self._limits)
        if not messages:
            return None
        # A warning is no better than an error: each says that something in the grammar is not enforced.
        what = "llguidance refuses the grammar" if is_error else "llguidance would not enforce all of the grammar"
        return f"{what}: {'; '.join(messages)}"


def _shown(message: str) -> str:
    """A message without most of what it quotes: llguidance repeats lines of a grammar, which may be all of it."""
    lines = message.split("\n")
    cut = [line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…" for line in lines[:_SHOWN_LINES]]
    return "\n".join(cut if len(lines) <= _SHOWN_LINES else [*cut, "…"])


def _lane(constraint: Constraint) -> str:
    """Whose turn a constraint waits for: a client's usual schema must not wait for another one's monster."""
    if is_long(constraint.definition):
        return "long"
    return "tried" if constraint.kind in _TRIED or has_long_pattern(constraint.definition) else "short"

"""The engines that are compared, behind one interface, one thread each.

``xgrammar`` and ``outlines_core`` are not requirements of this project: engines whose package is missing are left out.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer

from guidance_core.api.checking import satisfies
from guidance_core.config import GuidanceSettings
from guidance_core.generation import Grammar
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from guidance_core.guidance.batch import GuidanceBatch
from kernels.mask_logits import mask_logits

_REPEATS = 9


class Engine(ABC):
    """Compiles schemas and walks texts through what it compiled.

    Attributes:
        logits: float32 [1, vocab_size], masked by `fill`.
    """

    logits: torch.Tensor

    def __init__(self, model_path: Path, vocab_size: int, eos_token_id: int) -> None:
        """Load the tokenizer.

        Args:
            model_path: folder of the checkpoint.
            vocab_size: width of its logits.
            eos_token_id: its end token.
        """
        self.tokenizer = load_ll_tokenizer(model_path, vocab_size, [eos_token_id])
        self.eos_token_id = eos_token_id
        self.logits = torch.zeros((1, vocab_size))

    @abstractmethod
    def compile(self, schema: Any) -> float:
        """Compile a schema, replacing the last one.

        Returns:
            Seconds that it took.

        Raises:
            Exception: the engine refuses the schema.
        """

    @abstractmethod
    def start(self) -> None:
        """Go to the beginning of a text."""

    @abstractmethod
    def fill(self) -> float:
        """Fill a mask for the next token and apply it to the logits; seconds that the former took.

        Every engine does the latter, as its users do, so that each meets its next mask with the same cold caches: they
        make llguidance's by itself a third slower at the median.
        """

    @abstractmethod
    def advance(self, token: int) -> float:
        """Go on by an allowed token; seconds that it took."""

    def allows(self, token: int) -> bool:
        """Whether the last `fill` allowed a token."""
        return bool(self.logits[0, token] == 0)

    def takes(self, text: str) -> bool:
        """Whether the engine's user would get a whole text that the masks allowed."""
        return True


class Ours(Engine):
    """This project: admission as a request meets it, then a running batch of one."""

    def __init__(self, model_path: Path, vocab_size: int, eos_token_id: int) -> None:
        """As the base's."""
        super().__init__(model_path, vocab_size, eos_token_id)
        self._settings = GuidanceSettings(threads=1, forced_tokens=False, masks_ahead="never")
        self._loop = asyncio.new_event_loop()
        self._compiler = GrammarCompiler(self.tokenizer, self._settings)
        self._batch = GuidanceBatch(self.tokenizer, vocab_size=vocab_size, max_rows=1, settings=self._settings)
        self._grammar: Grammar | None = None
        self._sequence = 0

    def compile(self, schema: Any) -> float:
        """As the base's: rewriting, and validating against the tokenizer. After it the request is admitted."""

        async def admit() -> float:
            start = time.perf_counter()
            self._grammar = (await self._compiler.compile(constraint.json_schema(schema))).grammar
            return time.perf_counter() - start

        return self._loop.run_until_complete(admit())

    def first_matcher(self) -> float:
        """Seconds until the running batch, in its own process, has the matcher of a grammar that is new to it."""
        start = time.perf_counter()
        self._add()
        return time.perf_counter() - start

    def compile_again(self, schema: Any) -> float:
        """Compile a schema that was compiled before: what a request costs whose grammar comes again and again.

        Returns:
            Median of several times.
        """

        async def admit() -> float:
            self._batch.remove(self._sequence)
            start = time.perf_counter()
            self._grammar = (await self._compiler.compile(constraint.json_schema(schema))).grammar
            self._add()
            return time.perf_counter() - start

        return median(self._loop.run_until_complete(admit()) for _ in range(_REPEATS))

    def start(self) -> None:
        """As the base's."""
        self._add()

    def fill(self) -> float:
        """As the base's."""
        self.logits.zero_()
        self._batch.begin([(0, self._sequence)])
        times = self._batch.apply(self.logits)[self._sequence]
        if times.error is not None:
            raise RuntimeError(times.error)
        return times.mask_seconds

    def advance(self, token: int) -> float:
        """As the base's."""
        start = time.perf_counter()
        self._batch.commit([(self._sequence, token)])
        return time.perf_counter() - start

    def takes(self, text: str) -> bool:
        """As the base's: supersets are checked at the end."""
        assert self._grammar is not None
        return self._grammar.check is None or satisfies(self._grammar, text) is None

    def _add(self) -> None:
        assert self._grammar is not None
        self._batch.remove(self._sequence)
        self._sequence += 1
        self._batch.add(self._sequence, self._grammar)
        self._batch.start(self._sequence)


class Masks(Engine):
    """Engines that fill masks and leave it to others to apply them.

    Attributes:
        mask: int32 [1, words]; bit ``t % 32`` of word ``t // 32`` allows token ``t``.
    """

    mask: torch.Tensor

    def __init__(self, model_path: Path, vocab_size: int, eos_token_id: int) -> None:
        """As the base's."""
        super().__init__(model_path, vocab_size, eos_token_id)
        self.mask = torch.zeros((1, -(-vocab_size // 32)), dtype=torch.int32)

    def fill(self) -> float:
        """As the base's."""
        self.logits.zero_()
        seconds = self.fill_mask()
        mask_logits(self.logits, self.mask)
        return seconds

    @abstractmethod
    def fill_mask(self) -> float:
        """Fill `mask` for the next token; seconds that it took."""


class Llguidance(Masks):
    """llguidance by itself, as its users call it."""

    def compile(self, schema: Any) -> float:
        """As the base's."""
        text = json.dumps(schema)
        start = time.perf_counter()
        self._prototype = LLMatcher(self.tokenizer, LLMatcher.grammar_from_json_schema(text), log_level=0)
        seconds = time.perf_counter() - start
        if self._prototype.is_error():
            raise ValueError(self._prototype.get_error())
        return seconds

    def start(self) -> None:
        """As the base's."""
        self._matcher = self._prototype.deep_copy()

    def fill_mask(self) -> float:
        """As the base's."""
        start = time.perf_counter()
        self._matcher.unsafe_compute_mask_ptr(self.mask.data_ptr(), self.mask.numel() * 4)
        seconds = time.perf_counter() - start
        if self._matcher.is_error():
            raise RuntimeError(self._matcher.get_error())
        return seconds

    def advance(self, token: int) -> float:
        """As the base's."""
        start = time.perf_counter()
        self._matcher.consume_token(token)
        return time.perf_counter() - start


class Xgrammar(Masks):
    """XGrammar with its defaults, its cache off."""

    def __init__(self, model_path: Path, vocab_size: int, eos_token_id: int) -> None:
        """As the base's."""
        super().__init__(model_path, vocab_size, eos_token_id)
        import xgrammar

        self._module = xgrammar
        info = xgrammar.TokenizerInfo(token_bytes(self.tokenizer), vocab_size=vocab_size, stop_token_ids=[eos_token_id])
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile(self, schema: Any) -> float:
        """As the base's."""
        text = json.dumps(schema)
        start = time.perf_counter()
        self._compiled = self._compiler.compile_json_schema(text, strict_mode=False)
        return time.perf_counter() - start

    def start(self) -> None:
        """As the base's."""
        self._matcher = self._module.GrammarMatcher(self._compiled)

    def fill_mask(self) -> float:
        """As the base's; it leaves the mask alone where everything is allowed."""
        self.mask.fill_(-1)
        start = time.perf_counter()
        self._matcher.fill_next_token_bitmask(self.mask, 0)
        return time.perf_counter() - start

    def advance(self, token: int) -> float:
        """As the base's."""
        start = time.perf_counter()
        self._matcher.accept_token(token)
        return time.perf_counter() - start


class OutlinesCore(Masks):
    """outlines-core: the schema as a regex, the regex as an index over the vocabulary."""

    def __init__(self, model_path: Path, vocab_size: int, eos_token_id: int) -> None:
        """As the base's."""
        super().__init__(model_path, vocab_size, eos_token_id)
        import outlines_core

        self._module = outlines_core
        ids: dict[bytes, list[int]] = {}
        for token, text in enumerate(token_bytes(self.tokenizer)):
            if text and token != eos_token_id:
                ids.setdefault(text, []).append(token)
        self._vocabulary = outlines_core.Vocabulary(eos_token_id, ids)

    def compile(self, schema: Any) -> float:
        """As the base's."""
        from outlines_core.json_schema import build_regex_from_schema

        text = json.dumps(schema)
        start = time.perf_counter()
        self._index = self._module.Index(build_regex_from_schema(text), self._vocabulary)
        return time.perf_counter() - start

    def start(self) -> None:
        """As the base's."""
        self._guide = self._module.Guide(self._index)

    def fill_mask(self) -> float:
        """As the base's."""
        start = time.perf_counter()
        self._guide.write_mask_into(self.mask.data_ptr(), self.mask.numel(), 4)
        return time.perf_counter() - start

    def advance(self, token: int) -> float:
        """As the base's."""
        start = time.perf_counter()
        self._guide.advance(token, return_tokens=False)
        return time.perf_counter() - start


def token_bytes(tokenizer: LLTokenizer) -> list[bytes]:
    """The bytes of every token; none for special tokens."""
    special = [tokenizer.is_special_token(token) for token in range(tokenizer.vocab_size)]
    return [b"" if special[token] else tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]


ENGINES: dict[str, tuple[Callable[[Path, int, int], Engine], str | None]] = {
    "guided-trtllm": (Ours, None),
    "llguidance": (Llguidance, None),
    "xgrammar": (Xgrammar, "xgrammar"),
    "outlines-core": (OutlinesCore, "outlines_core"),
}
"""Name → (what makes it, the package that it needs besides this project's)."""


def installed() -> list[str]:
    """The engines that can run here."""
    return [name for name, (_, package) in ENGINES.items() if package is None or importlib.util.find_spec(package)]

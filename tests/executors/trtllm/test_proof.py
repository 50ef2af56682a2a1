"""Grammars of proofs are compiled once, for whoever waits for them."""

from __future__ import annotations

import asyncio
import threading

import pytest
from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.executors.trtllm.proof import Proofs
from guidance_core.generation import Grammar


def grammar(pattern: str) -> Grammar:
    return Grammar(LLMatcher.grammar_from_regex(pattern), kind="regex", definition=pattern, key=pattern)


async def test_a_client_that_goes_away_takes_no_grammar_from_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    may_compile = threading.Event()
    original = Proofs._compile

    def compile_later(self: Proofs, source: str) -> LLMatcher:
        may_compile.wait(10)
        return original(self, source)

    monkeypatch.setattr(Proofs, "_compile", compile_later)
    proofs = Proofs(LLTokenizer("byte"), GuidanceSettings())
    try:
        busy = asyncio.create_task(proofs.begin(grammar("a")))
        waiting = asyncio.create_task(proofs.begin(grammar("b")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        may_compile.set()
        await busy
        proof = await proofs.begin(grammar("b"))
        proof.take(ord("b"))
        assert proof.complete
    finally:
        may_compile.set()
        proofs.close()

"""A small tokenizer, and grammars for it, for the executors' tests."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import pytest
from llguidance import LLMatcher

from guidance_core.generation import Grammar
from tests.executors.triton.fixtures import tiny_llama, triton_engine, triton_models, triton_server
from tests.grammar.conftest import ll_tokenizer, tokenizer_folder

__all__ = [
    "ll_tokenizer",
    "regex_grammar",
    "tiny_llama",
    "tokenizer_folder",
    "triton_engine",
    "triton_models",
    "triton_server",
]


@pytest.fixture(scope="session")
def regex_grammar() -> Callable[[str], Grammar]:
    """A grammar from a regular expression."""

    def make(pattern: str) -> Grammar:
        source = LLMatcher.grammar_from_regex(pattern)
        return Grammar(source, "regex", pattern, sha256(source.encode()).hexdigest())

    return make

from __future__ import annotations

import asyncio

import pytest
from llguidance import LLMatcher, LLTokenizer

from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.consuming import consume_text


@pytest.mark.parametrize(
    ("grammar", "text", "taken"),
    [
        ('start: <|user|> "x"', "<|user|>x", True),
        ('start: <|user|> "x"', "<|user|>y", False),
        ('start: "<|user|>" "x"', "<|user|>x", True),
        ('start: <|user|> "<|user|>"', "<|user|><|user|>", True),
        ('start: /[^x]*/ "x"', "a<|user|><|end|>x", True),
        ('start: "a"', "a<|end|>", False),
        ('start: "é"', "é", True),
        ("start: <[2-300]>{2}", "qz", True),
    ],
)
def test_what_spells_a_special_token_is_read_as_the_grammar_has_it(
    grammar: str, text: str, taken: bool, ll_tokenizer: LLTokenizer
) -> None:
    matcher = LLMatcher(ll_tokenizer, grammar, log_level=0)
    assert consume_text(matcher, ll_tokenizer, text.encode()) == taken
    assert not taken or matcher.is_accepting()


def test_a_tokenizer_without_special_tokens_reads_text() -> None:
    tokenizer = LLTokenizer("byte")
    assert consume_text(LLMatcher(tokenizer, 'start: "<|user|>"'), tokenizer, b"<|user|>")


def test_a_whole_text_with_special_tokens_is_in_its_grammar(compiler: GrammarCompiler) -> None:
    grammar = asyncio.run(compiler.compile(constraint.lark('start: <|user|> "1" | "<|end|>"'))).grammar
    assert compiler.accepts(grammar, b"<|user|>1")
    assert compiler.accepts(grammar, b"<|end|>")
    assert not compiler.accepts(grammar, b"<|user|>")

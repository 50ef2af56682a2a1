"""The small tokenizer of the grammars' tests."""

from tests.grammar.conftest import ll_tokenizer, tokenizer_folder

__all__ = ["ll_tokenizer", "tokenizer_folder"]

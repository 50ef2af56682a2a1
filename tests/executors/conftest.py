"""A small model with a small tokenizer, a prompt, and grammars for them: what the executors' tests share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from llguidance import LLMatcher, LLTokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from guidance_core.generation import Grammar
from tests.executors.triton.fixtures import triton_engine, triton_models, triton_server
from tests.executors.triton.server import TritonServer
from tests.grammar.conftest import ll_tokenizer, tokenizer_folder

pytest.register_assert_rewrite("tests.executors.asking", "tests.executors.contract")

__all__ = [
    "ll_tokenizer",
    "regex_grammar",
    "tokenizer_folder",
    "triton_engine",
    "triton_models",
    "triton_server",
]


_WITH_TRITON = {"triton_server", "own_server", "secure_server"}


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """A test whose Triton crashes by itself has shown nothing: it is run again."""
    for item in items:
        if isinstance(item, pytest.Function) and _WITH_TRITON.intersection(item.fixturenames):
            item.add_marker(pytest.mark.flaky(reruns=2, condition=TritonServer.have_crashed))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The server that all share is there for each."""
    if isinstance(item, pytest.Function) and _WITH_TRITON.intersection(item.fixturenames):
        TritonServer.replace_crashed()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path, ll_tokenizer: LLTokenizer) -> Path:
    """The checkpoint of a model with random weights that says something varied: its folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ll_tokenizer.vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=0,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder)
    shutil.copy(tokenizer_folder / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"})
    )
    return folder


@pytest.fixture(scope="session")
def prompt_ids() -> list[int]:
    """Fifty tokens of `tiny_llama`'s vocabulary, no two the same."""
    return [(i * 37) % 250 + 2 for i in range(50)]


@pytest.fixture(scope="session")
def decode(ll_tokenizer: LLTokenizer) -> Callable[[Sequence[int]], str]:
    """The text of `tiny_llama`'s tokens."""
    return lambda tokens: ll_tokenizer.decode_str(list(tokens))


@pytest.fixture(scope="session")
def regex_grammar() -> Callable[[str], Grammar]:
    """A grammar from a regular expression."""

    def make(pattern: str) -> Grammar:
        source = LLMatcher.grammar_from_regex(pattern)
        return Grammar(source, "regex", pattern, sha256(source.encode()).hexdigest())

    return make

"""A tokenizer of its own for grammars: byte-level BPE, as most models have, but small."""

from __future__ import annotations

from pathlib import Path

import pytest
from llguidance import LLTokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from guidance_core.config import GuidanceSettings
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.tokenizer import load_ll_tokenizer

TEXTS = [
    '{"name": "Ada Lovelace", "born": 1815, "alive": false, "notes": null}',
    '{"orderId":"A-17","orderName":"paper","price":12.5,"items":[{"sku":"x","count":3}]}',
    "The quick brown fox jumps over the lazy dog. 0123456789 true false null",
]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained tokenizer.json whose end token is id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|end|>", "<|user|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def ll_tokenizer(tokenizer_folder: Path) -> LLTokenizer:
    """The same for llguidance."""
    return load_ll_tokenizer(tokenizer_folder, None, [0])


@pytest.fixture
def compiler(ll_tokenizer: LLTokenizer) -> GrammarCompiler:
    """A compiler with an empty cache."""
    return GrammarCompiler(ll_tokenizer, GuidanceSettings())

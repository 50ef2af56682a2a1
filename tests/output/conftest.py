"""Small tokenizers, one for each way in which tokens spell text."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "Größe, naïve café, Ελληνικά, русский, 日本語, 한국어, 😀😀👩‍👩‍👧 and  two spaces\n\n",
    '{"name": "value", "list": [1, 2, 3], "nested": {"true": false}}',
]


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3, or Qwen have it: every byte is a token, and there are merges that cut characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|start|>", "<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("日本", special=False)])
    return tokenizer


def _pieces(*, byte_fallback: bool) -> dict[str, int]:
    words = ["▁", "▁▁", "a", "b", "c", "▁a", "ab", "▁ab", "abc", "{", "}", '"', ":", "é", "▁é", "日", "▁日", "a▁b", "."]
    lone_bytes = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    return {piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *lone_bytes, *words])}


@pytest.fixture(scope="session")
def byte_fallback() -> Tokenizer:
    """As Llama 2 and Mistral have it: a visible space, lone bytes, one space stripped from the start of a text."""
    tokenizer = Tokenizer(
        models.BPE(vocab=_pieces(byte_fallback=True), merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("▁▁▁", special=False, normalized=False)])
    return tokenizer


@pytest.fixture(scope="session", params=["always", "never"])
def metaspace(request: pytest.FixtureRequest) -> Tokenizer:
    """As T5 or XLNet have it; the scheme says whether a text's first word has a visible space."""
    tokenizer = Tokenizer(models.BPE(vocab=_pieces(byte_fallback=False), merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=request.param)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


WORDS = ["[UNK]", "[SEP]", "play", "##ing", "##s", "the", ".", ",", "n't", "'s", "do", "not", "##é", "日"]


@pytest.fixture(scope="session", params=["wordpiece", "wordpiece with cleanup", "end of word", "none"])
def other(request: pytest.FixtureRequest) -> Tokenizer:
    """Decoders that look at a token's neighbours."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    if request.param == "end of word":
        vocab = {word: i for i, word in enumerate(["[UNK]", "[SEP]", "a", "a</w>", "b", "b</w>", "é</w>"])}
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="[UNK]"))
        tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    elif request.param != "none":
        tokenizer.decoder = decoders.WordPiece(cleanup=request.param.endswith("cleanup"))
    tokenizer.add_special_tokens(["[UNK]", "[SEP]"])
    return tokenizer

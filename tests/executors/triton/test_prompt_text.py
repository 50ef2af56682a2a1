"""Prompts as text that becomes the same tokens again."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from guidance_core.errors import Unsupported
from guidance_core.executors.triton.prompt_text import PromptText


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A byte-level tokenizer with one merge, ``ab``, that puts ``<s>`` before every text."""
    from tokenizers import AddedToken
    from tokenizers.decoders import ByteLevel as Decoder

    vocabulary = {char: i for i, char in enumerate(sorted(ByteLevel.alphabet()))}
    vocabulary["ab"] = len(vocabulary)
    tokenizer = Tokenizer(BPE(vocabulary, [("a", "b")]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = Decoder()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    first = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[first])
    return tokenizer


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("written", ["<s>cab é", "cab <s> x"])
def test_the_servers_tokenizer_gets_the_prompts_tokens(tokenizer: Tokenizer, adds: bool, written: str) -> None:
    ids = tokenizer.encode(written, add_special_tokens=adds and not written.startswith("<s>")).ids
    text = PromptText(tokenizer, adds_special_tokens=adds).text(ids)
    assert tokenizer.encode(text, add_special_tokens=adds).ids == ids


def test_tokens_that_no_text_has_are_refused(tokenizer: Tokenizer) -> None:
    a, b = tokenizer.token_to_id("a"), tokenizer.token_to_id("b")
    with pytest.raises(Unsupported, match="takes text") as refusal:
        PromptText(tokenizer, adds_special_tokens=False).text([a, b])
    assert refusal.value.param == "prompt"
    with pytest.raises(Unsupported):
        # The server would put <s> before it.
        PromptText(tokenizer, adds_special_tokens=True).text([a])

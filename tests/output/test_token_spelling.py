from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer

from guidance_core.output import Detokenizer


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
def test_every_token_is_spelled_as_json_would(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    detokenizer = Detokenizer(tokenizer)
    for token_id in range(tokenizer.get_vocab_size()):
        spelling = detokenizer.spelling(token_id)
        assert spelling.raw == detokenizer.token_bytes(token_id)
        assert spelling.text == spelling.raw.decode("utf-8", "replace")
        assert spelling.json == json.dumps(spelling.text, ensure_ascii=False)
        assert spelling.json_ascii == json.dumps(spelling.text)
        assert spelling.json_bytes == json.dumps(list(spelling.raw), separators=(",", ":"))


def test_a_token_is_written_once(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level)
    assert detokenizer.spelling(300) is detokenizer.spelling(300)


def test_an_id_without_token_has_no_text(byte_level: Tokenizer) -> None:
    spelling = Detokenizer(byte_level).spelling(100_000)
    assert (spelling.text, spelling.json, spelling.json_bytes) == ("", '""', "[]")

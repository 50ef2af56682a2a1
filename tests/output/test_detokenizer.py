from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import llguidance
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from guidance_core.output import Detokenizer

ids = st.lists(st.integers(0, 10_000), max_size=40)
"""Token ids, to be taken modulo the vocabulary."""


def in_vocabulary(tokenizer: Tokenizer, numbers: list[int]) -> list[int]:
    # One more than there are: an id without a token, as models with a padded vocabulary may sample.
    return [number % (tokenizer.get_vocab_size() + 1) for number in numbers]


def streamed(tokenizer: Tokenizer, token_ids: list[int], **options: bool) -> str:
    stream = Detokenizer(tokenizer).stream(**options)
    return "".join(stream.push(token_id) for token_id in token_ids) + stream.finish()


@given(numbers=ids, skip=st.booleans())
def test_byte_level_pieces_add_up_to_decoding_the_whole(byte_level: Tokenizer, numbers: list[int], skip: bool) -> None:
    token_ids = in_vocabulary(byte_level, numbers)
    assert streamed(byte_level, token_ids, skip_special_tokens=skip) == byte_level.decode(
        token_ids, skip_special_tokens=skip
    )


@given(text=st.text())
def test_no_replacement_character_appears_while_a_character_is_incomplete(byte_level: Tokenizer, text: str) -> None:
    text = text.replace("\ufffd", "")
    stream = Detokenizer(byte_level).stream()
    pieces = [stream.push(token_id) for token_id in byte_level.encode(text).ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text
    assert stream.finish() == ""


def test_a_text_that_ends_inside_a_character_ends_with_a_replacement_character(byte_level: Tokenizer) -> None:
    first_byte_of_three = byte_level.token_to_id("æ")  # 0xE6 in the byte-level alphabet
    stream = Detokenizer(byte_level).stream()
    assert stream.push(first_byte_of_three) == ""
    assert stream.finish() == "\ufffd"


def whole_characters(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids of pieces, special tokens, and characters spelled in lone bytes: valid UTF-8 as a whole."""
    pieces = [[i] for i in range(tokenizer.get_vocab_size()) if not tokenizer.id_to_token(i).startswith("<0x")]
    spelled = [[tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in char.encode()] for char in " \nxß語😀"]
    return st.lists(st.sampled_from(pieces + spelled), max_size=20).map(lambda groups: list(chain(*groups)))


@given(data=st.data())
def test_byte_fallback_pieces_add_up_to_decoding_the_whole(byte_fallback: Tokenizer, data: st.DataObject) -> None:
    token_ids = data.draw(whole_characters(byte_fallback))
    assert streamed(byte_fallback, token_ids, keep_leading_space=False) == byte_fallback.decode(token_ids)


@given(data=st.data())
def test_byte_fallback_text_continues_the_prompt(byte_fallback: Tokenizer, data: st.DataObject) -> None:
    token_ids = data.draw(whole_characters(byte_fallback))
    prompt = [byte_fallback.token_to_id("abc")]
    assert byte_fallback.decode(prompt + token_ids) == "abc" + streamed(byte_fallback, token_ids)


@given(numbers=ids)
def test_byte_fallback_keeps_the_characters_around_invalid_bytes(byte_fallback: Tokenizer, numbers: list[int]) -> None:
    # tokenizers gives up a whole run of lone bytes when one is invalid, which would take back text already sent.
    detokenizer = Detokenizer(byte_fallback)
    token_ids = in_vocabulary(byte_fallback, numbers)
    spelled = b"".join(detokenizer.token_bytes(i) for i in token_ids if i not in detokenizer.special_ids)
    assert streamed(byte_fallback, token_ids) == spelled.decode("utf-8", "replace")


@given(numbers=ids, skip=st.booleans())
def test_metaspace_pieces_add_up_to_decoding_the_whole(metaspace: Tokenizer, numbers: list[int], skip: bool) -> None:
    token_ids = in_vocabulary(metaspace, numbers)
    assert streamed(metaspace, token_ids, skip_special_tokens=skip, keep_leading_space=False) == metaspace.decode(
        token_ids, skip_special_tokens=skip
    )


@given(numbers=ids, skip=st.booleans())
def test_other_decoders_pieces_add_up_to_decoding_the_whole(other: Tokenizer, numbers: list[int], skip: bool) -> None:
    token_ids = in_vocabulary(other, numbers)
    assert streamed(other, token_ids, skip_special_tokens=skip) == other.decode(token_ids, skip_special_tokens=skip)


def test_a_token_of_another_decoder_has_the_bytes_it_adds_between_words(other: Tokenizer) -> None:
    detokenizer = Detokenizer(other)
    word = other.encode("the").ids[0] if other.token_to_id("the") else other.token_to_id("a</w>")
    assert detokenizer.token_bytes(word).startswith(b" ")


@given(numbers=ids, skip=st.booleans())
def test_decoding_a_list_at_once_equals_streaming_it(byte_level: Tokenizer, numbers: list[int], skip: bool) -> None:
    token_ids = in_vocabulary(byte_level, numbers)
    assert Detokenizer(byte_level).decode(token_ids, skip_special_tokens=skip) == streamed(
        byte_level, token_ids, skip_special_tokens=skip
    )


def llguidance_bytes(tokenizer: Tokenizer) -> list[bytes]:
    ll_tokenizer = llguidance.LLTokenizer(tokenizer.to_str())
    return [ll_tokenizer.decode_bytes([i]) for i in range(tokenizer.get_vocab_size())]


def test_tokens_of_the_default_model_mean_the_bytes_that_llguidance_takes_them_for(model_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model_path / "tokenizer.json"))
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.token_bytes(i) for i in range(tokenizer.get_vocab_size())] == llguidance_bytes(tokenizer)


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
def test_tokens_mean_the_bytes_that_llguidance_takes_them_for(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    detokenizer = Detokenizer(tokenizer)
    ours = [detokenizer.token_bytes(i) for i in range(tokenizer.get_vocab_size())]
    theirs = llguidance_bytes(tokenizer)
    # llguidance has no token for the byte 0xFF, which no UTF-8 contains and which it uses as a mark.
    assert [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]] in ([], [(b"\xff", b"")])


def test_spaces_before_punctuation_stay_where_the_model_put_them(byte_level: Tokenizer) -> None:
    text = "do n't , or it 's over ."
    assert streamed(byte_level, byte_level.encode(text).ids) == text


def test_a_decoder_with_steps_in_an_unknown_order_is_left_to_tokenizers(byte_fallback: Tokenizer) -> None:
    definition = json.loads(byte_fallback.to_str())
    # Without Fuse, Strip takes a space from every token.
    definition["decoder"]["decoders"] = [step for step in definition["decoder"]["decoders"] if step["type"] != "Fuse"]
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    token_ids = [tokenizer.token_to_id(piece) for piece in ("▁a", "▁ab", "b", "▁é")]
    assert streamed(tokenizer, token_ids) == tokenizer.decode(token_ids) == "aabbé"


def test_a_decoder_that_fuses_before_it_replaces_visible_spaces_is_left_to_tokenizers(metaspace: Tokenizer) -> None:
    definition = json.loads(metaspace.to_str())
    # On the whole text, "always" takes every visible space away, not the first token's alone.
    definition["decoder"] = {"type": "Sequence", "decoders": [{"type": "Fuse"}, definition["decoder"]]}
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    token_ids = [tokenizer.token_to_id(piece) for piece in ("▁a", "▁ab", "b")]
    assert streamed(tokenizer, token_ids) == tokenizer.decode(token_ids)

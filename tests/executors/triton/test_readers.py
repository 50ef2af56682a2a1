"""Responses → deltas, and how an answer ended."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from tritonclient.grpc import service_pb2

from guidance_core.errors import GenerationFailed
from guidance_core.executors.base import ModelLimits
from guidance_core.executors.proof import Proof
from guidance_core.executors.triton.text_model import LlmApiModel, TextModel
from guidance_core.executors.triton.token_model import TokenReader
from guidance_core.generation import Grammar, TokenDelta
from tests.executors.asking import make_request

LIMITS = ModelLimits(1000, 100, (0,))


def response(**outputs: Sequence[int] | str) -> service_pb2.ModelInferResponse:
    """A response with these tensors."""
    found = service_pb2.ModelInferResponse()
    for name, value in outputs.items():
        if isinstance(value, str):
            text = value.encode()
            found.outputs.add(name=name, datatype="BYTES", shape=[1])
            found.raw_output_contents.append(struct.pack("<I", len(text)) + text)
        else:
            found.outputs.add(name=name, datatype="INT32", shape=[len(value)])
            found.raw_output_contents.append(np.array(value, "<i4").tobytes())
    return found


def proof_of(pattern: str, tokenizer: LLTokenizer) -> Proof:
    return Proof(LLMatcher(tokenizer, LLMatcher.grammar_from_regex(pattern), log_level=0), tokenizer)


def text_reader(
    *, accumulates: bool = True, proof: Proof | None = None, **sampling: object
) -> tuple[Callable[..., TokenDelta | None], Callable[[], TokenDelta]]:
    """`read`, which takes a text and its number of tokens, and `end`."""
    model = TextModel.__new__(TextModel)
    model._limits, model._accumulates = LIMITS, accumulates
    reader = model.reader(make_request([1], **sampling), 0, proof)
    return lambda text, count: reader.read(response(text_output=text, num_output_tokens=[count])), reader.end


def test_several_tokens_of_one_response_are_cut_at_the_end_token() -> None:
    reader = TokenReader(make_request([1]), 0, LIMITS, None)
    delta = reader.read(response(output_ids=[5, 6, 0, 7], sequence_length=[4]))
    assert delta == TokenDelta(index=0, token_ids=(5, 6), finish_reason="stop", stop_token_id=0)


def test_padding_behind_a_sequence_is_no_part_of_it() -> None:
    reader = TokenReader(make_request([1]), 0, LIMITS, None)
    assert reader.read(response(output_ids=[5, -1, -1], sequence_length=[1])) == TokenDelta(index=0, token_ids=(5,))
    assert reader.read(response(output_ids=[], sequence_length=[0])) is None
    assert reader.read(service_pb2.ModelInferResponse()) is None


def test_more_tokens_than_asked_for_are_an_error() -> None:
    reader = TokenReader(make_request([1], max_tokens=2), 0, LIMITS, None)
    with pytest.raises(GenerationFailed, match="more tokens"):
        reader.read(response(output_ids=[5, 6, 7], sequence_length=[3]))


def test_a_stop_token_where_the_grammar_does_not_end_says_length(ll_tokenizer: LLTokenizer) -> None:
    request = make_request([1], Grammar("", "regex", "", ""), stop_token_ids=(7,))
    [a] = ll_tokenizer.tokenize_str("a")
    cut = TokenReader(request, 0, LIMITS, proof_of("ab", ll_tokenizer))
    delta = cut.read(response(output_ids=[a, 7], sequence_length=[2]))
    assert delta == TokenDelta(index=0, token_ids=(a,), finish_reason="length", stop_token_id=7)
    whole = TokenReader(request, 0, LIMITS, proof_of("ab?", ll_tokenizer))
    delta = whole.read(response(output_ids=[a, 7], sequence_length=[2]))
    assert delta is not None
    assert delta.finish_reason == "stop"


def test_an_answer_that_the_grammar_completes_with_the_last_token_says_stop(ll_tokenizer: LLTokenizer) -> None:
    tokens = ll_tokenizer.tokenize_str("ab")
    request = make_request([1], Grammar("", "regex", "", ""), max_tokens=len(tokens))
    for pattern, reason in (("ab", "stop"), ("ab+", "length")):
        reader = TokenReader(request, 0, LIMITS, proof_of(pattern, ll_tokenizer))
        delta = reader.read(response(output_ids=tokens, sequence_length=[len(tokens)]))
        assert delta is not None
        assert delta.finish_reason == reason


def test_accumulated_text_waits_for_whole_characters() -> None:
    read, end = text_reader(max_tokens=9)
    assert read("Zo\ufffd", 2) == TokenDelta(index=0, text="Zo")
    assert read("Zoë", 1) == TokenDelta(index=0, text="ë")
    assert read("Zoë \ufffd", 1) == TokenDelta(index=0, text=" ")
    assert end() == TokenDelta(index=0, text="\ufffd", finish_reason="stop", stop_token_id=0)


def test_text_that_changes_after_it_was_sent_is_an_error() -> None:
    read, _ = text_reader()
    read("ab", 1)
    with pytest.raises(GenerationFailed, match="changed text"):
        read("ac", 1)


def test_text_under_a_grammar_is_proved_piece_by_piece(ll_tokenizer: LLTokenizer) -> None:
    read, end = text_reader(accumulates=False, proof=proof_of("[a-z]{2} [0-9]+", ll_tokenizer), max_tokens=9)
    for piece in ("a", "b 1", "2"):
        assert read(piece, 1) == TokenDelta(index=0, text=piece)
    assert end().finish_reason == "stop"
    with pytest.raises(GenerationFailed, match="left the grammar"):
        read("x", 1)


def test_text_that_ends_where_the_grammar_does_not_is_an_error_unless_it_was_cut_off(ll_tokenizer: LLTokenizer) -> None:
    read, end = text_reader(proof=proof_of("abc", ll_tokenizer), max_tokens=3)
    read("ab", 2)
    with pytest.raises(GenerationFailed, match="ends where the grammar does not"):
        end()
    # Cut off in the middle of a character too.
    read, end = text_reader(proof=proof_of("aë", ll_tokenizer), max_tokens=2)
    assert read("a\ufffd", 2) == TokenDelta(index=0, text="a")
    assert end() == TokenDelta(index=0, text="", finish_reason="length")


def test_a_server_that_was_to_count_and_does_not_is_an_error() -> None:
    model = TextModel.__new__(TextModel)
    model._limits, model._accumulates = LIMITS, False
    reader = model.reader(make_request([1]), 0, None)
    with pytest.raises(GenerationFailed, match="did not count"):
        reader.read(response(text_output="a"))


def test_the_llm_api_says_itself_how_an_answer_ended() -> None:
    model = LlmApiModel.__new__(LlmApiModel)
    model._limits = LIMITS
    for said, reason in (("stop", "stop"), ("length", "length"), ("timeout", None), ("None", None)):
        reader = model.reader(make_request([1]), 0, None)
        reader.read(response(text_output="a", finish_reason="None"))
        reader.read(response(text_output="ab", finish_reason=said))
        if reason is None:
            with pytest.raises(GenerationFailed, match=f"early \\({said}"):
                reader.end()
        else:
            assert reader.end().finish_reason == reason

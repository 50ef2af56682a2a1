from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from guidance_core.generation import TokenDelta, TokenLogprob
from guidance_core.output import ChoiceOutput, Detokenizer, StopStrings, TextDelta, TokenTextLogprob


@pytest.fixture(scope="session")
def detokenizer(byte_level: Tokenizer) -> Detokenizer:
    return Detokenizer(byte_level)


Encode = Callable[[str], list[int]]


@pytest.fixture(scope="session")
def encode(byte_level: Tokenizer) -> Encode:
    return lambda text: byte_level.encode(text).ids


def delta(token_ids: list[int], **fields: object) -> TokenDelta:
    logprobs = tuple(TokenLogprob(i, -i / 10, ((i, -i / 10), (0, -9.0))) for i in token_ids)
    return TokenDelta(index=0, token_ids=tuple(token_ids), logprobs=logprobs, **fields)  # type: ignore[arg-type]


def one_by_one(token_ids: list[int], finish_reason: str = "length") -> Iterator[TokenDelta]:
    yield from (delta([token_id]) for token_id in token_ids)
    yield delta([], finish_reason=finish_reason)


def run(output: ChoiceOutput, deltas: Iterator[TokenDelta]) -> list[TextDelta]:
    return [output.push(each) for each in deltas]


def summary(output: ChoiceOutput, pieces: list[TextDelta]) -> tuple[object, ...]:
    logprobs = [each for piece in pieces for each in piece.logprobs or ()]
    text = "".join(piece.text for piece in pieces)
    return text, logprobs, output.completion_tokens, output.finish_reason, output.stop_string


@given(numbers=st.lists(st.integers(0, 10_000), max_size=40), data=st.data())
def test_the_answer_does_not_depend_on_how_tokens_are_cut_into_deltas(
    byte_level: Tokenizer, detokenizer: Detokenizer, numbers: list[int], data: st.DataObject
) -> None:
    token_ids = [number % byte_level.get_vocab_size() for number in numbers]
    text = detokenizer.decode(token_ids)
    spans = st.tuples(st.integers(0, len(text)), st.integers(1, 8)).map(lambda at: text[at[0] : at[0] + at[1]])
    strings = StopStrings(data.draw(st.lists(spans.filter(bool), max_size=3)) if text else [])

    def chunks() -> Iterator[TokenDelta]:
        at = 0
        while at < len(token_ids):
            size = data.draw(st.integers(0, 5))
            yield delta(token_ids[at : at + size])
            at += size
        yield delta([], finish_reason="length")

    whole = ChoiceOutput(detokenizer, stop=strings)
    chunked = ChoiceOutput(detokenizer, stop=strings)
    expected = summary(whole, run(whole, iter([delta(token_ids, finish_reason="length")])))
    assert summary(chunked, run(chunked, chunks())) == expected

    matcher = strings.matcher()
    cut = matcher.push(text)
    assert expected[0] == (cut if matcher.hit else text)
    assert expected[4] == matcher.hit
    # Every returned token begins inside the returned text, and they are the first of the sampled ones.
    logprobs: list[TokenTextLogprob] = expected[1]  # type: ignore[assignment]
    assert [each.token_id for each in logprobs] == token_ids[: len(logprobs)]
    if matcher.hit is None:
        assert len(logprobs) == len(token_ids)
    else:
        assert all(each.text_offset < len(cut) for each in logprobs)


def test_logprobs_of_held_back_tokens_come_with_their_text(detokenizer: Detokenizer, encode: Encode) -> None:
    output = ChoiceOutput(detokenizer, stop=StopStrings(["fox!"]))
    pieces = run(output, one_by_one(encode("fox jumps")))
    held = [piece for piece in pieces if not piece.text]
    assert all(piece.logprobs == () for piece in held[:-1])
    offsets = [each.text_offset for piece in pieces for each in piece.logprobs or ()]
    assert output.text == "fox jumps"
    assert offsets[0] == 0
    for piece, start in zip(pieces, starts(pieces), strict=True):
        for each in piece.logprobs or ():
            assert start <= each.text_offset < start + len(piece.text)


def starts(pieces: list[TextDelta]) -> list[int]:
    return [sum(len(before.text) for before in pieces[:i]) for i in range(len(pieces))]


def test_logprobs_of_tokens_cut_off_by_a_stop_string_are_dropped(detokenizer: Detokenizer, encode: Encode) -> None:
    output = ChoiceOutput(detokenizer, stop=StopStrings(["lazy"]))
    pieces = run(output, one_by_one(encode("over the lazy dog")))
    logprobs = [each for piece in pieces for each in piece.logprobs or ()]
    # A token such as " l" may begin before the stop string and end inside it.
    assert b"".join(each.spelling.raw for each in logprobs).startswith(b"over the ")
    assert max(each.text_offset for each in logprobs) < len("over the ")
    assert output.text == "over the "


def test_the_parts_of_a_character_have_their_own_bytes_and_one_offset(detokenizer: Detokenizer) -> None:
    token_ids = [id_of_byte(detokenizer, byte) for byte in "a語".encode()]
    output = ChoiceOutput(detokenizer)
    pieces = run(output, one_by_one(token_ids))
    logprobs = [each for piece in pieces for each in piece.logprobs or ()]
    assert [(each.spelling.raw, each.text_offset) for each in logprobs] == [
        (b"a", 0),
        (b"\xe8", 1),
        (b"\xaa", 1),
        (b"\x9e", 1),
    ]
    assert logprobs[1].token == "\ufffd"
    assert [piece.text for piece in pieces] == ["a", "", "", "語", ""]


def id_of_byte(detokenizer: Detokenizer, byte: int) -> int:
    return next(i for i in range(258) if detokenizer.token_bytes(i) == bytes([byte]))


def test_top_logprobs_are_written_out_likeliest_first(detokenizer: Detokenizer, encode: Encode) -> None:
    (token_id,) = encode("a")
    output = ChoiceOutput(detokenizer)
    (logprob,) = output.push(delta([token_id])).logprobs or ()
    assert [(top.text, top.raw, value) for top, value in logprob.top()] == [
        ("a", b"a", -token_id / 10),
        ("<|start|>", b"<|start|>", -9.0),
    ]


def test_without_logprobs_there_are_none(detokenizer: Detokenizer, encode: Encode) -> None:
    output = ChoiceOutput(detokenizer)
    assert output.push(TokenDelta(index=0, token_ids=tuple(encode("the fox")))).logprobs is None


def test_the_token_that_ends_an_answer_counts(detokenizer: Detokenizer, encode: Encode, byte_level: Tokenizer) -> None:
    end = byte_level.token_to_id("<|end|>")
    output = ChoiceOutput(detokenizer)
    token_ids = encode("fox")
    output.push(delta(token_ids))
    last = output.push(delta([], finish_reason="stop", stop_token_id=end))
    assert last.finish_reason == "stop"
    assert (output.completion_tokens, output.stop_token_id) == (len(token_ids) + 1, end)


def test_special_tokens_are_text_only_on_request(detokenizer: Detokenizer, byte_level: Tokenizer) -> None:
    token_ids = [byte_level.token_to_id("<|start|>"), *byte_level.encode("a").ids]
    hidden = ChoiceOutput(detokenizer)
    shown = ChoiceOutput(detokenizer, skip_special_tokens=False)
    assert hidden.push(delta(token_ids)).text == "a"
    assert shown.push(delta(token_ids)).text == "<|start|>a"


def test_held_back_text_is_returned_when_the_answer_ends(detokenizer: Detokenizer, encode: Encode) -> None:
    output = ChoiceOutput(detokenizer, stop=StopStrings(["dogs"]))
    assert "".join(piece.text for piece in run(output, one_by_one(encode("dog"), "stop"))) == "dog"
    assert output.finish_reason == "stop"
    assert output.stop_string is None


def test_deltas_after_a_stop_string_are_ignored(detokenizer: Detokenizer, encode: Encode) -> None:
    output = ChoiceOutput(detokenizer, stop=StopStrings(["."]))
    first = output.push(delta(encode("dog. The fox")))
    counted = output.completion_tokens
    assert (first.text, first.finish_reason) == ("dog", "stop")
    assert output.push(delta(encode("more"), finish_reason="stop")) == TextDelta("")
    assert output.completion_tokens == counted == len(encode("dog.")) < len(encode("dog. The fox"))


@pytest.mark.parametrize(("complete", "reason"), [(True, "stop"), (False, "length")])
def test_under_a_grammar_a_stop_string_ends_with_stop_only_where_the_answer_is_complete(
    detokenizer: Detokenizer,
    encode: Encode,
    complete: bool,
    reason: str,
) -> None:
    output = ChoiceOutput(detokenizer, stop=StopStrings(["}"]), under_grammar=True)
    pieces = run(output, one_by_one(encode('{"name": {}}')))
    assert (output.text, output.stop_string) == ('{"name": {', "}")
    assert {piece.finish_reason for piece in pieces} == {None}
    assert output.end_at_stop_string(complete=complete) == output.finish_reason == reason


def test_under_a_grammar_a_leading_space_is_kept(byte_fallback: Tokenizer) -> None:
    shown = ChoiceOutput(Detokenizer(byte_fallback), keep_leading_space=False)
    exact = ChoiceOutput(Detokenizer(byte_fallback), keep_leading_space=False, under_grammar=True)
    first = delta([byte_fallback.token_to_id("▁ab")])
    assert (shown.push(first).text, exact.push(first).text) == ("ab", " ab")


def test_text_from_executors_that_answer_text_is_cut_and_counted(detokenizer: Detokenizer, encode: Encode) -> None:
    output = ChoiceOutput(detokenizer, stop=StopStrings(["END"]))
    texts = ["The quick E", "ND brown fox"]
    pieces = run(output, (TokenDelta(index=0, text=text) for text in texts))
    assert [piece.text for piece in pieces] == ["The quick ", ""]
    assert (output.finish_reason, output.stop_string) == ("stop", "END")
    assert output.completion_tokens == len(encode("The quick "))


def test_a_stop_string_can_be_part_of_the_answer_with_its_tokens(detokenizer: Detokenizer, encode: Encode) -> None:
    output = ChoiceOutput(detokenizer, stop=StopStrings(["lazy"]), include_stop_string=True)
    pieces = run(output, one_by_one(encode("over the lazy dog")))

    tokens = b"".join(each.spelling.raw for piece in pieces for each in piece.logprobs or ())
    assert output.text == "over the lazy"
    assert tokens.decode().startswith("over the lazy")
    assert not tokens.decode().endswith("dog")


def test_under_a_grammar_an_answer_ends_before_its_stop_string_come_what_may(
    detokenizer: Detokenizer, encode: Encode
) -> None:
    output = ChoiceOutput(detokenizer, stop=StopStrings(["lazy"]), include_stop_string=True, under_grammar=True)
    run(output, one_by_one(encode("over the lazy dog")))

    assert output.text == "over the "


def test_the_logprob_of_the_end_token_is_kept(detokenizer: Detokenizer, encode: Encode) -> None:
    output = ChoiceOutput(detokenizer)
    (first,) = encode("a")
    output.push(TokenDelta(index=0, token_ids=(first,), logprobs=(TokenLogprob(first, -1.0),)))
    output.push(TokenDelta(index=0, finish_reason="stop", stop_token_id=first, stop_logprob=TokenLogprob(first, -0.25)))

    assert output.stop_logprob is not None
    assert (output.stop_logprob.token, output.stop_logprob.logprob) == ("a", -0.25)

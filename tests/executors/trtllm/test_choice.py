"""Whatever form the engine gives an end, the deltas say the same; what is not what was asked for is an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from llguidance import LLMatcher, LLTokenizer

from guidance_core.errors import GenerationFailed
from guidance_core.executors.proof import Proof
from guidance_core.executors.trtllm.choice import Choice
from guidance_core.generation import Grammar, TokenDelta
from tests.executors.asking import make_request

EOS = 0


def choice(*, proof: Proof | None = None, grammar: Grammar | None = None, **sampling: object) -> Choice:
    return Choice(make_request((5, 6), grammar, **sampling), 0, own_ends=(EOS,), proof=proof, report=None)


async def take(of: Choice, *new_ids: int, finish: str | None = None, stop: int | None = None) -> TokenDelta | None:
    return await of.take(new_ids, engine_finish=finish, engine_stop=stop, cached_tokens=1)


@pytest.mark.parametrize(
    ("new_ids", "finish", "stop"),
    [
        ((7, EOS), "stop", EOS),  # the end token among the tokens, as end_id leaves it
        ((7,), "stop", EOS),  # cut off, as stop words are
        ((7, EOS, 9), None, None),  # an end that only the service knows: the engine went on
    ],
)
async def test_an_end_token_ends_the_answer_and_counts(
    new_ids: tuple[int, ...], finish: str | None, stop: int | None
) -> None:
    ended = choice()
    delta = await take(ended, *new_ids, finish=finish, stop=stop)
    assert delta is not None
    assert (delta.token_ids, delta.finish_reason, delta.stop_token_id) == ((7,), "stop", EOS)
    assert ended.sampled == 2


async def test_a_stop_token_at_the_very_last_place_still_stops() -> None:
    # TorchSampler calls this "length": see its `_write_finish_reasons`.
    delta = await take(choice(max_tokens=2, stop_token_ids=(9,)), 7, 9, finish="length")
    assert delta is not None
    assert (delta.token_ids, delta.finish_reason, delta.stop_token_id) == ((7,), "stop", 9)


async def test_the_answer_is_as_long_as_asked_even_where_the_engine_goes_on() -> None:
    delta = await take(choice(max_tokens=2), 7, 8, 9)
    assert delta is not None
    assert (delta.token_ids, delta.finish_reason) == ((7, 8), "length")


async def test_cached_tokens_come_once_and_nothing_new_is_no_delta() -> None:
    running = choice()
    first, nothing, second = await take(running, 7), await take(running), await take(running, 8)
    assert first is not None
    assert second is not None
    assert nothing is None
    assert (first.cached_tokens, second.cached_tokens) == (1, None)


async def test_an_engine_whose_memory_holds_less_than_the_context_cuts_the_answer_off() -> None:
    delta = await take(choice(max_tokens=9), 7, finish="length")
    assert delta is not None
    assert (delta.token_ids, delta.finish_reason) == ((7,), "length")
    delta = await take(choice(max_tokens=9), finish="length")
    assert delta is not None
    assert (delta.token_ids, delta.finish_reason) == ((), "length")


async def test_an_engine_that_gives_up_early_is_an_error() -> None:
    with pytest.raises(GenerationFailed, match="timeout"):
        await take(choice(max_tokens=9), 7, finish="timeout")


@pytest.fixture
def guided(ll_tokenizer: LLTokenizer, regex_grammar: Callable[[str], Grammar]) -> Callable[..., Choice]:
    def make(pattern: str, **sampling: object) -> Choice:
        grammar = regex_grammar(pattern)
        return choice(proof=Proof(LLMatcher(ll_tokenizer, grammar.source), ll_tokenizer), grammar=grammar, **sampling)

    return make


async def test_a_grammars_only_end_needs_no_end_token(guided: Callable[..., Choice], ll_tokenizer: LLTokenizer) -> None:
    [a] = ll_tokenizer.tokenize_str("a")
    delta = await take(guided("a"), a)
    assert delta is not None
    assert (delta.token_ids, delta.finish_reason, delta.stop_token_id) == ((a,), "stop", None)


async def test_an_end_where_the_grammar_does_not_end_is_an_error_and_a_stop_token_there_is_a_cut(
    guided: Callable[..., Choice], ll_tokenizer: LLTokenizer
) -> None:
    [a] = ll_tokenizer.tokenize_str("a")
    with pytest.raises(GenerationFailed, match="ended where the grammar does not"):
        await take(guided("aaa"), a, EOS, finish="stop")
    delta = await take(guided("aaa", stop_token_ids=(9,)), a, 9, finish="stop")
    assert delta is not None
    assert delta.finish_reason == "length"


async def test_a_token_outside_of_the_grammar_is_an_error(
    guided: Callable[..., Choice], ll_tokenizer: LLTokenizer
) -> None:
    [b] = ll_tokenizer.tokenize_str("b")
    with pytest.raises(GenerationFailed, match="left the grammar"):
        await take(guided("a+"), b)


@pytest.mark.parametrize(("lark", "ends"), [('start: "a" <|end|>', True), ('start: "a" <|end|> "b"', False)])
async def test_an_end_token_that_the_grammar_names_ends_the_answer_where_nothing_may_follow(
    ll_tokenizer: LLTokenizer, lark: str, ends: bool
) -> None:
    proof = Proof(LLMatcher(ll_tokenizer, lark), ll_tokenizer)
    running = choice(proof=proof, grammar=Grammar(lark, "lark", lark, lark))
    [letter] = ll_tokenizer.tokenize_str("a")
    if ends:
        delta = await take(running, letter, EOS, finish="stop", stop=EOS)
        assert delta is not None
        assert delta.finish_reason == "stop"
    else:
        with pytest.raises(GenerationFailed, match="where the grammar does not"):
            await take(running, letter, EOS, finish="stop", stop=EOS)


def test_a_choice_that_is_cut_off_at_once_ends_with_stop_and_counts_nothing() -> None:
    delta = choice().cut_off()
    assert (delta.token_ids, delta.finish_reason, delta.cached_tokens) == ((), "stop", 0)

"""Requests whose answers must be complete, step by step among others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings, TorchSettings
from guidance_core.errors import InvalidRequest
from guidance_core.executors.torch.engine import Engine
from guidance_core.generation import GenerationRequest, Grammar, TokenDelta
from guidance_core.guidance.batch import GuidanceBatch
from tests.executors.torch.fakes import FakeRunner, request

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "pages": {"type": "array", "items": {"type": "string", "minLength": 2}, "minItems": 1},
        "author": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
    "required": ["title", "pages"],
    "additionalProperties": False,
}
SOURCE = LLMatcher.grammar_from_json_schema(SCHEMA)
GRAMMAR = Grammar(SOURCE, "json_schema", json.dumps(SCHEMA), "pages")


class Run:
    """An engine on a model without any sense, and what came of its requests."""

    def __init__(self, tokenizer: LLTokenizer, **guidance: object) -> None:
        size = tokenizer.vocab_size
        self.batch = GuidanceBatch(
            tokenizer,
            vocab_size=size,
            max_rows=4,
            settings=GuidanceSettings(threads=1, **guidance),  # type: ignore[arg-type]
        )
        self.engine = Engine(FakeRunner(vocab_size=size), self.batch, TorchSettings(max_num_tokens=16))
        self.deltas: list[tuple[int, TokenDelta]] = []
        self.failures: dict[int, Exception] = {}
        self._tokenizer = tokenizer

    def step(self) -> None:
        stepped = self.engine.step()
        self.deltas += stepped.deltas
        self.failures.update(stepped.failures)

    def finish(self) -> None:
        while self.engine.runnable or self.engine.compiling:
            self.step()
        self.step()  # for what was refused at once

    def text(self, key: int, index: int = 0) -> str:
        return self._tokenizer.decode_str([t for d in self.of(key, index) for t in d.token_ids])

    def of(self, key: int, index: int = 0) -> list[TokenDelta]:
        return [delta for k, delta in self.deltas if (k, delta.index) == (key, index)]

    def completion_tokens(self, key: int, index: int) -> int:
        deltas = self.of(key, index)
        return sum(len(d.token_ids) for d in deltas) + (deltas[-1].stop_token_id is not None)


@pytest.fixture
def run(ll_tokenizer: LLTokenizer) -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def make(**guidance: object) -> Run:
        made.append(Run(ll_tokenizer, **guidance))
        return made[-1]

    yield make
    for each in made:
        each.batch.close()


def complete(grammar: Grammar = GRAMMAR, **sampling: object) -> GenerationRequest:
    """A request over a prompt of several chunks; at random unless told otherwise."""
    asked = request(range(2, 50), grammar=grammar, **{"temperature": 1.0, **sampling})
    return replace(asked, complete=True)


def needed(run: Run, grammar: Grammar) -> int:
    """How many tokens the shortest answer takes, by what a refusal says."""
    run.engine.submit(0, complete(grammar, max_tokens=1))
    run.finish()
    found = re.search("takes ([0-9]+) tokens", str(run.failures.pop(0)))
    assert found is not None
    return int(found.group(1))


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.0}, {"top_p": 0.5}, {"logprobs": 2}, {"temperature": 1e30}], ids=str
)
@pytest.mark.parametrize("forced_tokens", [True, False])
def test_every_choice_is_complete_within_max_tokens(
    run: Callable[..., Run], sampling: dict[str, object], forced_tokens: bool
) -> None:
    it = run(forced_tokens=forced_tokens)
    least = needed(it, GRAMMAR)
    budgets = [least, least + 1, least + 6, 3 * least]
    for key, max_tokens in enumerate(budgets):
        it.engine.submit(key, complete(max_tokens=max_tokens, n=3, seed=key, **sampling))
    it.finish()
    assert it.failures == {}
    for key, max_tokens in enumerate(budgets):
        for index in range(3):
            value = json.loads(it.text(key, index))
            assert isinstance(value["title"], str)
            assert all(len(page) >= 2 for page in value["pages"])
            assert it.of(key, index)[-1].finish_reason == "stop"
            assert it.completion_tokens(key, index) <= max_tokens


def test_logprobs_are_those_of_the_tokens_that_are_taken(run: Callable[..., Run]) -> None:
    it = run()
    max_tokens = needed(it, GRAMMAR)
    it.engine.submit(1, complete(max_tokens=max_tokens, logprobs=1))
    it.finish()
    for delta in it.of(1):
        assert delta.logprobs is not None
        assert [entry.token_id for entry in delta.logprobs] == list(delta.token_ids)


def test_neighbours_that_need_not_be_complete_are_answered_as_ever(run: Callable[..., Run]) -> None:
    plain = replace(complete(max_tokens=20, temperature=0.0), complete=False)
    alone = run()
    alone.engine.submit(1, plain)
    alone.finish()
    crowd = run()
    crowd.engine.submit(1, plain)
    for key in (2, 3):
        crowd.engine.submit(key, complete(max_tokens=40))
    crowd.finish()
    assert crowd.text(1) == alone.text(1)
    assert crowd.of(1)[-1].finish_reason == alone.of(1)[-1].finish_reason == "length"


def test_an_answer_with_few_tokens_is_the_same_alone_and_in_a_crowd(run: Callable[..., Run]) -> None:
    answers = []
    for crowd in (1, 6):
        it = run()
        max_tokens = needed(it, GRAMMAR) + 5
        for key in range(crowd):
            it.engine.submit(key, complete(max_tokens=max_tokens, seed=key))
        it.finish()
        answers.append(it.text(0))
    assert answers[0] == answers[1]


def test_a_budget_that_holds_no_answer_is_refused_before_the_first_token(run: Callable[..., Run]) -> None:
    it = run()
    least = needed(it, GRAMMAR)
    it.engine.submit(1, complete(max_tokens=least - 1, n=2))
    it.finish()
    assert it.of(1) == []
    failure = it.failures[1]
    assert isinstance(failure, InvalidRequest)
    assert failure.param == "max_tokens"
    assert f"set it to {least} or more" in failure.message


def test_aborts_and_finished_choices_leave_the_others_complete(run: Callable[..., Run]) -> None:
    it = run()
    for key in (1, 2):
        it.engine.submit(key, complete(max_tokens=60, n=2, seed=key))
    for _ in range(8):
        it.step()
    it.engine.abort(1)
    it.engine.finish_choice(2, 0)
    it.finish()
    json.loads(it.text(2, 1))
    assert it.of(2, 1)[-1].finish_reason == "stop"


def test_end_tokens_that_shall_wait_do_not_wait_beyond_the_last_token(
    run: Callable[..., Run], regex_grammar: Callable[[str], Grammar]
) -> None:
    it = run()
    grammar = regex_grammar("[a-z]+")
    it.engine.submit(1, complete(grammar, max_tokens=6, min_tokens=6))
    it.engine.submit(2, complete(grammar, max_tokens=6, ignore_eos=True))
    it.finish()
    for key in (1, 2):
        assert it.of(key)[-1].finish_reason == "stop"
        assert it.completion_tokens(key, 0) == 6


def test_a_stop_token_is_not_sampled_where_the_answer_would_be_torn(
    run: Callable[..., Run], regex_grammar: Callable[[str], Grammar], ll_tokenizer: LLTokenizer
) -> None:
    grammar = regex_grammar("[xqz]{1,30}, (yes|no)")
    letters = [token for letter in "qxz" for token in ll_tokenizer.tokenize_str(letter)]
    it = run()
    for key, letter in enumerate(letters):
        bias = dict.fromkeys(letters, 50.0)
        it.engine.submit(key, complete(grammar, max_tokens=30, stop_token_ids=(letter,), logit_bias=bias))
    it.finish()
    answered = [key for key in range(3) if key not in it.failures]
    assert len(answered) == 2, "one of the letters is what the shortest answer begins with"
    for key in answered:
        assert re.fullmatch("[xqz]{1,30}, (yes|no)", it.text(key))
        assert it.of(key)[-1].finish_reason == "stop"

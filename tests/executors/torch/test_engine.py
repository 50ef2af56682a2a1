"""Steps of the whole batch, on a model that answers wrongly as soon as its cache is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from llguidance import LLTokenizer

from guidance_core.config import GuidanceSettings, TorchSettings
from guidance_core.errors import GenerationFailed, InvalidGrammar, RequestError
from guidance_core.executors.torch import engine
from guidance_core.executors.torch.engine import Engine, EngineBroken
from guidance_core.executors.torch.segment import Segment
from guidance_core.generation import GenerationRequest, Grammar, TokenDelta
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from guidance_core.guidance.batch import GuidanceBatch
from tests.executors.torch.fakes import FakeRunner, request

MakeGrammar = Callable[[str], Grammar]


class Harness:
    """An engine, and all that it has said."""

    def __init__(self, runner: FakeRunner, guidance: GuidanceBatch | None = None, **settings: object) -> None:
        self.runner = runner
        self.engine = Engine(runner, guidance, TorchSettings(**{"max_num_tokens": 32, **settings}))  # type: ignore[arg-type]
        self.deltas: list[tuple[int, TokenDelta]] = []
        self.failures: dict[int, RequestError] = {}

    def step(self) -> list[tuple[int, TokenDelta]]:
        stepped = self.engine.step()
        self.deltas += stepped.deltas
        for key, error in stepped.failures:
            assert key not in self.failures
            self.failures[key] = error
        return stepped.deltas

    def run(self, *requests: GenerationRequest) -> list[list[int]]:
        """The answers to requests that come together (their first choices)."""
        for key, asked in enumerate(requests, start=len(self.deltas) + 1000):
            self.engine.submit(key, asked)
        self.finish()
        return [self.answer(key) for key in range(key - len(requests) + 1, key + 1)]

    def finish(self) -> None:
        while self.engine.runnable or self.engine.compiling:
            self.step()

    def answer(self, key: int, index: int = 0) -> list[int]:
        return [token for k, d in self.deltas if (k, d.index) == (key, index) for token in d.token_ids]

    def last(self, key: int, index: int = 0) -> TokenDelta:
        *before, last = [d for k, d in self.deltas if (k, d.index) == (key, index)]
        assert all(d.finish_reason is None for d in before)
        return last


@pytest.fixture
def harness() -> Harness:
    return Harness(FakeRunner())


def guided_by(ll_tokenizer: LLTokenizer, **settings: object) -> Harness:
    size = ll_tokenizer.vocab_size
    guidance = GuidanceBatch(
        ll_tokenizer,
        vocab_size=size,
        max_rows=4,
        settings=GuidanceSettings(threads=1, **settings),  # type: ignore[arg-type]
    )
    return Harness(FakeRunner(vocab_size=size), guidance)


@pytest.fixture
def guided(ll_tokenizer: LLTokenizer) -> Callable[..., Harness]:
    return partial(guided_by, ll_tokenizer)


@pytest.fixture
def without_control_characters(tokenizer_folder: Path, tmp_path: Path) -> LLTokenizer:
    """As many tokenizers are: no token has one of two bytes."""
    definition = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    vocabulary = definition["model"]["vocab"]
    for byte in (4, 6):
        vocabulary[f"unused {byte}"] = vocabulary.pop(chr(0x100 + byte))  # as ByteLevel writes it
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    return load_ll_tokenizer(tmp_path, None, [0])


def test_answers_are_the_models_own_alone_and_in_a_crowd(harness: Harness) -> None:
    prompts = [tuple(range(1 + i, 4 + 7 * i)) for i in range(9)]
    answers = harness.run(*(request(prompt, max_tokens=20) for prompt in prompts))
    assert answers == [harness.runner.greedy(prompt, 20) for prompt in prompts]


def test_each_token_is_told_in_the_step_that_sampled_it(harness: Harness) -> None:
    harness.engine.submit(1, request((1, 2), max_tokens=3))
    assert [[d.token_ids for _, d in harness.step()] for _ in range(3)] == [
        [(token,)] for token in harness.runner.greedy((1, 2), 3)
    ]
    assert harness.last(1).finish_reason == "length"
    assert not harness.engine.runnable


def test_a_known_prefix_is_not_run_again_and_changes_nothing(harness: Harness) -> None:
    prompt = tuple(range(1, 60))
    [first] = harness.run(request(prompt))
    before = len(harness.runner.batches)
    continued = (*prompt, *first, 9, 8)
    assert harness.run(request(continued)) == [harness.runner.greedy(continued, 8)]
    [segment] = harness.runner.batches[before]
    # All but the last answered token, which was never run, and what is new.
    assert (segment.start, len(segment.token_ids)) == (len(prompt) + len(first) - 1, 3)
    assert harness.deltas[-8][1].cached_tokens == segment.start
    assert harness.engine.stats().cached_tokens == segment.start


def test_choices_draw_apart_and_repeat_by_seed(harness: Harness) -> None:
    asked = request(tuple(range(1, 30)), n=3, temperature=1.0, seed=5, max_tokens=12)
    for key in (1, 2):
        harness.engine.submit(key, asked)
    harness.finish()
    first = [harness.answer(1, index) for index in range(3)]
    assert first == [harness.answer(2, index) for index in range(3)]
    assert len({tuple(answer) for answer in first}) == 3
    assert harness.last(1, 2).finish_reason is not None
    assert [d.cached_tokens for k, d in harness.deltas if k == 1 and d.cached_tokens is not None] == [0, 28, 28]


def test_an_abort_frees_the_slots_at_once(harness: Harness) -> None:
    harness.engine.submit(1, request((1, 2), n=6, max_tokens=50))
    harness.step()
    harness.engine.abort(1)
    stats = harness.engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert harness.run(request((1, 2))) == [harness.runner.greedy((1, 2), 8)]


def test_an_abort_amid_the_prompt_leaves_only_what_was_run(harness: Harness) -> None:
    prompt = tuple(i % 60 + 1 for i in range(100))
    harness.engine.submit(1, request(prompt))
    harness.step()
    harness.engine.abort(1)
    assert harness.engine.stats().kv_tokens == 32
    assert harness.run(request(prompt)) == [harness.runner.greedy(prompt, 8)]


def test_a_finished_choice_ends_with_stop_and_the_others_go_on(harness: Harness) -> None:
    harness.engine.submit(1, request((1, 2), n=2, max_tokens=6, logit_bias={0: -100.0}))
    harness.step()
    harness.step()
    harness.engine.finish_choice(1, 0)
    harness.engine.finish_choice(1, 7)
    harness.engine.finish_choice(9, 0)
    harness.finish()
    assert harness.last(1, 0) == TokenDelta(index=0, finish_reason="stop")
    assert len(harness.answer(1, 1)) == 6


@pytest.mark.parametrize("place", ["prefill", "decode"])
def test_a_request_that_makes_a_step_fail_fails_alone(harness: Harness, place: str) -> None:
    def trouble(segment: Segment, logits: torch.Tensor) -> None:
        if 33 in segment.token_ids:
            raise RuntimeError("boom")

    harness.runner.trouble = trouble
    prompts = [(1, 2, 3), (4, 33) if place == "prefill" else (4, 5), (6,), (7, 8)]
    asked = [request(prompt, max_tokens=6) for prompt in prompts]
    asked[1] = replace(asked[1], sampling=replace(asked[1].sampling, logit_bias={33: 100.0}, n=2))
    for key, each in enumerate(asked):
        harness.engine.submit(key, each)
    harness.finish()
    assert list(harness.failures) == [1]
    assert isinstance(harness.failures[1], GenerationFailed)
    assert "boom" in harness.failures[1].message
    for key in (0, 2, 3):
        assert harness.answer(key) == harness.runner.greedy(prompts[key], 6)
    harness.runner.trouble = None
    assert harness.run(request((4, 33))) == [harness.runner.greedy((4, 33), 8)]


def test_invalid_numbers_fail_alone_and_leave_nothing_in_the_slot(harness: Harness) -> None:
    def trouble(segment: Segment, logits: torch.Tensor) -> None:
        if 33 in segment.token_ids:
            logits[3] = math.nan

    harness.runner.trouble = trouble
    prompts = [(1, 2, 3), (4, 33, 5)]
    for key, prompt in enumerate(prompts):
        harness.engine.submit(key, request(prompt))
    harness.finish()
    assert list(harness.failures) == [1]
    assert "NaN" in harness.failures[1].message
    assert harness.answer(0) == harness.runner.greedy(prompts[0], 8)
    assert harness.runner.cleared == [(1, 3)]
    assert harness.engine.stats().kv_tokens == len(prompts[0]) + len(harness.answer(0)) - 1


def test_a_model_that_fails_on_everything_ends_the_engine(harness: Harness) -> None:
    def trouble(segment: Segment, logits: torch.Tensor) -> None:
        raise RuntimeError("device lost")

    harness.runner.trouble = trouble
    harness.engine.submit(1, request())
    with pytest.raises(EngineBroken, match="device lost"):
        harness.engine.step()


def text(tokenizer: LLTokenizer, tokens: list[int]) -> str:
    return tokenizer.decode_str(tokens)


def test_what_stops_under_a_grammar_is_in_it(
    guided: Callable[..., Harness], ll_tokenizer: LLTokenizer, regex_grammar: MakeGrammar
) -> None:
    harness = guided()
    asked = request(grammar=regex_grammar("(yes|no), [0-9]{3}"), temperature=1.0, n=4, max_tokens=30)
    harness.engine.submit(1, asked)
    harness.finish()
    for index in range(4):
        assert harness.last(1, index).finish_reason == "stop"
        answer = text(ll_tokenizer, harness.answer(1, index))
        assert answer[:-5] in ("yes", "no")
        assert answer[-3:].isdigit()


@pytest.mark.parametrize("logprobs", [None, 2])
def test_forced_tokens_change_the_work_but_not_the_answer(
    guided: Callable[..., Harness], ll_tokenizer: LLTokenizer, regex_grammar: MakeGrammar, logprobs: int | None
) -> None:
    grammar = regex_grammar('\\{"orderName": "(paper|pencils)", "price": [0-9]\\}')
    asked = request(grammar=grammar, max_tokens=60, logprobs=logprobs)
    answers, steps = [], []
    for forced_tokens in (True, False):
        harness = guided(forced_tokens=forced_tokens)
        harness.engine.submit(1, asked)
        harness.finish()
        assert harness.last(1).finish_reason == "stop"
        answers.append(text(ll_tokenizer, harness.answer(1)))
        stats = harness.engine.stats()
        steps.append(stats.steps)
        assert stats.forced_tokens == sum(d.guidance.forced_tokens for _, d in harness.deltas if d.guidance)
        assert (stats.forced_tokens > 10) == forced_tokens
        assert stats.forced_tokens + stats.sampled_tokens == len(harness.answer(1)) + (
            harness.last(1).stop_token_id is not None
        )
        if logprobs is not None:
            check_logprobs(harness, asked.prompt_ids)
    assert answers[0] == answers[1]
    assert steps[0] < steps[1] / 2


def check_logprobs(harness: Harness, prompt: tuple[int, ...]) -> None:
    """Every token of the answer has the model's own logprob, forced or not."""
    tokens = list(prompt)
    for _, delta in harness.deltas:
        assert delta.logprobs is not None
        assert [entry.token_id for entry in delta.logprobs] == list(delta.token_ids)
        for entry in delta.logprobs:
            expected = harness.runner.logits(tokens).log_softmax(-1)
            assert entry.logprob == pytest.approx(expected[entry.token_id].item(), abs=1e-4)
            assert [token for token, _ in entry.top] == expected.topk(2)[1].tolist()
            tokens.append(entry.token_id)


@pytest.mark.parametrize("measure_mass", [True, False])
def test_the_allowed_mass_is_measured_at_every_sampled_token_where_asked_and_else_now_and_then(
    guided: Callable[..., Harness], regex_grammar: MakeGrammar, measure_mass: bool
) -> None:
    harness = guided()
    asked = replace(request(grammar=regex_grammar("[a-z]{80}"), max_tokens=60), measure_mass=measure_mass)
    harness.engine.submit(1, asked)
    harness.finish()
    masses = [d.guidance.allowed_mass for _, d in harness.deltas if d.guidance]
    measured = [mass for mass in masses if mass is not None]
    assert all(0 <= mass <= 1 for mass in measured)
    assert len(measured) == len(masses) if measure_mass else 0 < len(measured) <= len(masses) / 8


def test_an_answer_that_is_forced_as_a_whole_needs_no_step(
    guided: Callable[..., Harness], ll_tokenizer: LLTokenizer, regex_grammar: MakeGrammar
) -> None:
    harness = guided()
    [answer] = harness.run(request(grammar=regex_grammar("The quick brown fox"), max_tokens=30))
    assert text(ll_tokenizer, answer) == "The quick brown fox"
    assert harness.deltas[-1][1].finish_reason == "stop"
    assert harness.deltas[-1][1].cached_tokens == 0
    assert harness.runner.batches == []


@pytest.mark.parametrize("logprobs", [None, 0])
def test_max_tokens_cuts_forced_tokens_and_says_length_unless_all_of_them_fit(
    guided: Callable[..., Harness], ll_tokenizer: LLTokenizer, regex_grammar: MakeGrammar, logprobs: int | None
) -> None:
    grammar = regex_grammar("(yes|no), The quick brown fox jumps over")
    [whole] = guided().run(request(grammar=grammar, max_tokens=60, logprobs=logprobs))
    for room in range(1, len(whole) + 1):
        harness = guided()
        [answer] = harness.run(request(grammar=grammar, max_tokens=room, logprobs=logprobs))
        assert answer == whole[:room]
        assert harness.deltas[-1][1].finish_reason == ("stop" if room == len(whole) else "length")
        assert logprobs is None or sum(len(d.logprobs or ()) for _, d in harness.deltas) == room


@pytest.mark.parametrize(("pattern", "reason"), [("[a-z]+", "stop"), ("[a-z]+!", "length")])
def test_a_stop_token_under_a_grammar_is_a_stop_only_where_the_grammar_may_end(
    guided: Callable[..., Harness], ll_tokenizer: LLTokenizer, regex_grammar: MakeGrammar, pattern: str, reason: str
) -> None:
    [stop] = ll_tokenizer.tokenize_str("q")
    harness = guided()
    bias = {stop: 50.0}
    asked = request(
        grammar=regex_grammar(pattern), max_tokens=30, min_tokens=2, stop_token_ids=(stop,), logit_bias=bias
    )
    harness.engine.submit(1, asked)
    harness.finish()
    assert harness.last(1).finish_reason == reason
    assert harness.last(1).stop_token_id == stop
    assert len(harness.answer(1)) == 2


@pytest.mark.parametrize(("lark", "reason"), [('start: "a" <|end|>', "stop"), ('start: "a" <|end|> "b"', "length")])
def test_an_end_token_that_the_grammar_names_is_a_stop_where_nothing_may_follow(
    guided: Callable[..., Harness], lark: str, reason: str
) -> None:
    harness = guided()
    harness.engine.submit(1, request(grammar=Grammar(lark, "lark", lark, lark), max_tokens=9))
    harness.finish()
    assert (harness.last(1).finish_reason, len(harness.answer(1))) == (reason, 1)


def test_under_a_grammar_the_end_waits_for_min_tokens_where_it_can(
    guided: Callable[..., Harness], ll_tokenizer: LLTokenizer, regex_grammar: MakeGrammar
) -> None:
    bias = {0: 50.0}
    harness = guided()
    [early] = harness.run(request(grammar=regex_grammar("[a-z]*"), max_tokens=20, logit_bias=bias))
    [late] = harness.run(request(grammar=regex_grammar("[a-z]*"), max_tokens=20, min_tokens=5, logit_bias=bias))
    [short] = harness.run(request(grammar=regex_grammar("[a-z]{2}"), max_tokens=20, min_tokens=5, logit_bias=bias))
    [never] = harness.run(request(grammar=regex_grammar("[a-z]*"), max_tokens=9, ignore_eos=True, logit_bias=bias))
    assert (len(early), len(late), len(text(ll_tokenizer, short)), len(never)) == (0, 5, 2, 9)
    assert harness.deltas[-1][1].finish_reason == "length"


def test_a_grammar_that_does_not_compile_fails_its_own_request(guided: Callable[..., Harness]) -> None:
    harness = guided()
    bad = Grammar("start: nonsense", "lark", "", "bad")
    harness.engine.submit(1, request(grammar=bad, n=2))
    harness.engine.submit(2, request((1, 2)))
    harness.finish()
    assert list(harness.failures) == [1]
    assert isinstance(harness.failures[1], InvalidGrammar)
    assert harness.answer(2) == harness.runner.greedy((1, 2), 8)


def test_a_grammar_that_llguidance_gives_up_at_the_first_character_is_refused(guided: Callable[..., Harness]) -> None:
    source = "start: " + " ".join(f'"{number}"?' for number in range(2_500))
    harness = guided()
    harness.engine.submit(1, request(grammar=Grammar(source, "lark", source, "many")))
    harness.finish()
    assert isinstance(harness.failures[1], InvalidGrammar)
    assert "cannot begin" in harness.failures[1].message


@pytest.mark.parametrize("pattern", ["\x04", "\x04a", "a\x04b", "a(\x04|\x06)"])
@pytest.mark.parametrize("forced_tokens", [True, False])
def test_a_grammar_that_demands_what_no_token_writes_is_refused(
    without_control_characters: LLTokenizer, regex_grammar: MakeGrammar, pattern: str, forced_tokens: bool
) -> None:
    harness = guided_by(without_control_characters, forced_tokens=forced_tokens)
    harness.engine.submit(1, request(grammar=regex_grammar(pattern)))
    harness.finish()
    assert isinstance(harness.failures[1], InvalidGrammar)
    assert "cannot write" in harness.failures[1].message


def test_guided_and_free_requests_mix(
    guided: Callable[..., Harness], ll_tokenizer: LLTokenizer, regex_grammar: MakeGrammar
) -> None:
    harness = guided()
    grammar = regex_grammar("[0-9]{4}-[0-9]{2}")
    answers = harness.run(*(request((i + 1, 9), grammar=grammar if i % 2 else None, max_tokens=12) for i in range(8)))
    for i, answer in enumerate(answers):
        if i % 2:
            assert text(ll_tokenizer, answer)[4] == "-"
        else:
            assert answer == harness.runner.greedy((i + 1, 9), 12)


def test_a_request_that_cannot_be_made_keeps_no_adapter_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    class Adapters:
        in_use = 0

        def has_room(self, lora: object) -> bool:
            return True

        def acquire(self, lora: object) -> object:
            self.in_use += 1
            return lora

        def release(self, adapter: object) -> None:
            self.in_use -= 1

    def fail(image: object) -> None:
        raise MemoryError("no room for the image")

    adapters = Adapters()
    runner = FakeRunner()
    built = Engine(runner, None, TorchSettings(), adapters)  # type: ignore[arg-type]
    monkeypatch.setattr(engine, "SequenceImage", fail)
    built.submit(1, replace(request(), lora=object(), images=(object(),)))  # type: ignore[arg-type]
    [(key, error)] = built.step().failures
    assert key == 1
    assert "no room for the image" in error.message
    assert adapters.in_use == 0
    assert not built._sequences

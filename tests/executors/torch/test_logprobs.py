"""Log-probabilities of prompts: the model's own, whatever else a request asks for, and in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from llguidance import LLTokenizer

from guidance_core.config import GuidanceSettings, TorchSettings
from guidance_core.errors import GenerationFailed
from guidance_core.executors.torch.engine import Engine, Runner
from guidance_core.executors.torch.scheduler import Scheduler
from guidance_core.executors.torch.segment import Segment
from guidance_core.executors.torch.sequence import Sequence as Choice
from guidance_core.executors.torch.slots import Slots
from guidance_core.generation import GenerationRequest, Grammar, TokenDelta, TokenLogprob
from guidance_core.guidance.batch import GuidanceBatch
from tests.executors.torch.fakes import FakeRunner, choice, request
from tests.executors.torch.test_model_runner import SERVED, load, save_model

PROMPT = tuple(range(1, 60))


def deltas(
    runner: Runner, *requests: GenerationRequest, guidance: GuidanceBatch | None = None
) -> list[list[TokenDelta]]:
    """What each of the requests, which come together, is told."""
    engine = Engine(runner, guidance, TorchSettings(max_num_tokens=32))
    told: list[list[TokenDelta]] = [[] for _ in requests]
    for key, asked in enumerate(requests):
        engine.submit(key, asked)
    working = True
    while working:
        stepped = engine.step()
        working = engine.runnable or engine.compiling
        for _, error in stepped.failures:
            raise error
        for key, delta in stepped.deltas:
            told[key].append(delta)
    return told


def scores(told: list[TokenDelta]) -> tuple[TokenLogprob, ...]:
    """The prompt's log-probabilities, which are told once, before anything else of choice 0."""
    [first, *later] = [delta for delta in told if delta.index == 0]
    assert first.prompt_logprobs is not None
    assert all(delta.prompt_logprobs is None for delta in told if delta is not first), later
    return first.prompt_logprobs


def check(got: Sequence[TokenLogprob], prompt: Sequence[int], logits: torch.Tensor, top: int) -> None:
    """These are what the logits of a plain forward pass over the prompt say."""
    expected = logits.double().log_softmax(-1)
    assert [entry.token_id for entry in got] == list(prompt[1:])
    for entry, row in zip(got, expected, strict=False):
        assert entry.logprob == pytest.approx(row[entry.token_id].item(), abs=1e-4)
        assert entry.rank == int((row >= row[entry.token_id]).sum())
        values, ids = row.topk(top)
        assert [token for token, _ in entry.top] == ids.tolist()
        assert [value for _, value in entry.top] == pytest.approx(values.tolist(), abs=1e-4)


def plain(runner: FakeRunner, prompt: Sequence[int]) -> torch.Tensor:
    return torch.stack([runner.logits(prompt[:length]) for length in range(1, len(prompt))])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_they_are_the_log_softmax_of_transformers_own_forward_pass(tmp_path: Path, name: str) -> None:
    model = save_model(tmp_path, *SERVED[name])
    runner = load(tmp_path)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, runner.vocab_size, (n,), generator=generator).tolist() for n in (90, 2, 41)]
    asked = [request(prompt, prompt_logprobs=5, max_tokens=n) for prompt, n in zip(prompts, (0, 1, 6), strict=True)]
    for prompt, told in zip(prompts, deltas(runner, *asked), strict=True):
        with torch.no_grad():
            check(scores(told), prompt, model(torch.tensor([prompt])).logits[0], 5)


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"logprobs": 2},
        {"temperature": 3.0, "logit_bias": {7: 50.0}, "repetition_penalty": 5.0, "bad_token_ids": ((9,),)},
        {"max_tokens": 0},
        {"n": 3, "temperature": 1.0},
    ],
    ids=str,
)
def test_how_tokens_are_chosen_does_not_change_them(sampling: dict[str, object]) -> None:
    runner = FakeRunner()
    [told] = deltas(runner, request(PROMPT, prompt_logprobs=3, **sampling))
    check(scores(told), PROMPT, plain(runner, PROMPT), 3)


@pytest.mark.parametrize("logprobs", [None, 2])
@pytest.mark.parametrize("max_tokens", [0, 3, 60])
def test_nor_does_a_grammar_and_what_it_forces(
    ll_tokenizer: LLTokenizer, regex_grammar: Callable[[str], Grammar], logprobs: int | None, max_tokens: int
) -> None:
    size = ll_tokenizer.vocab_size
    runner = FakeRunner(vocab_size=size)
    guidance = GuidanceBatch(ll_tokenizer, vocab_size=size, max_rows=4, settings=GuidanceSettings(threads=1))
    # The first one is forced as a whole, the second one begins with a choice.
    for pattern in ("The quick brown fox", "[ab]bcd"):
        sampling = {"grammar": regex_grammar(pattern), "max_tokens": max_tokens, "logprobs": logprobs}
        [bare] = deltas(runner, request(PROMPT, **sampling), guidance=guidance)
        [told] = deltas(runner, request(PROMPT, prompt_logprobs=1, **sampling), guidance=guidance)
        check(scores(told), PROMPT, plain(runner, PROMPT), 1)
        assert [t for d in told for t in d.token_ids] == [t for d in bare for t in d.token_ids]
        assert told[-1].finish_reason == bare[-1].finish_reason


def test_a_known_prefix_is_run_again_for_them_and_its_choices_run_it_once() -> None:
    runner = FakeRunner()
    deltas(runner, request(PROMPT))
    runner.batches.clear()
    [told] = deltas(runner, request(PROMPT, prompt_logprobs=0, n=3, temperature=1.0, max_tokens=1))
    check(scores(told), PROMPT, plain(runner, PROMPT), 0)
    ran = [segment for batch in runner.batches for segment in batch]
    assert [(s.start, len(s.token_ids), s.logits) for s in ran] == [
        (0, 32, "all"),
        (32, 27, "all"),
        (58, 1, "last"),
        (58, 1, "last"),
    ]
    assert {d.index: d.cached_tokens for d in told} == {0: 0, 1: 58, 2: 58}


def test_a_prompt_of_one_token_has_none() -> None:
    [told] = deltas(FakeRunner(), request((5,), prompt_logprobs=4, max_tokens=1))
    assert scores(told) == ()


def test_an_answer_of_no_tokens_needs_no_step_where_nothing_is_asked_of_the_prompt() -> None:
    runner = FakeRunner()
    [[only]] = deltas(runner, request(PROMPT, max_tokens=0))
    assert (only.token_ids, only.finish_reason, only.prompt_logprobs) == ((), "length", None)
    assert runner.batches == []


def test_a_step_has_a_bounded_number_of_wide_rows() -> None:
    scheduler = Scheduler(Slots(4, 4096, share=True), 2048)
    asked: list[Choice] = [choice([key] * 1000, key=key, prompt_logprobs=0) for key in (1, 2)]
    asked.append(choice([3] * 1000, key=3))
    for sequence in asked:
        scheduler.add(sequence)
    rows, steps = 0, 0
    while any(sequence.in_prefill for sequence in asked):
        plan = scheduler.schedule()
        steps += 1
        wide = sum(len(work.segment.token_ids) for work in plan.work if work.segment.logits == "all")
        assert wide <= 256
        rows += wide
        for work in plan.work:
            segment, sequence = work.segment, work.sequence
            scheduler.slots.write(segment.slot, segment.start, segment.token_ids)
            sequence.computed += len(segment.token_ids)
            if segment.logits == "all":
                for _ in range(min(len(segment.token_ids), sequence.unscored)):
                    sequence.score(TokenLogprob(1, 0.0))
            if sequence.computed == len(sequence.tokens):
                sequence.append(9, None)
        if steps == 1:
            assert not asked[2].in_prefill, "who asks for none is not slowed down"
    assert rows == 2000
    assert steps == math.ceil(rows / 256)


def test_invalid_numbers_fail_the_request() -> None:
    runner = FakeRunner()

    def spoil(segment: Segment, logits: torch.Tensor) -> None:
        if segment.start == 0:
            logits[3] = math.nan

    runner.trouble = spoil
    with pytest.raises(GenerationFailed, match="invalid numbers"):
        deltas(runner, request(PROMPT, prompt_logprobs=0, max_tokens=0))

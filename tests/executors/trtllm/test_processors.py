"""Our logits processors where TensorRT-LLM calls them: masks, draws, chunks of prompts, batches, failures."""

from __future__ import annotations

import pickle
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import Any

import pytest
import torch
from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.executors.trtllm.batched_processor import BatchedProcessor
from guidance_core.executors.trtllm.link import Address, ServiceEnd, WorkerEnd
from guidance_core.executors.trtllm.request_processor import RequestProcessor
from guidance_core.executors.trtllm.task import Failure, Report, Task, WorkerSetup
from guidance_core.generation import Grammar
from tests.executors.asking import make_request

PROMPT = (5, 6, 7)
STREAM = 0

Told = "queue.SimpleQueue[list[Report | Failure]]"


@pytest.fixture
def told() -> Told:
    """What workers tell the service."""
    return queue.SimpleQueue()


@pytest.fixture
def service(told: Told) -> Iterator[ServiceEnd]:
    end = ServiceEnd(told.put)
    yield end
    end.close()


@pytest.fixture
def setup(service: ServiceEnd, tokenizer_folder: Path, ll_tokenizer: LLTokenizer) -> WorkerSetup:
    return WorkerSetup(tokenizer_folder, ll_tokenizer.vocab_size, (0,), GuidanceSettings(), 4, service.address)


def task(key: int, grammar: Grammar | None = None, *, draws: bool = False, **sampling: Any) -> Task:
    return Task(key, make_request(PROMPT, grammar, **sampling), 0, seed=1, draws=draws)


def allowed(logits: torch.Tensor) -> set[int]:
    return set(torch.isfinite(logits.flatten()).nonzero().flatten().tolist())


def next_tokens(tokenizer: LLTokenizer, grammar: Grammar, *taken: int) -> set[int]:
    """What a grammar allows after some tokens, from a matcher of its own."""
    matcher = LLMatcher(tokenizer, grammar.source)
    assert matcher.try_consume_tokens(list(taken)) == len(taken)
    return {token for token in range(tokenizer.vocab_size) if matcher.validate_tokens([token]) == 1}


def copied(processor: Any) -> Any:
    """As it arrives in another process."""
    return pickle.loads(pickle.dumps(processor))


def test_a_request_processor_masks_and_follows_the_tokens(
    setup: WorkerSetup, regex_grammar: Callable[[str], Grammar], ll_tokenizer: LLTokenizer
) -> None:
    grammar = regex_grammar("ab[0-9]{2}")
    processor = copied(RequestProcessor(setup, task(1, grammar)))
    answer: list[int] = []
    for _ in range(3):
        expected = next_tokens(ll_tokenizer, grammar, *answer)
        for _ in range(2):  # once for each chunk of a prompt, and again after a pause
            logits = torch.randn(1, 1, setup.vocab_size)
            processor(17, logits, [[*PROMPT, *answer]], None, None)
            assert allowed(logits) == expected
        answer.append(max(expected - {0}))


@pytest.mark.parametrize("draws", [False, True], ids=["masks", "draws"])
def test_tokens_that_the_engine_forgot_in_a_pause_are_masked_and_drawn_as_before(
    setup: WorkerSetup, told: Told, regex_grammar: Callable[[str], Grammar], draws: bool
) -> None:
    processor = copied(RequestProcessor(setup, task(8, regex_grammar("ab[0-9]{4}"), draws=draws, temperature=1.0)))
    raw = torch.randn(5, setup.vocab_size)

    def left(answer: list[int]) -> set[int]:
        logits = raw[len(answer)].clone().view(1, 1, -1)
        processor(17, logits, [[*PROMPT, *answer]], None, None)
        return allowed(logits)

    answer: list[int] = []
    steps = []
    for _ in range(5):
        steps.append(left(answer))
        answer.append(max(steps[-1]))
    assert [left(answer[:length]) for length in range(2, 5)] == steps[2:]
    if draws:
        positions = [report.position for _ in range(8) for report in told.get(timeout=5)]
        assert positions == [0, 1, 2, 3, 4, 2, 3, 4]


def test_a_request_processor_has_no_matcher_while_it_travels(
    setup: WorkerSetup, regex_grammar: Callable[[str], Grammar]
) -> None:
    processor = RequestProcessor(setup, task(2, regex_grammar("ab")))
    before = pickle.dumps(processor)
    processor(17, torch.randn(1, 1, setup.vocab_size), [list(PROMPT)], None, None)
    assert len(pickle.dumps(processor)) == len(before)


def test_a_drawn_token_is_all_that_is_left_and_is_reported(setup: WorkerSetup, told: Told) -> None:
    processor = copied(RequestProcessor(setup, task(3, draws=True, temperature=1.0, logprobs=2)))
    raw = torch.randn(1, 1, setup.vocab_size, dtype=torch.bfloat16)
    drawn = []
    for _ in range(2):  # the same position of the same logits: the same draw
        logits = raw.clone()
        processor(17, logits, [list(PROMPT)], None, None)
        [token] = allowed(logits)
        [report] = told.get(timeout=5)
        assert isinstance(report, Report)
        assert (report.key, report.position, report.token_id) == (3, 0, token)
        assert report.logprob is not None
        expected = raw.flatten().float().log_softmax(-1)[token].item()
        assert report.logprob.logprob == pytest.approx(expected, abs=1e-4)
        drawn.append(token)
    assert drawn[0] == drawn[1]


def test_a_batch_is_masked_together_and_only_where_asked(
    setup: WorkerSetup,
    service: ServiceEnd,
    told: Told,
    regex_grammar: Callable[[str], Grammar],
    ll_tokenizer: LLTokenizer,
) -> None:
    grammars = [regex_grammar("[a-c]+"), regex_grammar("[0-9]{3}")]
    tasks = {
        11: task(4, grammars[0]),
        12: task(5, draws=True, temperature=1.0),
        13: task(6, grammars[1]),
        14: task(7, grammars[0], draws=True, temperature=1.0, min_p=0.2),
    }
    for client, each in tasks.items():
        service.publish(client, each)
    processor = copied(BatchedProcessor(setup))
    padded = setup.vocab_size + 20
    logits = [torch.randn(1, 1, padded) for _ in tasks]
    processor([1, 2, 3, 4], logits, [[list(PROMPT)]] * 4, STREAM, list(tasks))
    assert allowed(logits[0]) == next_tokens(ll_tokenizer, grammars[0])
    assert len(allowed(logits[1])) == 1
    assert allowed(logits[2]) == next_tokens(ll_tokenizer, grammars[1])
    [token] = allowed(logits[3])
    assert token in next_tokens(ll_tokenizer, grammars[0])
    assert {report.key for report in told.get(timeout=5)} == {5, 7}


def test_a_batch_changes_from_step_to_step(
    setup: WorkerSetup, service: ServiceEnd, regex_grammar: Callable[[str], Grammar], ll_tokenizer: LLTokenizer
) -> None:
    grammars = [regex_grammar("[a-c]{5}"), regex_grammar("[0-9]{5}")]
    processor = copied(BatchedProcessor(setup))
    answers: list[list[int]] = [[], []]
    for step in range(6):
        if step < 2:
            service.publish(step, task(20 + step, grammars[step]))
        members = [0] if step == 0 else [1, 0] if step < 4 else [1]
        if step == 4:
            service.withdraw(0)
        logits = [torch.randn(1, 1, setup.vocab_size) for _ in members]
        tokens = [[[*PROMPT, *answers[i]]] for i in members]
        processor(list(members), logits, tokens, STREAM, list(members))
        for i, row in zip(members, logits, strict=True):
            expected = next_tokens(ll_tokenizer, grammars[i], *answers[i])
            assert allowed(row) == expected
            answers[i].append(min(expected - {0}, default=0))


def test_a_choice_that_fails_is_told_and_ends_and_its_neighbours_go_on(
    setup: WorkerSetup,
    service: ServiceEnd,
    told: Told,
    regex_grammar: Callable[[str], Grammar],
    ll_tokenizer: LLTokenizer,
) -> None:
    good = regex_grammar("[a-c]+")
    bad = replace(good, source="start: /a", key="bad")
    for client, each in {1: task(30, good), 2: task(31, bad), 3: task(32, draws=True)}.items():
        service.publish(client, each)
    logits = [torch.randn(1, 1, setup.vocab_size) for _ in range(3)]
    logits[2].fill_(float("nan"))
    copied(BatchedProcessor(setup))([1, 2, 3], logits, [[list(PROMPT)]] * 3, STREAM, [1, 2, 3])
    assert allowed(logits[0]) == next_tokens(ll_tokenizer, good)
    assert allowed(logits[1]) == allowed(logits[2]) == {0}
    failures = told.get(timeout=5)
    assert {failure.key for failure in failures} == {31, 32}
    assert all(isinstance(failure, Failure) and failure.message for failure in failures)


def test_a_processor_never_raises(setup: WorkerSetup, tmp_path: Path, told: Told) -> None:
    # An engine would fail all requests in flight.
    broken = replace(setup, model_path=tmp_path)
    logits = torch.randn(1, 1, setup.vocab_size)
    copied(RequestProcessor(broken, task(40, draws=True)))(1, logits, [list(PROMPT)], None, None)
    assert allowed(logits) == {0}
    [failure] = told.get(timeout=5)
    assert (failure.key, "tokenizer.json" in failure.message) == (40, True)
    logits = torch.randn(1, 1, setup.vocab_size)
    copied(BatchedProcessor(broken))([1], [logits], [[list(PROMPT)]], STREAM, [1])
    assert allowed(logits) == {0}


def test_nobody_waits_for_a_task_that_was_withdrawn(service: ServiceEnd) -> None:
    service.publish("a", "task")
    worker = WorkerEnd(service.address)
    assert worker.entry("a", 5) == "task"
    service.withdraw("a")
    service.publish("b", "later")
    assert worker.entry("b", 5) == "later"
    asked = time.monotonic()
    assert worker.entry("a", 60) is None
    assert time.monotonic() - asked < 30


def test_who_does_not_know_the_secret_is_not_heard(setup: WorkerSetup, service: ServiceEnd, told: Told) -> None:
    with pytest.raises((AuthenticationError, EOFError, ConnectionError)):
        WorkerEnd(Address(service.address.path, b"guessed"))
    WorkerEnd(service.address).send(["heard"])
    assert told.get(timeout=5) == ["heard"]
    assert told.empty()

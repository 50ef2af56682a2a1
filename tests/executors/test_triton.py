"""The executor's contract, on the token-level model of a real Triton server; and what only a server can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from guidance_core.errors import GenerationFailed, Unsupported
from guidance_core.executors.base import Executor
from guidance_core.executors.triton.executor import TritonExecutor
from guidance_core.generation import FinishReason, Grammar
from tests.executors.asking import answer, choices, make_request, settled
from tests.executors.contract import ExecutorContract
from tests.executors.triton.engine_process import Engine
from tests.executors.triton.fixtures import idle, started, until_failure
from tests.executors.triton.server import TritonServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor(tiny_llama: Path, triton_server: TritonServer) -> AsyncIterator[TritonExecutor]:
    executor = await started(tiny_llama, triton_server, "tiny")
    yield executor
    await executor.shutdown()


class TestContract(ExecutorContract):
    """The token-level model; what Triton's interface lacks is refused by name."""

    # What happens inside the server's engine is its own.
    test_a_long_prompt_does_not_stall_others = None  # type: ignore[assignment]

    async def test_a_finished_choice_ends_with_stop_and_the_others_go_on(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        request = make_request(prompt_ids, n=2, temperature=1.0, max_tokens=300, ignore_eos=True)
        ends: dict[int, FinishReason | None] = {}
        counts = [0, 0]
        async for delta in executor.generate(request):
            counts[delta.index] += len(delta.token_ids)
            if delta.finish_reason is not None:
                ends[delta.index] = delta.finish_reason
            if counts[1] == 2:
                executor.finish_choice(request.request_id, 1)
        assert ends == {0: "length", 1: "stop"}
        assert counts[0] == 300
        assert counts[1] < 300

    async def test_odd_requests_are_answered_and_hurt_nobody(self, executor: Executor, prompt_ids: list[int]) -> None:
        expected = await answer(executor, prompt_ids, max_tokens=40)
        vocabulary = executor.limits().vocab_size
        odd: list[dict[str, object]] = [
            {"top_k": vocabulary + 7, "temperature": 1.0},
            {"temperature": 1e-300},
            {"temperature": 1e30},
            {"top_p": 1e-300, "temperature": 1.0},
            {"repetition_penalty": 1e-30},
            {"logit_bias": dict.fromkeys(range(vocabulary), -100.0)},
            {"logit_bias": {1: 3e38}, "temperature": 1e-5},
            {"seed": -(2**70), "temperature": 1.0},
            {"stop_token_ids": tuple(range(vocabulary))},
        ]

        async def ask(sampling: dict[str, object]) -> None:
            with suppress(GenerationFailed):
                await choices(executor, make_request(prompt_ids[:3], **sampling))

        async def neighbour() -> None:
            assert (await answer(executor, prompt_ids, max_tokens=40)).token_ids == expected.token_ids

        for three in zip(odd[::3], odd[1::3], odd[2::3], strict=True):
            await asyncio.gather(neighbour(), *map(ask, three))

    @pytest.mark.parametrize("penalty", [{"presence_penalty": 1.0}, {"frequency_penalty": 1.0}], ids=str)
    async def test_a_penalty_keeps_tokens_from_coming_again(
        self, executor: Executor, prompt_ids: list[int], penalty: dict[str, float]
    ) -> None:
        with pytest.raises(Unsupported, match="count the prompt's tokens"):
            executor.check(make_request(prompt_ids, **penalty))

    async def test_logprobs_are_the_models_own_and_ordered(self, executor: Executor, prompt_ids: list[int]) -> None:
        with pytest.raises(Unsupported, match="logprobs"):
            executor.check(make_request(prompt_ids, logprobs=0))

    async def test_a_known_prompt_is_reported_as_cached_and_answered_alike(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        first = await answer(executor, prompt_ids)
        again = await answer(executor, prompt_ids)
        assert again.token_ids == first.token_ids
        assert again.cached_tokens == 0, "the server does not say"

    @pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
    async def test_what_ends_with_stop_under_a_grammar_is_in_it(
        self,
        executor: Executor,
        prompt_ids: list[int],
        regex_grammar: Callable[[str], Grammar],
        decode: Callable[[Sequence[int]], str],
        temperature: float,
    ) -> None:
        grammar = regex_grammar('\\{"name": "[A-Z][a-z]{2,12}", "age": [1-9][0-9]?\\}')
        request = make_request(prompt_ids, grammar, n=3, temperature=temperature, max_tokens=60)
        for got in await choices(executor, request):
            assert got.finish_reason == "stop"
            assert decode(got.token_ids).startswith('{"name": "')

    async def test_the_statistics_add_up(self, executor: Executor, prompt_ids: list[int]) -> None:
        before = executor.stats()
        await choices(executor, make_request(prompt_ids, n=2, temperature=1.0, max_tokens=5, ignore_eos=True))
        after = await settled(executor, lambda stats: stats.running == 0)
        assert after.sampled_tokens - before.sampled_tokens == 10
        assert after.prompt_tokens - before.prompt_tokens == 2 * len(prompt_ids)
        assert after.slots == 4


async def test_closing_a_stream_stops_the_work_on_the_server(
    executor: TritonExecutor, triton_engine: Engine, prompt_ids: list[int]
) -> None:
    before = await asyncio.to_thread(triton_engine.stats, "tiny")
    request = make_request(prompt_ids, n=2, max_tokens=450, ignore_eos=True)
    async with aclosing(executor.generate(request)) as stream:
        assert {(await anext(stream)).index for _ in range(20)} == {0, 1}
        assert (await asyncio.to_thread(triton_engine.stats, "tiny"))["running"] == 2
    await idle(triton_engine, "tiny")
    after = await asyncio.to_thread(triton_engine.stats, "tiny")
    assert after["sampled_tokens"] - before["sampled_tokens"] < 800


async def test_inputs_that_older_versions_call_otherwise_are_found(
    executor: TritonExecutor, tiny_llama: Path, triton_server: TritonServer, prompt_ids: list[int]
) -> None:
    sampling = {"temperature": 1.0, "seed": 7, "min_tokens": 6, "max_tokens": 8}
    old = await started(tiny_llama, triton_server, "old")
    try:
        assert (await answer(old, prompt_ids, **sampling)).token_ids == (
            await answer(executor, prompt_ids, **sampling)
        ).token_ids
        bias = dict.fromkeys(old.limits().eos_token_ids, 100.0)
        assert len((await answer(old, prompt_ids, logit_bias=bias, min_tokens=5)).token_ids) == 5
    finally:
        await old.shutdown()


@pytest.mark.parametrize(
    ("named", "sampling"),
    [
        ("seed", {"temperature": 1.0, "seed": 1}),
        ("n", {"temperature": 1.0, "n": 2}),
        ("logit_bias", {"logit_bias": {1: 1.0}}),
        ("min_tokens", {"min_tokens": 1}),
        ("repetition_penalty", {"repetition_penalty": 1.1}),
    ],
    ids=str,
)
async def test_what_the_server_has_no_input_for_is_refused_by_name(
    tiny_llama: Path, triton_server: TritonServer, prompt_ids: list[int], named: str, sampling: dict[str, object]
) -> None:
    plain = await started(tiny_llama, triton_server, "plain")
    try:
        with pytest.raises(Unsupported, match=f"{named} cannot be honoured.*'plain' has no input for it") as refusal:
            plain.check(make_request(prompt_ids, **sampling))
        assert refusal.value.param == named
        assert (await answer(plain, prompt_ids, temperature=1.0)).finish_reason is not None
    finally:
        await plain.shutdown()


@pytest.mark.parametrize(
    ("match", "sampling"),
    [
        ("min_p", {"min_p": 0.1}),
        ("typical_p", {"typical_p": 0.5}),
        ("several end and stop tokens", {"min_tokens": 2, "stop_token_ids": (5,)}),
    ],
    ids=str,
)
async def test_what_no_server_can_do_is_refused_by_name(
    executor: TritonExecutor, prompt_ids: list[int], match: str, sampling: dict[str, object]
) -> None:
    with pytest.raises(Unsupported, match=match):
        executor.check(make_request(prompt_ids, **sampling))


async def test_a_grammar_that_the_server_cannot_follow_is_refused_by_name(
    executor: TritonExecutor,
    tiny_llama: Path,
    triton_server: TritonServer,
    prompt_ids: list[int],
    regex_grammar: Callable[[str], Grammar],
) -> None:
    lark = Grammar('start: "a"', "lark", 'start: "a"', "key")
    with pytest.raises(Unsupported, match="no Lark"):
        executor.check(make_request(prompt_ids, lark))
    grammar = regex_grammar("[ab]+")
    with pytest.raises(Unsupported, match="even where the grammar allows no more"):
        executor.check(make_request(prompt_ids, grammar, min_tokens=2))
    request = make_request(prompt_ids, grammar)
    with pytest.raises(Unsupported, match="end within max_tokens"):
        executor.check(replace(request, complete=True))
    plain = await started(tiny_llama, triton_server, "plain")
    try:
        with pytest.raises(Unsupported, match="response_format"):
            plain.check(request)
    finally:
        await plain.shutdown()


async def test_an_answer_that_leaves_its_grammar_is_an_error_from_there_on(
    tiny_llama: Path,
    triton_server: TritonServer,
    triton_engine: Engine,
    prompt_ids: list[int],
    regex_grammar: Callable[[str], Grammar],
    decode: Callable[[Sequence[int]], str],
) -> None:
    disobedient = await started(tiny_llama, triton_server, "disobedient")
    try:
        free = await answer(disobedient, prompt_ids, ignore_eos=True)
        first = decode(free.token_ids[:1])
        pattern = "".join(f"\\x{{{ord(char):X}}}" for char in first) + "[0-9]{40}"
        request = make_request(prompt_ids, regex_grammar(pattern), max_tokens=400)
        shown, failure = await until_failure(disobedient, request)
        assert isinstance(failure, GenerationFailed)
        assert "left the grammar" in failure.message
        assert decode(shown) == first
        await idle(triton_engine, "tiny")
        # An end token where the grammar does not end is a deviation like any other.
        bias = dict.fromkeys(disobedient.limits().eos_token_ids, 100.0)
        with pytest.raises(GenerationFailed, match="ends where the grammar does not"):
            await answer(disobedient, prompt_ids, regex_grammar("[a-z]+"), logit_bias=bias)
    finally:
        await disobedient.shutdown()


async def test_an_answer_that_the_engines_own_limit_cut_off_says_length(
    tiny_llama: Path, triton_server: TritonServer, prompt_ids: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    short = await started(tiny_llama, triton_server, "short")
    try:
        tokens: list[int] = []
        reasons = []
        async for delta in short.generate(make_request(prompt_ids, max_tokens=40)):
            tokens += delta.token_ids
            reasons.append(delta.finish_reason)
        assert len(tokens) == 60 - len(prompt_ids)
        assert reasons[-1] == "length"
        assert "triton.max_model_len, which should be lowered" in caplog.text
    finally:
        await short.shutdown()

"""What every executor does, whatever runs behind it.

Derive a test class from `ExecutorContract` and give it the fixtures that it names. The model may be any, random weights
included; nothing here knows a tokenizer except through grammars.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

import pytest
import pytest_asyncio

from guidance_core.errors import ContextLengthExceeded, GenerationFailed, InvalidRequest, QueueFull, Unsupported
from guidance_core.executors.base import Executor
from guidance_core.generation import (
    FinishReason,
    GenerationRequest,
    Grammar,
    LoraAdapter,
)
from tests.executors.asking import answer, choices, make_request, settled


def _refusal(executor: Executor, request: GenerationRequest) -> Unsupported | None:
    """How the executor says that it cannot do what is asked, where it cannot."""
    try:
        executor.check(request)
    except Unsupported as refusal:
        return refusal
    return None


class ExecutorContract:
    """The behaviours.

    Fixtures that a subclass or its module gives, on the module's event loop:
        executor: an `Executor` that is ready, with 4 slots, room for 4 more to wait, prefill chunks of at most 32
            tokens and a context of at least 512; every test leaves it idle.
        prompt_ids: a prompt of 40 to 100 tokens.
        regex_grammar: makes a `Grammar` from a regular expression.
        decode: text of token ids.
    """

    @pytest_asyncio.fixture(autouse=True, loop_scope="module")
    async def _stays_idle_and_ready(self, executor: Executor) -> AsyncIterator[None]:
        yield
        assert executor.health().state == "ready"
        await settled(executor, lambda stats: stats.running == stats.waiting == 0)

    async def test_an_answer_has_max_tokens_tokens_of_the_vocabulary(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        got = await answer(executor, prompt_ids, max_tokens=9, ignore_eos=True)
        assert len(got.token_ids) == 9
        assert got.finish_reason == "length"
        assert all(0 <= token < executor.limits().vocab_size for token in got.token_ids)
        assert len(got.seen_at) == 9, "one delta a token"

    async def test_choices_come_interleaved_and_each_ends_once(self, executor: Executor, prompt_ids: list[int]) -> None:
        request = make_request(prompt_ids, n=3, temperature=1.0, max_tokens=10, ignore_eos=True)
        order = [delta.index async for delta in executor.generate(request)]
        assert sorted(order) == sorted([0, 1, 2] * 10)
        assert order != sorted(order)

    async def test_more_choices_than_slots_are_answered_too(self, executor: Executor, prompt_ids: list[int]) -> None:
        got = await choices(executor, make_request(prompt_ids, n=7, temperature=1.0, max_tokens=4))
        assert len(got) == 7

    async def test_greedy_answers_are_the_same_alone_and_in_a_crowd(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        prompts = [prompt_ids[: 5 * i + 1] for i in range(6)]
        alone = [(await answer(executor, prompt, max_tokens=16)).token_ids for prompt in prompts]
        crowd = await asyncio.gather(*(answer(executor, prompt, max_tokens=16) for prompt in prompts))
        assert [got.token_ids for got in crowd] == alone

    async def test_a_seed_repeats_an_answer_alone_and_in_a_crowd(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        async def ask(seed: int) -> list[list[int]]:
            request = make_request(prompt_ids, n=2, temperature=1.0, top_p=0.95, seed=seed, max_tokens=10)
            return [got.token_ids for got in await choices(executor, request)]

        alone = [await ask(seed) for seed in range(3)]
        assert await asyncio.gather(*(ask(seed) for seed in range(3))) == alone
        assert len({tuple(tokens) for pair in alone for tokens in pair}) == 6

    async def test_without_a_seed_answers_differ(self, executor: Executor, prompt_ids: list[int]) -> None:
        got = {tuple((await answer(executor, prompt_ids, temperature=1.0)).token_ids) for _ in range(4)}
        assert len(got) > 1

    async def test_closing_a_stream_frees_its_slots(self, executor: Executor, prompt_ids: list[int]) -> None:
        request = make_request(prompt_ids, n=3, max_tokens=400, ignore_eos=True)
        async with aclosing(executor.generate(request)) as stream:
            async for _ in stream:
                break
            assert executor.stats().running > 0
        steps = executor.stats().steps
        stats = await settled(executor, lambda stats: stats.running == stats.waiting == 0)
        # Steps of this model take less than a message between threads or processes does on a busy machine.
        assert stats.steps - steps <= 40, "the abort waits for no more than the step that runs"
        await asyncio.sleep(0.05)
        assert executor.stats().steps == stats.steps

    async def test_cancelling_a_task_frees_its_slot(self, executor: Executor, prompt_ids: list[int]) -> None:
        task = asyncio.create_task(answer(executor, prompt_ids, max_tokens=400, ignore_eos=True))
        await settled(executor, lambda stats: stats.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settled(executor, lambda stats: stats.running == 0)

    async def test_an_id_is_free_again_after_its_stream_is_closed(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        request = make_request(prompt_ids, max_tokens=60, ignore_eos=True)
        async with aclosing(executor.generate(request)) as stream:
            await anext(stream)
            with pytest.raises(InvalidRequest, match="in flight"):
                await anext(executor.generate(request))
        [got] = await choices(executor, request)
        assert len(got.token_ids) == 60

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
            if min(counts) >= 2:
                executor.finish_choice(request.request_id, 1)
        assert ends == {0: "length", 1: "stop"}
        assert counts[0] == 300
        assert counts[1] < 300

    async def test_finishing_what_is_not_there_is_ignored(self, executor: Executor, prompt_ids: list[int]) -> None:
        executor.finish_choice("nobody", 0)
        request = make_request(prompt_ids, max_tokens=3, ignore_eos=True)
        async for _ in executor.generate(request):
            executor.finish_choice(request.request_id, 5)
        executor.finish_choice(request.request_id, 0)

    @pytest.mark.parametrize(
        ("param", "sampling"),
        [
            ("max_tokens", {"max_tokens": -1}),
            ("min_tokens", {"min_tokens": -1}),
            ("min_tokens", {"min_tokens": 13}),
            ("n", {"n": 0}),
            ("n", {"n": 10_000}),
            ("temperature", {"temperature": -0.1}),
            ("temperature", {"temperature": math.nan}),
            ("temperature", {"temperature": math.inf}),
            ("top_k", {"top_k": -1}),
            ("top_p", {"top_p": 0.0}),
            ("top_p", {"top_p": 1.1}),
            ("min_p", {"min_p": -0.1}),
            ("min_p", {"min_p": 1.1}),
            ("typical_p", {"typical_p": 0.0}),
            ("typical_p", {"typical_p": 1.1}),
            ("repetition_penalty", {"repetition_penalty": 0.0}),
            ("presence_penalty", {"presence_penalty": math.nan}),
            ("frequency_penalty", {"frequency_penalty": math.inf}),
            ("logit_bias", {"logit_bias": {10**6: 1.0}}),
            ("logit_bias", {"logit_bias": {-1: 1.0}}),
            ("logit_bias", {"logit_bias": {1: math.inf}}),
            ("logprobs", {"logprobs": 21}),
            ("logprobs", {"logprobs": -1}),
            ("prompt_logprobs", {"prompt_logprobs": 21}),
            ("prompt_logprobs", {"prompt_logprobs": -1}),
            ("stop_token_ids", {"stop_token_ids": (10**6,)}),
            ("bad_token_ids", {"bad_token_ids": ((1, 10**6),)}),
            ("bad_token_ids", {"bad_token_ids": ((),)}),
        ],
        ids=str,
    )
    async def test_a_value_out_of_range_is_refused_by_name(
        self, executor: Executor, prompt_ids: list[int], param: str, sampling: dict[str, object]
    ) -> None:
        request = make_request(prompt_ids, **sampling)
        with pytest.raises(InvalidRequest, match=param) as refusal:
            executor.check(request)
        assert refusal.value.param == param
        with pytest.raises(InvalidRequest):
            await anext(executor.generate(request))

    @pytest.mark.parametrize("prompt", [(), (1, 10**6), (-1,)], ids=str)
    async def test_a_prompt_that_is_empty_or_of_unknown_tokens_is_refused(
        self, executor: Executor, prompt: tuple[int, ...]
    ) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            executor.check(make_request(prompt))
        assert refusal.value.param == "prompt"

    async def test_a_prompt_and_answer_may_fill_the_context_but_not_exceed_it(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        context = executor.limits().max_model_len
        prompt = (prompt_ids * (context // len(prompt_ids) + 1))[: context - 3]
        got = await answer(executor, prompt, max_tokens=3, ignore_eos=True)
        assert len(got.token_ids) == 3
        with pytest.raises(ContextLengthExceeded, match=f"{context} tokens.*needs {context + 1}.*max_tokens to 3 or"):
            executor.check(make_request(prompt, max_tokens=4))
        with pytest.raises(ContextLengthExceeded, match="shorten the prompt"):
            executor.check(make_request([*prompt, 1, 2, 3], max_tokens=1))

    async def test_odd_requests_are_answered_and_hurt_nobody(self, executor: Executor, prompt_ids: list[int]) -> None:
        expected = await answer(executor, prompt_ids, max_tokens=40)
        vocabulary = executor.limits().vocab_size
        odd: list[dict[str, object]] = [
            {"top_k": vocabulary + 7, "temperature": 1.0},
            {"temperature": 1e-300},
            {"temperature": 1e30},
            {"top_p": 1e-12, "temperature": 1.0},
            {"min_p": 1.0, "temperature": 1.0},
            {"repetition_penalty": 1e-30},
            {"presence_penalty": 1e38, "frequency_penalty": -1e38},
            {"logit_bias": dict.fromkeys(range(vocabulary), -100.0)},
            {"logit_bias": {1: 3e38}, "temperature": 1e-5},
            {"seed": -(2**70), "temperature": 1.0},
            {"stop_token_ids": tuple(range(vocabulary))},
            {"min_tokens": 12, "stop_token_ids": tuple(range(vocabulary - 1))},
            {"logprobs": 20, "n": 2, "temperature": 1.0},
        ]

        async def ask(sampling: dict[str, object]) -> None:
            # What was admitted may fail, but then alone.
            with suppress(GenerationFailed):
                await choices(executor, make_request(prompt_ids[:3], **sampling))

        async def neighbour() -> None:
            assert (await answer(executor, prompt_ids, max_tokens=40)).token_ids == expected.token_ids

        for pair in zip(odd[::2], [*odd[1::2], odd[0]], strict=False):
            await asyncio.gather(neighbour(), *(ask(sampling) for sampling in pair))

    async def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        free = await answer(executor, prompt_ids, max_tokens=12, ignore_eos=True)
        stop = free.token_ids[4]
        first = free.token_ids.index(stop)
        got = await answer(executor, prompt_ids, max_tokens=12, ignore_eos=True, stop_token_ids=(stop,))
        assert got.token_ids == free.token_ids[:first]
        assert (got.finish_reason, got.stop_token_id) == ("stop", stop)

    async def test_a_bad_sequence_does_not_come_or_is_refused_by_name(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        refusal = _refusal(executor, make_request(prompt_ids, bad_token_ids=((1, 2),)))
        if refusal is not None:
            assert refusal.param == "bad_words"
            return
        free = await answer(executor, prompt_ids, max_tokens=8, ignore_eos=True)
        bad = (free.token_ids[1], free.token_ids[2])
        got = await answer(executor, prompt_ids, max_tokens=8, ignore_eos=True, bad_token_ids=(bad,))
        assert len(got.token_ids) == 8
        assert bad not in itertools.pairwise(got.token_ids)

    async def test_an_adapter_is_refused_by_name_where_there_are_none(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        with pytest.raises(Unsupported, match="'pirate'") as refusal:
            executor.check(replace(make_request(prompt_ids), lora=LoraAdapter("pirate", "/adapters/pirate")))
        assert refusal.value.param == "lora_model"

    async def test_a_priority_is_kept_or_refused_by_name(self, executor: Executor, prompt_ids: list[int]) -> None:
        request = replace(make_request(prompt_ids), priority=1)
        if executor.name == "torch":
            executor.check(request)
            return
        with pytest.raises(Unsupported, match=f"'{executor.name}' starts requests in the order") as refusal:
            executor.check(request)
        assert refusal.value.param == "priority"

    async def test_no_end_token_comes_before_min_tokens(self, executor: Executor, prompt_ids: list[int]) -> None:
        bias = dict.fromkeys(executor.limits().eos_token_ids, 100.0)
        got = await answer(executor, prompt_ids, logit_bias=bias, min_tokens=5)
        assert len(got.token_ids) == 5
        assert got.finish_reason == "stop"
        assert not set(got.token_ids) & set(bias)

    async def test_an_end_token_ends_the_answer_unless_it_is_to_be_ignored(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        eos = executor.limits().eos_token_ids[0]
        got = await answer(executor, prompt_ids, logit_bias={eos: 100.0})
        assert (got.token_ids, got.finish_reason, got.stop_token_id) == ([], "stop", eos)
        got = await answer(executor, prompt_ids, logit_bias={eos: 100.0}, ignore_eos=True, max_tokens=4)
        assert (got.token_ids, got.finish_reason, got.stop_token_id) == ([eos] * 4, "length", None)

    async def test_a_bias_bans_and_forces_tokens(self, executor: Executor, prompt_ids: list[int]) -> None:
        free = await answer(executor, prompt_ids, ignore_eos=True)
        banned = set(free.token_ids)
        got = await answer(executor, prompt_ids, ignore_eos=True, logit_bias=dict.fromkeys(banned, -100.0))
        assert not banned & set(got.token_ids)
        got = await answer(executor, prompt_ids, ignore_eos=True, logit_bias={7: 100.0}, temperature=1.0)
        assert set(got.token_ids) == {7}

    @pytest.mark.parametrize("penalty", [{"presence_penalty": 1000.0}, {"frequency_penalty": 1000.0}], ids=str)
    async def test_a_penalty_keeps_tokens_from_coming_again(
        self, executor: Executor, prompt_ids: list[int], penalty: dict[str, float]
    ) -> None:
        got = await answer(executor, prompt_ids, max_tokens=40, ignore_eos=True, **penalty)
        assert len(set(got.token_ids)) == 40
        # The prompt's tokens are not penalised: a bias brings one up, once.
        got = await answer(executor, prompt_ids, max_tokens=3, logit_bias={prompt_ids[0]: 100.0}, **penalty)
        assert got.token_ids.count(prompt_ids[0]) == 1

    async def test_a_repetition_penalty_counts_the_prompt_too(self, executor: Executor, prompt_ids: list[int]) -> None:
        got = await answer(executor, prompt_ids, max_tokens=20, ignore_eos=True, repetition_penalty=1e6)
        assert len(set(got.token_ids)) == 20
        assert not set(prompt_ids) & set(got.token_ids)

    async def test_logprobs_are_the_models_own_and_ordered(self, executor: Executor, prompt_ids: list[int]) -> None:
        got = await answer(executor, prompt_ids, logprobs=20, ignore_eos=True)
        for entry in got.logprobs:
            values = [value for _, value in entry.top]
            assert len(entry.top) == 20
            assert values == sorted(values, reverse=True)
            assert sum(math.exp(value) for value in values) <= 1 + 1e-4
            assert entry.top[0] == (entry.token_id, pytest.approx(entry.logprob, abs=1e-5))
        # Neither temperature nor bias changes what the model says of a token.
        token, logprob = got.logprobs[0].top[15]
        biased = await answer(
            executor, prompt_ids, logprobs=0, logit_bias={token: 100.0}, temperature=0.7, max_tokens=1, ignore_eos=True
        )
        assert biased.logprobs[0].token_id == token
        assert biased.logprobs[0].logprob == pytest.approx(logprob, abs=1e-3)
        assert biased.logprobs[0].top == ()

    async def test_the_prompts_logprobs_are_the_models_own_or_refused_by_name(
        self, executor: Executor, prompt_ids: list[int], regex_grammar: Callable[[str], Grammar]
    ) -> None:
        if refusal := _refusal(executor, make_request(prompt_ids, prompt_logprobs=0)):
            assert refusal.param == "prompt_logprobs"
            refusal = _refusal(executor, make_request(prompt_ids, max_tokens=0))
            assert refusal is not None
            assert refusal.param == "max_tokens"
            return
        told = await answer(executor, prompt_ids, logprobs=3, ignore_eos=True)
        # What was answered has the same probabilities as a part of the next prompt, whose prefix is known by now.
        prompt = [*prompt_ids, *told.token_ids]
        biased = {"logit_bias": {7: 100.0}, "temperature": 2.0}
        scored = await answer(executor, prompt, regex_grammar("[0-9]+"), prompt_logprobs=3, max_tokens=1, **biased)
        empty = await answer(executor, prompt, prompt_logprobs=3, max_tokens=0)
        for got in (scored, empty):
            assert got.prompt_logprobs is not None
            assert [entry.token_id for entry in got.prompt_logprobs] == prompt[1:]
            for entry, same in zip(got.prompt_logprobs[-len(told.logprobs) :], told.logprobs, strict=True):
                assert entry.logprob == pytest.approx(same.logprob, abs=1e-3)
                assert [value for _, value in entry.top] == pytest.approx([value for _, value in same.top], abs=1e-3)
                assert entry.rank == 1
        assert (empty.token_ids, empty.finish_reason) == ([], "length")

    async def test_a_known_prompt_is_reported_as_cached_and_answered_alike(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        prompt = list(reversed(prompt_ids))
        first = await answer(executor, prompt)
        again = await answer(executor, prompt)
        assert first.cached_tokens < len(prompt) // 2
        assert len(prompt) // 2 < again.cached_tokens < len(prompt)
        assert again.token_ids == first.token_ids
        longer = [*prompt, *first.token_ids, *prompt_ids[:5]]
        more = await answer(executor, longer)
        assert more.cached_tokens >= len(prompt) - 1

    @pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
    async def test_what_ends_with_stop_under_a_grammar_is_in_it(
        self,
        executor: Executor,
        prompt_ids: list[int],
        regex_grammar: Callable[[str], Grammar],
        decode: Callable[[Sequence[int]], str],
        temperature: float,
    ) -> None:
        pattern = '\\{"name": "[A-Z][a-z]{2,12}", "age": [1-9][0-9]?\\}'
        request = make_request(
            prompt_ids, regex_grammar(pattern), n=3, temperature=temperature, max_tokens=60, logprobs=1
        )
        for got in await choices(executor, request):
            text = decode(got.token_ids)
            assert got.finish_reason == "stop"
            assert re.fullmatch(pattern, text), text

    async def test_an_answer_cut_off_under_a_grammar_says_length(
        self,
        executor: Executor,
        prompt_ids: list[int],
        regex_grammar: Callable[[str], Grammar],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        grammar = regex_grammar("(a|b), [0-9]{200}")
        got = await answer(executor, prompt_ids, grammar, max_tokens=6)
        assert got.finish_reason == "length"
        assert re.fullmatch("(a|b), [0-9]*", decode(got.token_ids))

    async def test_an_answer_that_must_be_complete_ends_in_time_or_is_refused_by_name(
        self,
        executor: Executor,
        prompt_ids: list[int],
        regex_grammar: Callable[[str], Grammar],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        pattern = "(a|b), [0-9]{3,200}[.]"
        asked = replace(
            make_request(prompt_ids, regex_grammar(pattern), n=3, temperature=1.0, max_tokens=9), complete=True
        )
        refusal = _refusal(executor, asked)
        if refusal is not None:
            assert refusal.param == "fit_to_max_tokens"
            return
        for got in await choices(executor, asked):
            assert got.finish_reason == "stop"
            assert re.fullmatch(pattern, decode(got.token_ids))
        with pytest.raises(InvalidRequest, match="max_tokens is 1") as too_little:
            await choices(executor, replace(asked, sampling=replace(asked.sampling, max_tokens=1)))
        assert too_little.value.param == "max_tokens"

    async def test_only_an_answer_under_a_grammar_can_be_asked_to_be_complete(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        with pytest.raises((InvalidRequest, Unsupported)) as refusal:
            executor.check(replace(make_request(prompt_ids), complete=True))
        assert refusal.value.param == "fit_to_max_tokens"

    async def test_a_long_prompt_does_not_stall_others(self, executor: Executor, prompt_ids: list[int]) -> None:
        long = (list(reversed(prompt_ids)) * 20)[:400]
        running = asyncio.create_task(answer(executor, prompt_ids, max_tokens=300, ignore_eos=True))
        await settled(executor, lambda stats: stats.running == 1)
        await asyncio.sleep(0.02)
        asked = time.monotonic()
        first = (await answer(executor, [5, *long], max_tokens=1)).seen_at[0]
        meanwhile = [at for at in (await running).seen_at if asked < at < first]
        # 401 tokens are 13 chunks of at most 32: a token of the other answer came with each.
        assert len(meanwhile) >= 11

    async def test_one_more_than_fits_is_turned_away_until_there_is_room(
        self, executor: Executor, prompt_ids: list[int]
    ) -> None:
        async def consume() -> None:
            await answer(executor, prompt_ids, max_tokens=400, ignore_eos=True)

        tasks = [asyncio.create_task(consume()) for _ in range(8)]
        await settled(executor, lambda stats: stats.running == 4 and stats.waiting == 4)
        with pytest.raises(QueueFull) as refusal:
            executor.check(make_request(prompt_ids))
        assert refusal.value.retry_after is not None
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        executor.check(make_request(prompt_ids))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def test_the_statistics_add_up(self, executor: Executor, prompt_ids: list[int]) -> None:
        before = executor.stats()
        await choices(executor, make_request(prompt_ids, n=2, temperature=1.0, max_tokens=5, ignore_eos=True))
        after = await settled(executor, lambda stats: stats.running == 0)
        assert after.sampled_tokens - before.sampled_tokens == 10
        assert after.prompt_tokens - before.prompt_tokens == 2 * len(prompt_ids)
        assert after.slots == 4
        assert len(prompt_ids) <= after.kv_tokens <= after.kv_capacity

    async def test_a_grammar_that_comes_again_is_counted(
        self, executor: Executor, prompt_ids: list[int], regex_grammar: Callable[[str], Grammar]
    ) -> None:
        grammar, before = regex_grammar("[a-c]{1,3}"), executor.stats()
        for _ in range(2):
            await choices(executor, make_request(prompt_ids, grammar, n=2, temperature=1.0, max_tokens=8))
        after = await settled(executor, lambda stats: stats.running == 0)
        assert after.grammar_misses - before.grammar_misses == 1
        assert after.grammar_hits - before.grammar_hits == 3

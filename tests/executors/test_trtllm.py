"""The TensorRT-LLM executor on a stand-in for TensorRT-LLM: the contract, three ways of guidance, and refusals."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from guidance_core.config import Settings
from guidance_core.errors import ContextLengthExceeded, ExecutorUnavailable, GenerationFailed, Unsupported
from guidance_core.executors.trtllm.executor import TrtllmExecutor
from guidance_core.generation import Grammar
from tests.executors.asking import answer, make_request, settled
from tests.executors.contract import ExecutorContract
from tests.executors.trtllm.conftest import checkpoint, compile_engine, engine, tensorrt_llm

__all__ = ["checkpoint", "engine", "tensorrt_llm"]

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("tensorrt_llm")]


def settings(**trtllm: Any) -> Settings:
    limits = {"max_batch_size": 4, "max_num_tokens": 32, "abort_timeout": 0.3}
    return Settings.model_validate(
        {"executor": "trtllm", "trtllm": {**limits, **trtllm}, "server": {"max_queue_size": 4}}
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["batched", "engine", "processor"])
async def executor(
    request: pytest.FixtureRequest, tensorrt_llm: None, checkpoint: Path, engine: Path
) -> AsyncIterator[TrtllmExecutor]:
    folder = engine if request.param == "batched" else checkpoint
    executor = TrtllmExecutor(folder, settings(guidance=request.param))
    await executor.start()
    yield executor
    await executor.shutdown()


class TestContract(ExecutorContract):
    """All of it, for each way of guidance."""


NAME = '\\{"name": "[A-Z][a-z]{2,12}"\\}'


def way(executor: TrtllmExecutor) -> str:
    return executor.details()["guidance"]


@pytest.fixture
def sent(executor: TrtllmExecutor, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The sampling parameters of each request to the engine."""
    params: list[Any] = []
    llm = executor._loaded_or_raise().llm
    real = llm.generate_async

    def generate_async(inputs: list[int], sampling_params: Any, lora_request: Any, streaming: bool) -> Any:
        params.append(sampling_params)
        return real(inputs, sampling_params=sampling_params, lora_request=lora_request, streaming=streaming)

    monkeypatch.setattr(llm, "generate_async", generate_async)
    return params


async def test_a_grammar_goes_the_configured_way(
    executor: TrtllmExecutor,
    sent: list[Any],
    prompt_ids: list[int],
    regex_grammar: Callable[[str], Grammar],
    decode: Callable[[Sequence[int]], str],
) -> None:
    grammar = regex_grammar(NAME)
    for temperature in (0.0, 1.0):
        got = await answer(executor, prompt_ids, grammar, temperature=temperature, max_tokens=30)
        assert re.fullmatch(NAME, decode(got.token_ids))
        assert got.finish_reason == "stop"
    for params in sent:
        guided = params.guided_decoding is not None
        processed = params.logits_processor is not None
        assert (params.apply_batched_logits_processor, guided, processed) == (
            way(executor) == "batched",
            way(executor) == "engine",
            way(executor) == "processor",
        )
        if guided:
            assert params.guided_decoding.grammar == grammar.source


async def test_a_clients_own_lark_goes_through_processors(
    executor: TrtllmExecutor, sent: list[Any], prompt_ids: list[int], decode: Callable[[Sequence[int]], str]
) -> None:
    source = 'start: "x" %json {"type": "integer", "minimum": 10, "maximum": 99} tail+\ntail: "?" | "!"'
    grammar = Grammar(source, "lark", source, key="lark")
    got = await answer(executor, prompt_ids, grammar, temperature=1.0, max_tokens=20)
    assert re.fullmatch("x[1-9][0-9][?!]+" if got.finish_reason == "stop" else "x.*", decode(got.token_ids))
    [params] = sent
    assert params.guided_decoding is None
    assert params.apply_batched_logits_processor == (way(executor) == "batched")


async def test_a_grammar_that_spells_a_special_token_goes_through_processors_and_is_answered(
    executor: TrtllmExecutor,
    sent: list[Any],
    prompt_ids: list[int],
    regex_grammar: Callable[[str], Grammar],
    decode: Callable[[Sequence[int]], str],
) -> None:
    for pattern in (r"a<\|end\|>b", r"a\x3C\x7cend\|>b"):
        got = await answer(executor, prompt_ids, regex_grammar(pattern), max_tokens=20)
        assert (decode(got.token_ids), got.finish_reason) == ("a<|end|>b", "stop")
    assert all(params.guided_decoding is None for params in sent)


async def test_what_the_engines_sampler_does_right_is_left_to_it(
    executor: TrtllmExecutor, sent: list[Any], prompt_ids: list[int]
) -> None:
    await answer(executor, prompt_ids, temperature=0.7, top_k=5, top_p=0.9, max_tokens=2)
    [params] = sent
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.7, 5, 0.9, 2)
    assert params.logits_processor is None
    assert not params.apply_batched_logits_processor


@pytest.mark.parametrize(
    "sampling",
    [
        {"seed": 1},
        {"min_p": 0.1},
        {"typical_p": 0.5},
        {"min_tokens": 2},
        {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0},
        {"repetition_penalty": 1.1},
        {"logprobs": 0},
        {"logit_bias": {3: 1.5}},
    ],
    ids=str,
)
async def test_what_its_sampler_would_do_otherwise_is_never_sent_but_drawn_by_ours(
    executor: TrtllmExecutor, sent: list[Any], prompt_ids: list[int], sampling: dict[str, Any]
) -> None:
    await answer(executor, prompt_ids, temperature=1.0, max_tokens=3, **sampling)
    [params] = sent
    ignored = (
        params.min_p,
        params.min_tokens,
        params.presence_penalty,
        params.frequency_penalty,
        params.repetition_penalty,
        params.logprobs,
        params.embedding_bias,
    )
    assert ignored == (None,) * 7
    assert params.top_k == 1, "whatever we leave is taken"
    assert params.apply_batched_logits_processor == (way(executor) == "batched")
    assert (params.logits_processor is not None) == (way(executor) != "batched")


async def test_a_biased_request_does_no_harm_to_those_beside_it(
    executor: TrtllmExecutor, prompt_ids: list[int]
) -> None:
    biased = answer(executor, prompt_ids, ignore_eos=True, logit_bias={7: 100.0}, max_tokens=20)
    plain = answer(executor, prompt_ids, ignore_eos=True, max_tokens=20)
    got = await asyncio.gather(biased, plain)
    assert set(got[0].token_ids) == {7}
    assert set(got[1].token_ids) != {7}


async def test_a_grammar_that_is_not_enforced_is_an_error(
    executor: TrtllmExecutor,
    monkeypatch: pytest.MonkeyPatch,
    prompt_ids: list[int],
    regex_grammar: Callable[[str], Grammar],
) -> None:
    llm = executor._loaded_or_raise().llm
    real = llm.generate_async

    def generate_async(inputs: list[int], sampling_params: Any, lora_request: Any, streaming: bool) -> Any:
        free = replace(
            sampling_params, guided_decoding=None, logits_processor=None, apply_batched_logits_processor=False
        )
        return real(inputs, sampling_params=free, streaming=streaming)

    monkeypatch.setattr(llm, "generate_async", generate_async)
    with pytest.raises(GenerationFailed, match="left the grammar"):
        await answer(executor, prompt_ids, regex_grammar(NAME), max_tokens=30)


async def test_the_measured_mass_is_that_of_what_the_grammar_allows(
    executor: TrtllmExecutor, prompt_ids: list[int], regex_grammar: Callable[[str], Grammar]
) -> None:
    request = replace(make_request(prompt_ids, regex_grammar("[a-z]{1,4}"), max_tokens=8), measure_mass=True)
    masses = [delta.guidance.allowed_mass async for delta in executor.generate(request) if delta.guidance is not None]
    assert masses
    assert all(mass is not None and 0 < mass < 1 for mass in masses)


async def test_a_worker_that_hangs_fails_what_is_in_flight_and_the_service(
    checkpoint: Path, prompt_ids: list[int]
) -> None:
    executor = TrtllmExecutor(checkpoint, settings(guidance="processor", step_timeout=1.0))
    with pytest.raises(ExecutorUnavailable):
        executor.check(make_request(prompt_ids))
    await executor.start()
    tasks = [asyncio.create_task(answer(executor, prompt_ids, max_tokens=400, ignore_eos=True)) for _ in range(3)]
    await settled(executor, lambda stats: stats.steps > 5)
    worker = executor._loaded_or_raise().llm._executor._process
    worker.send_signal(signal.SIGSTOP)
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(failure, ExecutorUnavailable) for failure in failures)
    assert executor.health().state == "failed"
    assert "step_timeout): the service must be started again" in executor.health().detail
    with pytest.raises(ExecutorUnavailable):
        executor.check(make_request(prompt_ids))
    worker.kill()
    await executor.shutdown()
    await executor.shutdown()
    assert executor.health().state == "stopped"


async def test_a_worker_that_died_while_nothing_ran_is_noticed_by_the_next_request(
    checkpoint: Path, prompt_ids: list[int]
) -> None:
    executor = TrtllmExecutor(checkpoint, settings(guidance="processor"))
    await executor.start()
    proxy = executor._loaded_or_raise().llm._executor
    proxy._process.kill()
    await asyncio.to_thread(proxy._worker_ended.wait, 10)
    with pytest.raises(ExecutorUnavailable, match="has ended"):
        await answer(executor, prompt_ids)
    assert executor.health().state == "failed"
    await executor.shutdown()


async def test_with_the_overlap_scheduler_what_needs_our_processors_is_refused_by_name(
    checkpoint: Path, prompt_ids: list[int], regex_grammar: Callable[[str], Grammar]
) -> None:
    executor = TrtllmExecutor(checkpoint, settings(overlap_scheduler=True))
    await executor.start()
    try:
        assert executor.details() == {"engine": "TensorRT-LLM 1.2.1", "backend": "pytorch", "guidance": "engine"}
        with pytest.raises(Unsupported, match=r"seed and min_p cannot be kept.*overlap_scheduler") as refusal:
            executor.check(make_request(prompt_ids, seed=3, min_p=0.1))
        assert refusal.value.param == "seed"
        source = 'start: "x" %json {"type": "integer", "minimum": 10, "maximum": 99} "!"'
        for grammar in (regex_grammar("[ab]{4}"), Grammar(source, "lark", source, key="lark")):
            assert (await answer(executor, prompt_ids, grammar)).finish_reason == "stop"
        task = asyncio.create_task(answer(executor, prompt_ids, max_tokens=400, ignore_eos=True))
        await settled(executor, lambda stats: stats.running == 1)
        with pytest.raises(GenerationFailed):
            await answer(executor, prompt_ids, regex_grammar(r"a<\|end\|>b"), max_tokens=20)
        assert not task.done(), "what fails in the engine's own llguidance fails alone"
        await executor.shutdown()
        with pytest.raises(ExecutorUnavailable, match="shutting down"):
            await task
    finally:
        await executor.shutdown()


async def test_engines_are_refused_by_versions_that_no_longer_run_them(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt_llm

    monkeypatch.setattr(tensorrt_llm, "__version__", "1.3.0rc8")
    monkeypatch.delitem(sys.modules, "tensorrt_llm._tensorrt_engine", raising=False)
    executor = TrtllmExecutor(engine, settings())
    with pytest.raises(ExecutorUnavailable, match=r"1\.3\.0rc8 no longer runs: serve its checkpoint instead, or use"):
        await executor.start()
    assert executor.health().state == "failed"


async def test_an_engine_that_cannot_read_the_paged_cache_loads_and_takes_no_prompt_longer_than_a_step(
    checkpoint: Path, tmp_path: Path, prompt_ids: list[int]
) -> None:
    plugins = {"use_paged_context_fmha": False}
    folder = compile_engine(checkpoint, tmp_path / "e", max_seq_len=512, plugin_config=plugins)
    executor = TrtllmExecutor(folder, settings())
    await executor.start()
    try:
        with pytest.raises(ContextLengthExceeded, match="this engine takes prompts of at most 32"):
            executor.check(make_request(prompt_ids[:1] * 33))
        assert len((await answer(executor, prompt_ids[:1] * 32, ignore_eos=True)).token_ids) == 12
    finally:
        await executor.shutdown()


async def test_checkpoints_are_refused_by_versions_with_another_backend_for_them(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt_llm

    monkeypatch.setattr(tensorrt_llm, "__version__", "1.1.0")
    with pytest.raises(ExecutorUnavailable, match=r"with TensorRT-LLM 1\.2 or newer, and here is 1\.1\.0: use NVIDIA"):
        await TrtllmExecutor(checkpoint, settings()).start()


async def test_without_tensorrt_llm_the_image_that_has_it_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    executor = TrtllmExecutor(checkpoint, settings())
    with pytest.raises(ExecutorUnavailable, match=r"\(nvidia/tensorrt-llm/release:"):
        await executor.start()


async def test_a_model_without_a_fast_tokenizer_serves_and_refuses_grammars(
    checkpoint: Path, tmp_path: Path, prompt_ids: list[int], regex_grammar: Callable[[str], Grammar]
) -> None:
    shutil.copytree(checkpoint, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    executor = TrtllmExecutor(tmp_path / "model", settings())
    await executor.start()
    try:
        assert len((await answer(executor, prompt_ids, ignore_eos=True)).token_ids) == 12
        with pytest.raises(Unsupported, match=r"tokenizer\.json"):
            executor.check(make_request(prompt_ids, regex_grammar("a")))
    finally:
        await executor.shutdown()

"""The Triton executor against a real Triton server, whose models have TensorRT-LLM's interfaces and a small model."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from llguidance import LLTokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from guidance_core.config import Settings
from guidance_core.errors import GenerationFailed, Unsupported
from guidance_core.executors.base import Executor
from guidance_core.executors.triton.executor import TritonExecutor
from guidance_core.generation import FinishReason, Grammar
from tests.executors.triton import repository
from tests.executors.triton.engine_process import Engine
from tests.executors.triton.server import TritonServer

pytest.register_assert_rewrite("tests.executors.contract")
from tests.executors.contract import ExecutorContract, answer, choices, make_request, settled  # noqa: E402

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path, ll_tokenizer: LLTokenizer) -> Path:
    """A llama with random weights that says something varied."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ll_tokenizer.vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=0,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder)
    shutil.copy(tokenizer_folder / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    engine = Engine({"tiny": tiny_model})
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def server(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server with all models."""
    models = tmp_path_factory.mktemp("triton") / "models"
    repository.write_token_model(models, engine="tiny")
    repository.write_token_model(models, "old", engine="tiny", inputs=repository.old(repository.TOKEN_INPUTS))
    repository.write_token_model(models, "short", engine="tiny", max_seq_len="60")
    repository.write_token_model(models, "breaking", engine="tiny", fail_after="3")
    repository.write_token_model(models, "disobedient", engine="tiny", ignores_guides="yes")
    repository.write_token_model(models, "busy", engine="tiny", one_at_a_time="yes", max_queue_size=1)
    repository.write_token_model(models, "in_one_piece", engine="tiny", decoupled=False)
    guides = ("guided_decoding_guide_type", "guided_decoding_guide")
    plain = repository.without(repository.TOKEN_INPUTS, *guides, "seed", "embedding_bias", "min_tokens")
    repository.write_token_model(models, "plain", engine="tiny", inputs=plain)
    repository.write_token_model(models, "demanding", engine="tiny", inputs=[*plain, ("image!", "FP32", "-1")])
    server = TritonServer(models, environment={"ENGINE_PORT": str(engine.port)})
    server.start()
    engine.wait()
    yield server
    server.kill()


def settings(server: TritonServer, **triton: object) -> Settings:
    return Settings.model_validate(
        {
            "executor": "triton",
            "triton": {"url": server.url, "max_model_len": 512, "max_concurrency": 4, **triton},
            "server": {"max_queue_size": 4},
        }
    )


async def started(model: Path, server: TritonServer, **triton: object) -> TritonExecutor:
    executor = TritonExecutor(model, settings(server, **triton))
    await executor.start()
    return executor


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor(tiny_model: Path, server: TritonServer) -> AsyncIterator[TritonExecutor]:
    executor = await started(tiny_model, server)
    yield executor
    await executor.shutdown()


@pytest.fixture(scope="module")
def prompt_ids() -> list[int]:
    return [(i * 37) % 250 + 2 for i in range(50)]


@pytest.fixture(scope="module")
def decode(ll_tokenizer: LLTokenizer) -> Callable[[Sequence[int]], str]:
    return lambda tokens: ll_tokenizer.decode_str(list(tokens))


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


async def idle(engine: Engine, model: str = "tiny") -> None:
    """Returns when the server's engine does nothing more."""
    deadline = time.monotonic() + 10
    while (await asyncio.to_thread(engine.stats, model))["running"]:
        assert time.monotonic() < deadline, "the engine works on"
        await asyncio.sleep(0.02)


async def test_closing_a_stream_stops_the_work_on_the_server(
    executor: TritonExecutor, engine: Engine, prompt_ids: list[int]
) -> None:
    before = await asyncio.to_thread(engine.stats, "tiny")
    request = make_request(prompt_ids, n=2, max_tokens=450, ignore_eos=True)
    async with aclosing(executor.generate(request)) as stream:
        assert {(await anext(stream)).index for _ in range(20)} == {0, 1}
        assert (await asyncio.to_thread(engine.stats, "tiny"))["running"] == 2
    await idle(engine)
    after = await asyncio.to_thread(engine.stats, "tiny")
    assert after["sampled_tokens"] - before["sampled_tokens"] < 800

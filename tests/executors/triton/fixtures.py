"""One engine and one Triton server for all tests of the executor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guidance_core.config import Settings
from guidance_core.errors import RequestError
from guidance_core.executors.base import State
from guidance_core.executors.triton.executor import TritonExecutor
from guidance_core.generation import GenerationRequest
from tests.executors.triton import repository
from tests.executors.triton.engine_process import Engine
from tests.executors.triton.server import TritonServer


@pytest.fixture(scope="session")
def triton_engine(tiny_llama: Path, model_path: Path) -> Iterator[Engine]:
    """Runs ``tiny`` (`tiny_llama`) and ``default`` (the default model)."""
    engine = Engine({"tiny": tiny_llama, "default": model_path})
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def triton_models(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with all interfaces, and with models that misbehave."""
    models = tmp_path_factory.mktemp("triton") / "models"
    inputs = repository.TOKEN_INPUTS
    guides = ("guided_decoding_guide_type", "guided_decoding_guide")
    plain = repository.without(inputs, *guides, "seed", "embedding_bias", "min_tokens", "repetition_penalty")
    repository.write_token_model(models, "tiny", engine="tiny")
    repository.write_token_model(models, "old", engine="tiny", inputs=repository.old(inputs))
    repository.write_token_model(models, "plain", engine="tiny", inputs=plain)
    repository.write_token_model(models, "demanding", engine="tiny", inputs=[*plain, ("image!", "FP32", "-1")])
    repository.write_token_model(models, "in_one_piece", engine="tiny", decoupled=False)
    repository.write_token_model(models, "short", engine="tiny", max_seq_len="60")
    repository.write_token_model(models, "breaking", engine="tiny", fail_after="3")
    repository.write_token_model(models, "disobedient", engine="tiny", ignores_guides="yes")
    repository.write_token_model(models, "busy", engine="tiny", max_queue_size=1)
    repository.write_text_models(models, engine="default", tokenizer=model_path)
    repository.write_llm_api_model(models, "llm_api", engine="default", tokenizer=model_path, end_id=2)
    return models


@pytest.fixture(scope="session")
def triton_server(triton_engine: Engine, triton_models: Path) -> Iterator[TritonServer]:
    """A server with these models. Tests that hurt it start one of their own."""
    server = TritonServer(triton_models, environment={"ENGINE_PORT": str(triton_engine.port)})
    server.start()
    triton_engine.wait()
    yield server
    server.kill()


async def started(folder: Path, server: TritonServer, model: str, **triton: object) -> TritonExecutor:
    """An executor that is ready, with 4 slots and room for 4 more to wait."""
    section = {"url": server.url, "model": model, "max_model_len": 512, "max_concurrency": 4, **triton}
    settings = {"executor": "triton", "triton": section, "server": {"max_queue_size": 4}}
    executor = TritonExecutor(folder, Settings.model_validate(settings))
    await executor.start()
    return executor


async def idle(engine: Engine, model: str, seconds: float = 10) -> None:
    """Returns when the engine does nothing more for a model."""
    deadline = time.monotonic() + seconds
    while (await asyncio.to_thread(engine.stats, model))["running"]:
        assert time.monotonic() < deadline, "the engine works on"
        await asyncio.sleep(0.02)


async def in_state(executor: TritonExecutor, state: State) -> None:
    """Returns when the executor is."""
    deadline = time.monotonic() + 20
    while executor.health().state != state:
        assert time.monotonic() < deadline, executor.health()
        await asyncio.sleep(0.01)


async def until_failure(executor: TritonExecutor, request: GenerationRequest) -> tuple[list[int], RequestError | None]:
    """The tokens of an answer that has no end, and what ended it."""
    shown: list[int] = []
    try:
        async for delta in executor.generate(request):
            assert delta.finish_reason is None
            shown += delta.token_ids
    except RequestError as error:
        return shown, error
    return shown, None

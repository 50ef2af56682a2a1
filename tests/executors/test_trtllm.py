"""The TensorRT-LLM executor on a stand-in for TensorRT-LLM: the contract, three ways of guidance, and refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from llguidance import LLTokenizer

from guidance_core.config import Settings
from guidance_core.executors.trtllm.executor import TrtllmExecutor

pytest.register_assert_rewrite("tests.executors.contract")
from tests.executors.contract import ExecutorContract  # noqa: E402
from tests.executors.trtllm.conftest import checkpoint, engine, tensorrt_llm  # noqa: E402

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


@pytest.fixture(scope="module")
def prompt_ids() -> list[int]:
    return [(i * 37) % 250 + 2 for i in range(50)]


@pytest.fixture(scope="module")
def decode(ll_tokenizer: LLTokenizer) -> Callable[[Sequence[int]], str]:
    return lambda tokens: ll_tokenizer.decode_str(list(tokens))


class TestContract(ExecutorContract):
    """All of it, for each way of guidance."""

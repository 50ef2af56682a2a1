"""Adapters on the stand-in: applied, told apart by their content, and refused before TensorRT-LLM sees them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
import transformers

from guidance_core.config import Settings
from guidance_core.errors import ExecutorUnavailable, InvalidRequest, Unsupported
from guidance_core.executors.trtllm.executor import TrtllmExecutor
from guidance_core.generation import LoadLoraWeights, LoraAdapter
from tests.executors.asking import make_request
from tests.executors.torch.adapters import merge, save_adapter
from tests.executors.trtllm.conftest import compile_engine

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("tensorrt_llm")]

PROMPT = [5, 17, 60, 33]
TARGETS = ["attn_q", "attn_k", "attn_v", "attn_dense", "mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate"]


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    save_adapter(folder / "pirate", model, seed=1)
    save_adapter(folder / "dora", model, seed=2, use_dora=True)
    save_adapter(folder / "patterned", model, seed=2, alpha_pattern={"q_proj": 3})
    save_adapter(folder / "large", model, seed=3, rank=12)
    return folder


def settings(folder: Path) -> Settings:
    trtllm = {"max_batch_size": 2, "max_num_tokens": 32, "abort_timeout": 0.3}
    lora = {"folder": str(folder), "max_rank": 8, "max_loaded": 3}
    return Settings.model_validate({"executor": "trtllm", "trtllm": trtllm, "lora": lora})


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["checkpoint", "engine"])
async def executor(
    request: pytest.FixtureRequest,
    tensorrt_llm: None,
    checkpoint: Path,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[TrtllmExecutor]:
    path = checkpoint
    if request.param == "engine":
        path = compile_engine(
            checkpoint,
            tmp_path_factory.mktemp("models") / "engine",
            max_seq_len=512,
            max_batch_size=2,
            plugin_config={"lora_plugin": "auto"},
            lora_config={"lora_target_modules": TARGETS, "max_lora_rank": 8},
        )
    executor = TrtllmExecutor(path, settings(folder))
    await executor.start()
    yield executor
    await executor.shutdown()


async def answer(executor: TrtllmExecutor, path: Path | None, load: LoadLoraWeights = "auto") -> list[int]:
    lora = None if path is None else LoraAdapter(path.name, str(path), load)
    request = replace(make_request(PROMPT, temperature=0.0, max_tokens=6, ignore_eos=True), lora=lora)
    return [token async for delta in executor.generate(request) for token in delta.token_ids]


def merged(checkpoint: Path, adapter: Path) -> list[int]:
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    merge(model, adapter)
    with torch.no_grad():
        tokens = list(PROMPT)
        for _ in range(6):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(PROMPT) :]


async def test_an_answer_is_that_of_merged_weights_and_of_the_files_as_they_were_last_read(
    executor: TrtllmExecutor, checkpoint: Path, model: Any, folder: Path
) -> None:
    path = folder / "changing"
    shutil.rmtree(path, ignore_errors=True)
    save_adapter(path, model, seed=4)
    base = await answer(executor, None)
    with pytest.raises(InvalidRequest, match="'changing' is not loaded"):
        await answer(executor, path, "never")
    old = await answer(executor, path)
    assert old == merged(checkpoint, path) != base

    shutil.rmtree(path)
    save_adapter(path, model, seed=5)
    assert await answer(executor, path) == old
    new = await answer(executor, path, "always")
    assert new == merged(checkpoint, path) != old
    assert await answer(executor, path, "never") == new
    assert await answer(executor, None) == base


@pytest.mark.parametrize(
    ("name", "why"),
    [("dora", "use_dora"), ("patterned", "alpha_pattern"), ("large", "rank is 12, but lora.max_rank is 8")],
)
async def test_what_tensorrt_llm_would_apply_otherwise_is_refused_and_ends_nothing(
    executor: TrtllmExecutor, folder: Path, name: str, why: str
) -> None:
    with pytest.raises(Unsupported, match=f"'{name}' cannot be served: .*{why}") as refusal:
        await answer(executor, folder / name)
    assert refusal.value.param == "lora_model"
    assert len(await answer(executor, folder / "pirate")) == 6


async def test_an_engine_for_smaller_ranks_is_refused(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    lora = {"lora_target_modules": TARGETS, "max_lora_rank": 4}
    plugins = {"lora_plugin": "auto"}
    engine = compile_engine(checkpoint, tmp_path / "e", max_seq_len=512, plugin_config=plugins, lora_config=lora)
    with pytest.raises(ExecutorUnavailable, match=r"lora\.max_rank is 8, but the engine was built for ranks up to 4"):
        await TrtllmExecutor(engine, settings(folder)).start()


async def test_an_engine_without_lora_is_refused_with_what_to_build(engine: Path, folder: Path) -> None:
    with pytest.raises(
        ExecutorUnavailable, match="built without LoRA: build it again with trtllm-build's --lora_plugin"
    ):
        await TrtllmExecutor(engine, settings(folder)).start()

"""Adapters through the executor: chosen in the service, loaded in the model's process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from guidance_core.config import LoraSettings, Settings, TorchSettings
from guidance_core.errors import InvalidRequest, Unsupported
from guidance_core.executors.torch.executor import TorchExecutor
from guidance_core.generation import GenerationRequest, LoraAdapter, SamplingParams
from tests.executors.torch.adapters import make_model, save_adapter


async def test_adapters_answer_side_by_side_and_one_that_cannot_be_served_fails_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    save_adapter(tmp_path / "good", model, seed=1)
    save_adapter(tmp_path / "dora", model, seed=2, use_dora=True)
    small = TorchSettings(device="cpu", dtype="float32", max_batch_size=4, num_threads=1)
    executor = TorchExecutor(
        tmp_path / "model", Settings(torch=small, lora=LoraSettings(folder=str(tmp_path), max_rank=8))
    )

    async def answer(request_id: str, lora: LoraAdapter | None) -> list[int]:
        sampling = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
        request = GenerationRequest(request_id=request_id, prompt_ids=(5, 17, 60), sampling=sampling, lora=lora)
        return [token async for delta in executor.generate(request) for token in delta.token_ids]

    good = LoraAdapter("good", str(tmp_path / "good"))
    await executor.start()
    try:
        with pytest.raises(InvalidRequest, match="'good' is not loaded"):
            await answer("early", LoraAdapter("good", str(tmp_path / "good"), "never"))
        base, adapted, again, refused = await asyncio.gather(
            answer("base", None),
            answer("adapted", good),
            answer("again", good),
            answer("refused", LoraAdapter("dora", str(tmp_path / "dora"))),
            return_exceptions=True,
        )
    finally:
        await executor.shutdown()

    assert isinstance(base, list)
    assert isinstance(adapted, list)
    assert len(base) == len(adapted) == 6
    assert adapted == again != base
    assert isinstance(refused, Unsupported)
    assert "'dora' cannot be served: use_dora" in refused.message

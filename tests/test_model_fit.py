from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from pathlib import Path
from typing import Any

import pytest

from guidance_core import model_fit
from guidance_core.api.served_model import load_model
from guidance_core.config import Settings
from guidance_core.model_fit import check_fits
from guidance_core.model_store import StoredModel
from guidance_core.packing import store
from guidance_core.packing.gpu import Gpu
from guidance_core.packing.package import Package

H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0")


def stored(form: str, executor: str, **facts: Any) -> StoredModel:
    return StoredModel("some:v1", Path("/nowhere"), {"executor": executor}, {"format": form, **facts})


def engine(**facts: Any) -> StoredModel:
    built_for = {
        "tensorrt_llm": "1.2.1",
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "gpu": "H100-SXM",
        "compute_capability": "9.0",
        **facts,
    }
    return stored("tensorrt-engine", "trtllm", **built_for)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """Two H100 with TensorRT-LLM 1.2.0."""
    gpus = [H100, H100]
    monkeypatch.setattr(model_fit, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.2.0")
    return gpus


TRTLLM = Settings(executor="trtllm")


@pytest.mark.parametrize(
    ("model", "executors"),
    [
        (stored("huggingface", "torch", quantization="none"), {"torch", "trtllm", "triton"}),
        (stored("huggingface", "torch"), {"torch", "trtllm", "triton"}),
        (stored("huggingface", "trtllm", quantization="nvfp4"), {"trtllm", "triton"}),
        (stored("huggingface", "trtllm", kv_cache_quantization="fp8"), {"trtllm", "triton"}),
        (stored("huggingface", "none", quantization="gptq"), {"triton"}),
        (stored("triton-repository", "triton"), {"triton"}),
        (engine(), {"trtllm"}),
    ],
)
def test_each_kind_of_model_runs_on_its_executors_and_no_others(
    machine: list[Gpu], model: StoredModel, executors: set[str]
) -> None:
    for name in {"torch", "trtllm", "triton"}:
        settings = Settings.model_validate({"executor": name})
        with contextlib.nullcontext() if name in executors else pytest.raises(ValueError, match=f"'{name}' cannot run"):
            check_fits(model, settings)


def test_the_executor_to_set_is_named() -> None:
    with pytest.raises(ValueError, match=r"compiled TensorRT engine.*'torch' cannot.*GUIDED_TRTLLM_EXECUTOR=trtllm"):
        check_fits(engine(), Settings())
    with pytest.raises(ValueError, match=r"Triton model repository.*GUIDED_TRTLLM_EXECUTOR=triton"):
        check_fits(stored("triton-repository", "triton"), Settings())


@pytest.mark.parametrize(
    ("name", "executor", "way_out"),
    [
        ("nvfp4", "trtllm", "executor to 'trtllm'"),
        ("gptq", "none", "--build --converter"),
        ("compressed-tensors", "none", "not in this form: quantise the model again"),
    ],
)
def test_a_quantisation_is_refused_by_name_with_a_way_out(name: str, executor: str, way_out: str) -> None:
    with pytest.raises(ValueError, match=rf"quantised \({name}\).*{way_out}"):
        check_fits(stored("huggingface", executor, quantization=name), Settings())


def test_an_engine_of_another_version_is_refused_with_what_to_build_again(machine: list[Gpu]) -> None:
    with pytest.raises(ValueError, match=r"built by TensorRT-LLM 0\.20\.0, and 1\.2\.0 is installed.*Build the engine"):
        check_fits(engine(tensorrt_llm="0.20.0"), TRTLLM)


def test_an_engine_for_another_gpu_is_refused_with_what_to_build_again(machine: list[Gpu]) -> None:
    machine[1] = Gpu("NVIDIA L40S", "8.9")
    with pytest.raises(ValueError, match=r"for H100-SXM \(.* 9\.0\), but here is NVIDIA L40S \(.* 8\.9\)\. Build the"):
        check_fits(engine(), TRTLLM)


def test_an_engine_for_a_sister_of_the_gpu_runs_with_a_warning(
    machine: list[Gpu], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_fits(engine(), TRTLLM)
        assert caplog.messages == []
        check_fits(engine(gpu="NVIDIA H200"), TRTLLM)
    assert "was built on NVIDIA H200 and runs on NVIDIA H100" in caplog.text


def test_an_engine_for_more_gpus_than_there_are_is_refused_unless_other_nodes_have_them(
    machine: list[Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="built for 4 GPUs, but 2 can be seen here"):
        check_fits(engine(tensor_parallel_size=4), TRTLLM)
    monkeypatch.setenv("TLLM_SPAWN_PROXY_PROCESS", "1")
    check_fits(engine(tensor_parallel_size=4), TRTLLM)


def test_settings_that_contradict_the_engine_are_refused(machine: list[Gpu]) -> None:
    settings = Settings.model_validate({"executor": "trtllm", "trtllm": {"tensor_parallel_size": 8}})
    with pytest.raises(ValueError, match=r"tensor_parallel_size is 8, but some:v1 was built for 2.*--tp 8"):
        check_fits(engine(), settings)


def test_what_is_not_known_is_left_to_tensorrt_llm(monkeypatch: pytest.MonkeyPatch, machine: list[Gpu]) -> None:
    check_fits(engine(gpu=None, compute_capability=None, tensorrt_llm=None), TRTLLM)
    machine.clear()
    check_fits(engine(compute_capability="7.0"), TRTLLM)


async def test_a_service_refuses_to_load_what_does_not_fit(empty_store: Path, tmp_path: Path) -> None:
    source = tmp_path / "rank0.engine"
    source.write_bytes(b"engine")
    package = Package("some", {"rank0.engine": source}, {"executor": "trtllm"}, {"format": "tensorrt-engine"})
    with store.workspace("some") as workspace:
        store.publish(package, workspace)
    with pytest.raises(ValueError, match="GUIDED_TRTLLM_EXECUTOR=trtllm"):
        await load_model(Settings.model_validate({"model": {"tag": "some:latest"}}))

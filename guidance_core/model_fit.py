"""Whether a stored model can run here: on the executor that is set, on these GPUs, on the installed TensorRT-LLM.

What is refused here fails later all the same, after minutes and with a message about tensors.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os

from guidance_core.config import Settings
from guidance_core.model_store import StoredModel
from guidance_core.packing import checkpoint, engine, triton_repository
from guidance_core.packing.gpu import Gpu, gpu_named, visible_gpus
from guidance_core.packing.quantization import NONE, who_runs

logger = logging.getLogger(__name__)

_REBUILD = "Build the engine again here (python pack_model.py CHECKPOINT --build)"


def check_fits(model: StoredModel, settings: Settings) -> None:
    """Refuse a model that cannot run. Asks the GPU driver where it must: not for an event loop.

    Raises:
        ValueError: it does not fit; the message says what to set or to build again.
    """
    kind = model.metadata.get("format")
    if kind == engine.FORMAT:
        _need_executor(model, settings, "a compiled TensorRT engine", "trtllm")
        _check_engine(model, settings)
    elif kind == triton_repository.FORMAT:
        _need_executor(model, settings, "a Triton model repository", "triton")
    elif kind == checkpoint.FORMAT:
        _check_quantization(model, settings)


def _need_executor(model: StoredModel, settings: Settings, what: str, executor: str) -> None:
    if settings.executor != executor:
        raise ValueError(
            f"{model.tag} is {what}, which the executor '{settings.executor}' cannot run: set executor to '{executor}' "
            f"(GUIDED_TRTLLM_EXECUTOR={executor})."
        )


def _check_quantization(model: StoredModel, settings: Settings) -> None:
    quantization = model.metadata.get("quantization", NONE)
    kv_cache = model.metadata.get("kv_cache_quantization", NONE)
    if quantization == kv_cache == NONE:
        return
    # A Triton server has the weights; here only the tokenizer is needed.
    if settings.executor not in (model.labels.get("executor"), "triton"):
        name = quantization if quantization != NONE else f"KV cache {kv_cache}"
        raise ValueError(
            f"{model.tag} is quantised ({name}), which the executor '{settings.executor}' cannot run. "
            f"{who_runs(quantization, model.labels.get('executor'))}"
        )


def _check_engine(model: StoredModel, settings: Settings) -> None:
    _check_version(model)
    _check_parallel(model, settings)
    gpus = visible_gpus()
    if not gpus:
        return  # TensorRT-LLM has words of its own for a machine without a driver
    world_size = model.metadata["tensor_parallel_size"] * model.metadata["pipeline_parallel_size"]
    # trtllm-llmapi-launch sets it in each process of a run over several nodes, whose GPUs are not all here.
    if world_size > len(gpus) and "TLLM_SPAWN_PROXY_PROCESS" not in os.environ:
        raise ValueError(
            f"{model.tag} was built for {world_size} GPUs, but {len(gpus)} can be seen here: start the service on more "
            "(CUDA_VISIBLE_DEVICES may hide some), or build the engine again with a smaller --tp and --pp."
        )
    capability, name = model.metadata.get("compute_capability"), model.metadata.get("gpu")
    if capability is None:
        return
    for gpu in gpus:
        if gpu.compute_capability != capability:
            built_for = Gpu(name or "", capability)
            raise ValueError(f"{model.tag} was built for {built_for}, but here is {gpu}. {_REBUILD}.")
    if name and not _same_product(name, gpus[0].name):
        logger.warning(
            "%s was built on %s and runs on %s: TensorRT does so, but slower than an engine that is built here",
            model.tag,
            name,
            gpus[0].name,
        )


def _check_version(model: StoredModel) -> None:
    built = model.metadata.get("tensorrt_llm")
    try:
        installed = importlib.metadata.version("tensorrt_llm")
    except importlib.metadata.PackageNotFoundError:
        return  # the executor says what is missing
    if built and built.split(".")[:2] != installed.split(".")[:2]:
        raise ValueError(
            f"{model.tag} was built by TensorRT-LLM {built}, and {installed} is installed: engines run on the version "
            f"that built them. {_REBUILD}, or use the image of {built}."
        )


def _check_parallel(model: StoredModel, settings: Settings) -> None:
    for name, option in (("tensor_parallel_size", "--tp"), ("pipeline_parallel_size", "--pp")):
        wanted, built = getattr(settings.trtllm, name), model.metadata[name]
        if wanted not in (1, built):
            raise ValueError(
                f"trtllm.{name} is {wanted}, but {model.tag} was built for {built}: leave the setting out, or build "
                f"the engine again with {option} {wanted}."
            )


def _same_product(one: str, other: str) -> bool:
    """``H100-SXM`` and ``NVIDIA H100 80GB HBM3`` are the same product; H100 and H200 are not."""
    words = set(one.upper().replace("-", " ").split()) & set(other.upper().replace("-", " ").split())
    return any(gpu_named(word).compute_capability for word in words) or one == other

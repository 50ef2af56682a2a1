"""The installed TensorRT-LLM: which classes to use, and what it can no longer do."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import Any, Literal

from guidance_core.errors import ExecutorUnavailable

CONTAINER = "nvidia/tensorrt-llm/release:1.2.1"

_NO_CHECKPOINTS = ("0.", "1.0", "1.1")
"""Versions whose PyTorch backend is not what this executor was written for."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What is used of ``tensorrt_llm``; it has no type stubs.

    Attributes:
        version: of the package.
        llm: the class that runs the model.
        sampling_params: ``tensorrt_llm.SamplingParams``.
        guided_decoding_params: ``tensorrt_llm.llmapi.GuidedDecodingParams``.
        llmapi: the module with the classes of its arguments.
    """

    version: str
    llm: Any
    sampling_params: Any
    guided_decoding_params: Any
    llmapi: Any


def load(kind: Literal["checkpoint", "engine"]) -> Installation:
    """Import what runs a checkpoint or a compiled engine; takes some seconds.

    ``tensorrt_llm.LLM`` has been the PyTorch backend since 1.0; before 1.2 it has another default sampler, and a
    grammar that fails there fails all requests in flight. ``tensorrt_llm._tensorrt_engine.LLM`` runs compiled engines
    in 1.0 to 1.2 (``tensorrt_llm/_tensorrt_engine/__init__.py``); the main branch has removed it since.

    Raises:
        ExecutorUnavailable: it is not installed, or this version does not run engines; the message says what to do.
    """
    try:
        package = importlib.import_module("tensorrt_llm")
        llmapi = importlib.import_module("tensorrt_llm.llmapi")
    except ImportError as error:
        raise ExecutorUnavailable(
            f"The executor 'trtllm' needs TensorRT-LLM, which cannot be imported ({error}). Run the service in "
            f"NVIDIA's image ({CONTAINER}), or set executor to 'torch'."
        ) from error
    version: str = package.__version__
    if kind == "checkpoint":
        if version.startswith(_NO_CHECKPOINTS):
            raise ExecutorUnavailable(
                f"The model is a checkpoint, which is served with TensorRT-LLM 1.2 or newer, and here is {version}: "
                f"use NVIDIA's image {CONTAINER}, or compile an engine."
            )
        llm = package.LLM
    else:
        try:
            llm = importlib.import_module("tensorrt_llm._tensorrt_engine").LLM
        except ImportError as error:
            raise ExecutorUnavailable(
                f"The model is a compiled TensorRT engine, which TensorRT-LLM {version} no longer runs: serve its "
                f"checkpoint instead, or use TensorRT-LLM 1.0 to 1.2 ({CONTAINER})."
            ) from error
    return Installation(version, llm, package.SamplingParams, llmapi.GuidedDecodingParams, llmapi)


def lora_config_class() -> Any:
    """``LoraConfig``, which has moved: 1.3's release candidates, 1.1 and 1.2, and 1.0 have it in different modules.

    Raises:
        ExecutorUnavailable: it is in none of them.
    """
    for module in ("_torch.peft.lora.config", "lora_helper", "lora_manager"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(f"tensorrt_llm.{module}").LoraConfig
    raise ExecutorUnavailable(
        "lora.folder is set, but this version of TensorRT-LLM has its LoraConfig where nobody looks for it: use "
        f"NVIDIA's image {CONTAINER}, or unset lora.folder."
    )


def lora_request_class() -> Any:
    """``LoRARequest``, which ``LLM.generate_async`` takes."""
    return importlib.import_module("tensorrt_llm.executor.request").LoRARequest

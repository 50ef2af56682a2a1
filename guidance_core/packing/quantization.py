"""How a checkpoint is quantised, and what can run it so.

ModelOpt writes ``hf_quant_config.json``; other tools a ``quantization_config`` into ``config.json``. What
TensorRT-LLM's PyTorch backend makes of either: ``ModelConfig.from_pretrained`` in
``tensorrt_llm/_torch/model_config.py``; which of them ``convert_checkpoint.py`` takes for engines:
``update_quant_config_from_hf`` in ``examples/models/core/llama``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NONE = "none"

_PYTORCH_BACKEND = {"fp8", "mxfp4", "compressed-tensors"}
"""Besides ModelOpt's, the ``quant_method`` that TensorRT-LLM's PyTorch backend reads from ``config.json``."""

_ENGINES_ONLY = {"awq", "gptq", "fbgemm_fp8"}
"""What only engines can be made of, by ``pack_model.py --build`` with a converter."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """A quantisation.

    Attributes:
        name: ``none``, ``fp8``, ``nvfp4``, ``w4a16_awq``, ``gptq``, …: lower case, as its own configuration calls it.
        kv_cache: of the KV cache, in the same words.
        executor: which one runs it; None where none does as it is.
    """

    name: str = NONE
    kv_cache: str = NONE
    executor: str | None = "torch"


def find_quantization(config: dict[str, Any], modelopt: dict[str, Any]) -> Quantization:
    """The quantisation of a checkpoint.

    Args:
        config: of its ``config.json``.
        modelopt: of its ``hf_quant_config.json``; empty where there is none.
    """
    declared: dict[str, Any] = config.get("quantization_config") or {}
    if modelopt:
        declared = {**(modelopt.get("quantization") or {}), "quant_method": "modelopt"}
    method = declared.get("quant_method")
    if method is None:
        return Quantization()
    if method == "modelopt":
        name = str(declared.get("quant_algo") or NONE).lower()
        kv_cache = str(declared.get("kv_cache_quant_algo") or NONE).lower()
        return Quantization(name, kv_cache, "torch" if name == kv_cache == NONE else "trtllm")
    return Quantization(method, NONE, "trtllm" if method in _PYTORCH_BACKEND else None)


def who_runs(name: str) -> str:
    """A sentence for somebody whose executor cannot run this quantisation."""
    if name in _ENGINES_ONLY:
        return (
            "Compile it where TensorRT-LLM is installed: python pack_model.py FOLDER --build --converter "
            "convert_checkpoint.py; or serve the checkpoint as it was before it was quantised."
        )
    return (
        "Set executor to 'trtllm' where TensorRT-LLM knows this quantisation; or serve the checkpoint as it was before "
        "it was quantised."
    )

"""How a checkpoint is quantised, and what can run it so.

ModelOpt writes ``hf_quant_config.json``; other tools a ``quantization_config`` into ``config.json``. What
TensorRT-LLM's PyTorch backend makes of either: ``ModelConfig.from_pretrained`` and ``load_hf_quant_config`` in
``tensorrt_llm/_torch/model_config.py``, and `update_quant_config_from_compressed_tensors`, into which the 1.3 release
candidates have moved a part. Which of them ``convert_checkpoint.py`` takes for engines: ``update_quant_config_from_hf``
in ``examples/models/core/llama``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NONE = "none"

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
    return Quantization(method, NONE, "trtllm" if _pytorch_backend_reads(declared) else None)


def _pytorch_backend_reads(declared: dict[str, Any]) -> bool:
    """Whether TensorRT-LLM's PyTorch backend does; what is not, it takes for weights that are not quantised."""
    if declared["quant_method"] == "fp8":
        return bool(declared.get("weight_block_size") == [128, 128])
    if declared["quant_method"] == "compressed-tensors":
        group = (declared.get("config_groups") or {}).get("group_0") or {}
        weights, inputs = group.get("weights") or {}, group.get("input_activations") or {}
        # It looks at bits only: 8-bit integers would be read as floats.
        if weights.get("type") != "float":
            return False
        how = weights.get("num_bits"), weights.get("strategy"), inputs.get("strategy")
        return (
            how == (8, "channel", "token")
            or (how == (8, "block", "group") and inputs.get("group_size") == 128)
            # NVFP4: the 1.3 release candidates; 1.2 refuses it by name.
            or (how == (4, "tensor_group", "tensor_group") and weights.get("group_size") == 16)
        )
    return bool(declared["quant_method"] == "mxfp4")


def who_runs(name: str, executor: str | None) -> str:
    """A sentence for somebody whose executor cannot run this quantisation.

    Args:
        name: of the quantisation.
        executor: that runs the checkpoint as it is, if any does.
    """
    if executor == "trtllm":
        return "Set executor to 'trtllm'; or serve the checkpoint as it was before it was quantised."
    if name in _ENGINES_ONLY:
        return (
            "Compile it where TensorRT-LLM is installed: python pack_model.py FOLDER --build --converter "
            "convert_checkpoint.py; or serve the checkpoint as it was before it was quantised."
        )
    return (
        "TensorRT-LLM does not read it, or not in this form: quantise the model again, with NVIDIA's ModelOpt for "
        "instance; or serve the checkpoint as it was before it was quantised."
    )

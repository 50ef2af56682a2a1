"""How the model describes itself to Triton's clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidance_core.executors.base import Health

_INPUTS = {
    "text_input": "STRING",
    "max_tokens": "INT32",
    "stop_words": "STRING",
    "bad_words": "STRING",
    "embedding_bias_words": "STRING",
    "embedding_bias_weights": "FP32",
    "end_id": "INT32",
    "pad_id": "INT32",
    "top_k": "INT32",
    "top_p": "FP32",
    "temperature": "FP32",
    "repetition_penalty": "FP32",
    "presence_penalty": "FP32",
    "frequency_penalty": "FP32",
    "min_tokens": "INT32",
    "min_length": "INT32",
    "seed": "UINT64",
    "random_seed": "UINT64",
    "num_return_sequences": "INT32",
    "exclude_input_in_output": "BOOL",
    "return_log_probs": "BOOL",
    "return_num_input_tokens": "BOOL",
    "return_num_output_tokens": "BOOL",
    "stream": "BOOL",
    "guided_decoding_guide_type": "STRING",
    "guided_decoding_guide": "STRING",
}
"""By `TritonGenerateBody`'s fields."""

_REQUIRED = frozenset({"text_input", "max_tokens"})
_LISTS = frozenset(
    {
        "stop_words",
        "bad_words",
        "embedding_bias_words",
        "embedding_bias_weights",
        "text_output",
        "cum_log_probs",
        "output_log_probs",
        "finish_reason",
    }
)

_OUTPUTS = {
    "text_output": "STRING",
    "finish_reason": "STRING",
    "cum_log_probs": "FP32",
    "output_log_probs": "FP32",
    "batch_index": "INT32",
    "sequence_index": "INT32",
    "num_input_tokens": "INT32",
    "num_output_tokens": "INT32",
}

_BACKEND = "guided-trtllm"


def server_metadata() -> dict[str, Any]:
    """`GET /v2`."""
    return {"name": _BACKEND, "version": "2.0", "extensions": ["generate", "model_configuration"]}


def model_metadata(name: str) -> dict[str, Any]:
    """`GET /v2/models/{model}`."""
    return {
        "name": name,
        "versions": ["1"],
        "platform": _BACKEND,
        "inputs": [_tensor(tensor, datatype) for tensor, datatype in _INPUTS.items()],
        "outputs": [_tensor(tensor, datatype) for tensor, datatype in _OUTPUTS.items()],
    }


def model_index(names: Sequence[str], health: Health, *, only_ready: bool) -> list[dict[str, Any]]:
    """`POST /v2/repository/index`."""
    if health.state == "ready":
        return [{"name": name, "version": "1", "state": "READY", "reason": ""} for name in names]
    state = "LOADING" if health.state in ("starting", "restarting") else "UNAVAILABLE"
    entries = [{"name": name, "version": "1", "state": state, "reason": health.detail} for name in names]
    return [] if only_ready else entries


def model_config(name: str, max_batch_size: int) -> dict[str, Any]:
    """`GET /v2/models/{model}/config`."""
    return {
        "name": name,
        "platform": _BACKEND,
        "backend": _BACKEND,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_batch_size,
        "input": [
            {**_config(tensor, datatype), "optional": tensor not in _REQUIRED} for tensor, datatype in _INPUTS.items()
        ],
        "output": [_config(tensor, datatype) for tensor, datatype in _OUTPUTS.items()],
        "model_transaction_policy": {"decoupled": True},
    }


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES" if datatype == "STRING" else datatype, "shape": _shape(name)}


def _config(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "data_type": f"TYPE_{datatype}", "dims": _shape(name)}


def _shape(name: str) -> list[int]:
    return [-1] if name in _LISTS else [1]

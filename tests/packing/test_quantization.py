from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guidance_core.packing import checkpoint as checkpoints
from guidance_core.packing import store
from guidance_core.packing.quantization import Quantization, find_quantization


@pytest.mark.parametrize(
    ("declared", "modelopt", "found"),
    [
        ({}, {}, Quantization("none", "none", "torch")),
        ({}, {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, Quantization("fp8", "fp8", "trtllm")),
        ({}, {"quant_algo": "NVFP4", "kv_cache_quant_algo": None}, Quantization("nvfp4", "none", "trtllm")),
        ({}, {"quant_algo": "W4A16_AWQ", "group_size": 128}, Quantization("w4a16_awq", "none", "trtllm")),
        ({}, {"quant_algo": None, "kv_cache_quant_algo": "FP8"}, Quantization("none", "fp8", "trtllm")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, {}, Quantization("nvfp4", "none", "trtllm")),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, {}, Quantization("fp8", "none", "trtllm")),
        ({"quant_method": "mxfp4"}, {}, Quantization("mxfp4", "none", "trtllm")),
        ({"quant_method": "awq", "bits": 4}, {}, Quantization("awq", "none", None)),
        ({"quant_method": "gptq", "bits": 4}, {}, Quantization("gptq", "none", None)),
        ({"quant_method": "bitsandbytes"}, {}, Quantization("bitsandbytes", "none", None)),
        # what ModelOpt's own file says wins
        ({"quant_method": "fp8"}, {"quant_algo": "NVFP4"}, Quantization("nvfp4", "none", "trtllm")),
    ],
)
def test_a_quantisation_is_recognised_with_what_runs_it(
    declared: dict[str, Any], modelopt: dict[str, Any], found: Quantization
) -> None:
    config = {"quantization_config": declared} if declared else {}
    assert find_quantization(config, {"quantization": modelopt} if modelopt else {}) == found


def compressed(weights: tuple[str, int, str], inputs: str | None, *, group_size: int | None = None) -> dict[str, Any]:
    """A ``quantization_config`` as llm-compressor writes it: type, bits and strategy of weights; strategy of inputs."""
    kind, bits, strategy = weights
    group: dict[str, Any] = {
        "weights": {"type": kind, "num_bits": bits, "strategy": strategy, "group_size": group_size},
        "input_activations": None if inputs is None else {"strategy": inputs, "group_size": group_size},
    }
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


@pytest.mark.parametrize(
    ("declared", "is_read"),
    [
        (compressed(("float", 8, "channel"), "token"), True),
        (compressed(("float", 8, "block"), "group", group_size=128), True),
        (compressed(("float", 4, "tensor_group"), "tensor_group", group_size=16), True),
        (compressed(("float", 8, "tensor"), "tensor"), False),
        (compressed(("float", 8, "block"), "group", group_size=64), False),
        (compressed(("int", 8, "channel"), "token"), False),
        (compressed(("int", 4, "group"), None, group_size=128), False),
        ({"quant_method": "compressed-tensors"}, False),
        ({"quant_method": "fp8"}, False),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, False),
    ],
    ids=str,
)
def test_forms_that_tensorrt_llm_does_not_read_are_run_by_nothing(declared: dict[str, Any], is_read: bool) -> None:
    assert find_quantization({"quantization_config": declared}, {}).executor == ("trtllm" if is_read else None)


def test_a_quantised_checkpoint_is_stored_with_its_quantisation(checkpoint: Path, empty_store: Path) -> None:
    written = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    (checkpoint / "hf_quant_config.json").write_text(json.dumps(written))
    package = checkpoints.read(checkpoint)
    assert package.labels["quantization"] == "nvfp4"
    assert package.labels["executor"] == "trtllm"
    assert package.metadata["kv_cache_quantization"] == "fp8"
    assert package.metadata["kv_bytes_per_token"] == 2 * 2 * 1 * 8
    with store.workspace(package.name) as workspace:
        tag = store.publish(package, workspace)
    assert (empty_store / tag.replace(":", "/") / "hf_quant_config.json").exists()

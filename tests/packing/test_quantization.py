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

from __future__ import annotations

from typing import Any

import pytest

from guidance_core.packing.capacity import kv_bytes_per_token

LLAMA_8B = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
DEEPSEEK_V3 = {"num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "num_attention_heads": 128}


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        (LLAMA_8B, "bfloat16", 131_072),
        (LLAMA_8B, "fp8", 65_536),
        (LLAMA_8B, "nvfp4", 36_864),
        ({**LLAMA_8B, "head_dim": 64}, "bfloat16", 65_536),
        ({**LLAMA_8B, "num_key_value_heads": None}, "bfloat16", 524_288),
        (DEEPSEEK_V3, "bfloat16", 70_272),
        (LLAMA_8B, "unknown", None),
        ({}, "bfloat16", None),
        ({"num_hidden_layers": 2, "num_attention_heads": 2}, "bfloat16", None),
    ],
)
def test_bytes_of_a_token_follow_from_the_models_shape(
    config: dict[str, Any], dtype: str, expected: int | None
) -> None:
    assert kv_bytes_per_token(config, dtype) == expected

"""How many tokens fit into the memory of a GPU: the KV cache's bytes per token, from a model's configuration."""

from __future__ import annotations

from typing import Any

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1, "int8": 1, "nvfp4": 0.5625}
"""Of one element. NVFP4 has an 8-bit scale for every 16 elements."""


def kv_bytes_per_token(config: dict[str, Any], dtype: str) -> float | None:
    """Bytes that one token takes in the KV cache, over all layers and GPUs.

    Keys and values of every layer: ``2 · layers · kv_heads · head_size · bytes``. With multi-head latent attention
    (DeepSeek) one latent vector and one rotary key for each layer instead: ``layers · (kv_lora_rank +
    qk_rope_head_dim) · bytes``. Sliding windows and linear attention need less than this says.

    Args:
        config: a Hugging Face model's, or the ``pretrained_config`` of an engine.
        dtype: of the KV cache, a key of `BYTES`.

    Returns:
        None where the configuration or the dtype does not tell.
    """
    layers, size = config.get("num_hidden_layers"), BYTES.get(dtype)
    if layers is None or size is None:
        return None
    if config.get("kv_lora_rank"):
        elements = config["kv_lora_rank"] + config["qk_rope_head_dim"]
        return float(layers * elements * size)
    heads = config.get("num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    head_size = config.get("head_dim") or config.get("head_size")
    if head_size is None and heads and config.get("hidden_size"):
        head_size = config["hidden_size"] // heads
    if not kv_heads or not head_size:
        return None
    return float(2 * layers * kv_heads * head_size * size)

"""Engine folders as `trtllm-build` leaves them; only their weights are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def make_engine(folder: Path, *, gpus: int = 1, version: str = "1.2.1", **build: Any) -> Path:
    """Write an engine of a small Llama for ``gpus`` GPUs, with what TensorRT-LLM 1.2 writes as far as it is read."""
    folder.mkdir(parents=True)
    config = {
        "version": version,
        "pretrained_config": {
            "architecture": "LlamaForCausalLM",
            "dtype": "bfloat16",
            "vocab_size": 32,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_size": 8,
            "mapping": {"world_size": gpus, "tp_size": gpus, "pp_size": 1},
            "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        },
        "build_config": {
            "max_input_len": 48,
            "max_seq_len": 64,
            "max_batch_size": 8,
            "max_num_tokens": 128,
            "max_beam_width": 1,
            "kv_cache_type": "PAGED",
            "gather_context_logits": False,
            "plugin_config": {"use_paged_context_fmha": True, "lora_plugin": None, "remove_input_padding": True},
            **build,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    for rank in range(gpus):
        (folder / f"rank{rank}.engine").write_bytes(b"ftrt" + bytes(2048))
    return folder

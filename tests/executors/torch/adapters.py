"""Adapters that tests make, in PEFT's format, and what merging them into a model gives."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


VOCABULARY = 120


def make_model(*, hidden_size: int = 32) -> transformers.LlamaForCausalLM:
    """A model with random weights that adapters are made for."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config)


def save_adapter(
    folder: Path, model: Any, *, seed: int, targets: Sequence[str] = ALL, rank: int = 4, **config: object
) -> Path:
    """An adapter of random weights for the layers whose names end so; its folder."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in targets:
            shape = module.weight.shape if isinstance(module, torch.nn.Linear) else module.weight.t().shape
            key = f"base_model.model.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, shape[1], generator=generator)
            tensors[f"{key}.lora_B.weight"] = torch.randn(shape[0], rank, generator=generator) * 0.3
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**fields, **config}))
    return folder


def merge(model: Any, folder: Path) -> None:
    """Add an adapter to a model's weights, by the definition: ``W + lora_alpha / r · B·A``."""
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    with torch.no_grad():
        for name, module in model.named_modules():
            key = f"base_model.model.{name}"
            if f"{key}.lora_A.weight" in tensors:
                delta = scale * tensors[f"{key}.lora_B.weight"] @ tensors[f"{key}.lora_A.weight"]
                module.weight += delta if isinstance(module, torch.nn.Linear) else delta.t()

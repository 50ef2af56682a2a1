"""Adapters (LoRA) on TensorRT-LLM: which a model can have, and what a request says of one.

TensorRT-LLM reads an adapter where a request has an id that it has not seen (``LoraManager.load_from_hf`` in
``tensorrt_llm/lora_manager.py``), and then keeps it under that id. What it cannot read ends its worker in 1.2
(``BaseWorker._enqueue_request``, ``tensorrt_llm/executor/base_worker.py``), so the service reads it first; and where
LoRA is not enabled, it answers with the base model without a word.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidance_core.config import LoraSettings
from guidance_core.errors import InvalidRequest, Unsupported
from guidance_core.executors.trtllm.model_folder import ModelFolder
from guidance_core.generation import LoraAdapter
from guidance_core.lora_folder import CONFIG_FILE, WEIGHTS_FILE

_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_dense": "self_attn.o_proj",
    "mlp_h_to_4h": "mlp.gate_proj",
    "mlp_4h_to_h": "mlp.down_proj",
    "mlp_gate": "mlp.up_proj",
}
"""TensorRT-LLM's names → those in a checkpoint: of ``get_default_trtllm_modules_to_hf_modules``
(``tensorrt_llm/lora_helper.py``) what is neither fused nor an expert's."""

_SIZES = ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")


@dataclass(frozen=True, slots=True)
class LoraLimits:
    """What adapters a model takes.

    Attributes:
        modules: TensorRT-LLM's names of the modules that they may change.
        max_rank: their largest rank.
        layers: name in the checkpoint → (in_features, out_features).
    """

    modules: tuple[str, ...]
    max_rank: int
    layers: dict[str, tuple[int, int]]


def lora_limits(folder: ModelFolder, settings: LoraSettings) -> LoraLimits | None:
    """What adapters a model takes; None where the service has none.

    A checkpoint's modules are chosen when it is loaded; an engine's were when it was built
    (``build_config.plugin_config.lora_plugin`` and ``build_config.lora_config``, as ``trtllm-build`` writes them).

    Raises:
        ValueError: adapters are asked for, and the engine was built without LoRA, for smaller ranks or without
            modules that we know, or config.json does not say how large the layers are.
    """
    if settings.folder is None:
        return None
    config = json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    modules = tuple(_MODULES)
    if folder.kind == "engine":
        build = config["build_config"]
        lora = build.get("lora_config") or {}
        modules = tuple(lora.get("lora_target_modules") or ())
        if not (build.get("plugin_config") or {}).get("lora_plugin") or not modules:
            raise ValueError(
                "lora.folder is set, but the engine was built without LoRA: build it again with trtllm-build's "
                "--lora_plugin auto and --lora_target_modules, or unset lora.folder."
            )
        largest = lora.get("max_lora_rank", 64)
        if settings.max_rank > largest:
            raise ValueError(
                f"lora.max_rank is {settings.max_rank}, but the engine was built for ranks up to {largest}: set it to "
                f"{largest} or less, or build the engine again with a larger --max_lora_rank."
            )
        config = config["pretrained_config"]
    config = config.get("text_config") or config
    sizes = _sizes(config)
    layers = {
        f"model.layers.{index}.{_MODULES[module]}": sizes[module]
        for module in modules
        if module in sizes
        for index in range(config["num_hidden_layers"])
    }
    if not layers:
        raise ValueError(
            f"lora.folder is set, but the engine takes adapters on {', '.join(modules)} only, and the service knows "
            f"those on {', '.join(_MODULES)}: build it again with some of these, or unset lora.folder."
        )
    return LoraLimits(modules, settings.max_rank, layers)


def _sizes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Module → (in_features, out_features), the same in each layer; an engine's names of sizes are a checkpoint's."""
    absent = [name for name in _SIZES if not isinstance(config.get(name), int)]
    if absent:
        raise ValueError(
            f"lora.folder is set, but the model's config.json has no {', '.join(absent)}, so that adapters cannot be "
            "checked: unset lora.folder, or set executor to 'torch'."
        )
    hidden, heads, inner = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
    head = config.get("head_dim") or config.get("head_size") or hidden // heads
    keys = (config.get("num_key_value_heads") or heads) * head
    return {
        "attn_q": (hidden, heads * head),
        "attn_k": (hidden, keys),
        "attn_v": (hidden, keys),
        "attn_dense": (heads * head, hidden),
        "mlp_h_to_4h": (hidden, inner),
        "mlp_4h_to_h": (inner, hidden),
        "mlp_gate": (hidden, inner),
    }


class Adapters:
    """The adapters that TensorRT-LLM has been told of.

    Args:
        limits: of the model.
        lora_request: ``tensorrt_llm.executor.request.LoRARequest``.
    """

    def __init__(self, limits: LoraLimits, lora_request: Callable[..., Any]) -> None:
        self._limits = limits
        self._lora_request = lora_request
        self._current: dict[str, int] = {}
        self._ids: dict[str, int] = {}
        self._reading = asyncio.Lock()

    async def request(self, wanted: LoraAdapter) -> Any:
        """The ``LoRARequest`` that applies an adapter; its files are read where ``wanted.load`` says so.

        The id stands for a content: TensorRT-LLM would answer with what it has under an old one.

        Raises:
            InvalidRequest: it is not loaded, and is not to be.
            Unsupported: it cannot be served; the message says why.
        """
        async with self._reading:
            if wanted.load == "always" or wanted.name not in self._current:
                if wanted.load == "never":
                    raise InvalidRequest(
                        f"The adapter {wanted.name!r} is not loaded, and 'load_lora_weights' is 'never': send 'auto'.",
                        param="load_lora_weights",
                    )
                content = await asyncio.to_thread(_read, wanted, self._limits)
                self._current[wanted.name] = self._ids.setdefault(content, len(self._ids) + 1)
            return self._lora_request(wanted.name, self._current[wanted.name], wanted.path)


def _read(wanted: LoraAdapter, limits: LoraLimits) -> str:
    """Refuse what TensorRT-LLM cannot apply as it is meant; a hash of the name and the content."""
    import torch

    from guidance_core.executors.torch.lora_file import BadAdapter, read_adapter

    folder = Path(wanted.path)
    try:
        read_adapter(folder, limits.layers, max_rank=limits.max_rank, dtype=torch.float32, device=torch.device("cpu"))
        config = (folder / CONFIG_FILE).read_bytes()
        if json.loads(config).get("alpha_pattern"):
            raise BadAdapter("TensorRT-LLM does not apply its alpha_pattern; the executor 'torch' does")
        digest = hashlib.sha256(wanted.name.encode() + b"\0" + config)
        digest.update((folder / WEIGHTS_FILE).read_bytes())
    except (BadAdapter, OSError) as error:
        raise Unsupported(f"The adapter {wanted.name!r} cannot be served: {error}.", param="lora_model") from None
    return digest.hexdigest()

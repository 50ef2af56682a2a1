"""Adapters as PEFT saves them: ``adapter_config.json`` and ``adapter_model.safetensors``.

Names, scales and patterns are those of ``peft.LoraConfig`` and ``peft.tuners.lora`` (https://huggingface.co/docs/peft).
What would change the answer and is not plain LoRA on linear layers is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from guidance_core.lora_folder import CONFIG_FILE, WEIGHTS_FILE

_REFUSED: dict[str, tuple[object, ...]] = {
    "use_dora": (False,),
    "bias": ("none",),
    "lora_bias": (False,),
    "modules_to_save": ([],),
    "layer_replication": ([],),
    "trainable_token_indices": ([], {}),
    "target_parameters": ([],),
    "alora_invocation_tokens": ([],),
    "use_qalora": (False,),
    "use_bdlora": (False,),
    "arrow_config": ({},),
}
"""Field of the config → the values besides null with which it asks for nothing."""

_OTHER_BASES = ("pissa", "olora", "corda", "loftq")
"""Ways of initialising that change the base model's weights, too: the adapter belongs to those."""

_WEIGHT = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<half>[AB])\.weight")


class BadAdapter(Exception):
    """An adapter that cannot be served; the message says why."""


@dataclass(frozen=True, slots=True)
class LayerDelta:
    """What an adapter adds to one linear layer: ``x @ down.T @ up.T``.

    Attributes:
        down: ``[rank, in_features]``.
        up: ``[out_features, rank]``, the adapter's scale included.
    """

    down: torch.Tensor
    up: torch.Tensor


def read_adapter(
    folder: Path,
    layers: Mapping[str, tuple[int, int]],
    *,
    max_rank: int,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, LayerDelta]:
    """An adapter's deltas by the name of their layer.

    Args:
        folder: the adapter's.
        layers: name → (in_features, out_features) of the layers that may be adapted.
        max_rank: largest rank.
        dtype: that the model computes in.
        device: where the model is.

    Raises:
        BadAdapter: it cannot be read, or is not for this model.
    """
    config = _config(folder / CONFIG_FILE)
    if not (folder / WEIGHTS_FILE).is_file():
        raise BadAdapter(f"it has no {WEIGHTS_FILE} (other formats can run code when they are read)")
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise BadAdapter(f"{WEIGHTS_FILE} cannot be read: {error}") from None
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _WEIGHT.fullmatch(key)
        if match is None:
            raise BadAdapter(f"its weight {key!r} is not that of plain LoRA on a linear layer")
        halves.setdefault(match["layer"], {})[match["half"]] = tensor
    if not halves:
        raise BadAdapter("it has no weights")
    deltas = {}
    for name, half in halves.items():
        _check_shapes(name, half, layers, max_rank)
        # Scaled before it is rounded to the model's dtype.
        up = half["B"].float() * _scale(config, name, rank=half["A"].shape[0])
        if not (up.isfinite().all() and half["A"].isfinite().all()):
            raise BadAdapter(f"its weights of {name!r} have values that are not finite")
        # A copy: what `load_file` gives shows what is written to the file later.
        deltas[name] = LayerDelta(half["A"].to(device, dtype, copy=True), up.to(device, dtype))
    return deltas


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadAdapter(f"{CONFIG_FILE} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise BadAdapter(f"{CONFIG_FILE} is not that of a LoRA adapter: its peft_type must be 'LORA'")
    for field, nothing in _REFUSED.items():
        value = config.get(field)
        if value is not None and not any(type(value) is type(off) and value == off for off in nothing):
            raise BadAdapter(f"{field} is {value!r}, which is not supported: plain LoRA on linear layers is")
    initialised = config.get("init_lora_weights")
    if isinstance(initialised, str) and initialised.lower().startswith(_OTHER_BASES):
        raise BadAdapter(
            f"init_lora_weights is {initialised!r}, which changes the base model's weights, too: convert the adapter "
            "to plain LoRA when saving it (PEFT's path_initial_model_for_weight_conversion)"
        )
    for field in ("r", "lora_alpha"):
        if type(config.get(field)) not in (int, float) or not 0 < config[field] < math.inf:
            raise BadAdapter(f"{field} is {config.get(field)!r}, but it must be a number above 0")
    pattern = config.get("alpha_pattern") or {}
    if not (isinstance(pattern, dict) and all(type(alpha) in (int, float) for alpha in pattern.values())):
        raise BadAdapter("alpha_pattern must be an object with numbers")
    try:
        for expression in pattern:
            re.compile(expression)
    except re.error as error:
        raise BadAdapter(f"alpha_pattern has {error.pattern!r}, which is no regular expression: {error}") from None
    return config


def _check_shapes(
    name: str, half: Mapping[str, torch.Tensor], layers: Mapping[str, tuple[int, int]], max_rank: int
) -> None:
    if half.keys() != {"A", "B"}:
        raise BadAdapter(f"{name!r} has only one of lora_A and lora_B")
    if name not in layers:
        raise BadAdapter(f"this model has no linear layer {name!r} that can be adapted")
    inner, outer = layers[name]
    rank = half["A"].shape[0] if half["A"].ndim else 0
    if half["A"].shape != (rank, inner) or half["B"].shape != (outer, rank):
        raise BadAdapter(
            f"{name!r} has lora_A {list(half['A'].shape)} and lora_B {list(half['B'].shape)}, but this model needs "
            f"[rank, {inner}] and [{outer}, rank]"
        )
    if not 1 <= rank <= max_rank:
        raise BadAdapter(f"its rank is {rank}, but lora.max_rank is {max_rank}")


def _scale(config: Mapping[str, Any], name: str, *, rank: int) -> float:
    """``lora_alpha / rank``, or ``lora_alpha / √rank`` where it is rank-stabilised (https://arxiv.org/abs/2312.03732).

    A pattern of ``alpha_pattern`` is a regular expression for the end of a layer's name, the first that fits counts.
    """
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            alpha = value
            break
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))

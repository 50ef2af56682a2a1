"""The linear layers of a model, and what each is given while the model runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

LinearLayer = nn.Linear | Conv1D
"""A `Conv1D` (GPT-2) is one whose weight lies the other way round."""


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
        layer: which.
        x: what it was given, ``[…, in_features]``.
        version: of ``x`` then: another one, and the tensor has been written to since.
    """

    layer: LinearLayer
    x: torch.Tensor
    version: int


def linear_layers(model: nn.Module) -> dict[LinearLayer, str]:
    """The layers with their names. Subclasses are none: what they compute is theirs to know."""
    return {module: name for name, module in model.named_modules() if type(module) in (nn.Linear, Conv1D)}


def linear_calls(model: nn.Module, run: Callable[[], object]) -> list[Call]:
    """The calls of linear layers in their order.

    Args:
        model: the model.
        run: runs it once.
    """
    calls: list[Call] = []

    def note(layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        calls.append(Call(layer, inputs[0], inputs[0]._version))

    hooks = [layer.register_forward_pre_hook(note) for layer in linear_layers(model)]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def weight_of(layer: LinearLayer) -> torch.Tensor:
    """``[out_features, in_features]``."""
    return layer.weight.t() if isinstance(layer, Conv1D) else layer.weight

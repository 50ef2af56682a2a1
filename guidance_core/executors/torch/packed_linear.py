"""Linear layers whose weights oneDNN has laid out for this CPU, those that read the same input joined into one.

`F.linear` on a CPU reorders its weight on every call, which for few tokens costs as much as the product itself. oneDNN
can do it once (the operators that `torch.compile` uses when it freezes a model; they are private, so `can_pack` asks
whether this PyTorch has them). Measured for a 135M-parameter model on 2 cores, ms of all linear layers for 1 / 8 / 32
tokens in bfloat16: plain 17/19/28, packed 8/10/18, packed and joined 6/8/16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from guidance_core.executors.torch.linear_layers import LinearLayer, linear_calls, weight_of


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether linear layers on this device and in this dtype can be packed."""
    return (
        device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def pack_linear_layers(model: nn.Module, run: Callable[[], object]) -> None:
    """Replace a model's linear layers by packed ones; the originals' memory is freed, except where it is shared.

    Layers that ``run`` does not call stay as they are: their weights may be used in other ways.

    Args:
        model: on the CPU, in eval mode, in a dtype that `can_pack`.
        run: runs the model once, so that it can be seen which layers read the same input.
    """
    owners: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
    for parent in model.modules():
        for name, child in parent.named_children():
            owners.setdefault(child, []).append((parent, name))
    for layers in _siblings(model, run):
        product = _Product([weight_of(layer) for layer in layers], [layer.bias for layer in layers])
        for index, layer in enumerate(layers):
            layer.register_parameter("weight", None)
            for parent, name in owners[layer]:
                setattr(parent, name, PackedLinear(product, index))


class PackedLinear(nn.Module):
    """One linear layer; several may share a product."""

    def __init__(self, product: _Product, index: int) -> None:
        super().__init__()
        self._product = product
        self._index = index

    @property
    def weight(self) -> torch.Tensor:
        """The packed weight, opaque but for dtype and device: some models ask for those before they call a layer."""
        return self._product.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[…, in_features]`` → ``[…, out_features]``."""
        return self._product(x, self._index)


class _Product:
    """``x @ weight.T + bias`` for layers that read the same x one after the other: computed for all at the first."""

    def __init__(self, weights: list[torch.Tensor], biases: list[torch.Tensor | None]) -> None:
        self._sizes = [weight.shape[0] for weight in weights]
        self.weight: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights))
        present = [bias for bias in biases if bias is not None]
        self._bias = torch.cat(present) if present else None
        self._input: torch.Tensor | None = None
        self._outputs: tuple[torch.Tensor, ...] = ()

    def __call__(self, x: torch.Tensor, index: int) -> torch.Tensor:
        if len(self._sizes) == 1:
            return self._compute(x)
        if index == 0 or x is not self._input:
            self._input = x
            self._outputs = torch.split(self._compute(x), self._sizes, dim=-1)
        output = self._outputs[index]
        if index == len(self._sizes) - 1:
            self._input, self._outputs = None, ()
        return output

    def _compute(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], sum(self._sizes))
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self._bias, "none", [], "")
        return product


def _siblings(model: nn.Module, run: Callable[[], object]) -> list[list[LinearLayer]]:
    """The linear layers that ``run`` calls, those together that read the same tensor, in the order of the calls."""
    calls = linear_calls(model, run)
    times = Counter(layer for layer, _, _ in calls)
    groups: dict[object, list[LinearLayer]] = {}
    for layer, x, version in calls:
        same_input = (id(x), version, layer.bias is None) if times[layer] == 1 else layer
        groups.setdefault(same_input, []).append(layer)
    return [list(dict.fromkeys(layers)) for layers in groups.values()]

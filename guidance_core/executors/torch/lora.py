"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685) in a flat batch: each sequence may have another one.

An adapted layer's output gets ``x @ down.T @ up.T`` added in the rows of the sequences that have the adapter. That is
done by hooks on the layers, whatever has become of these (packed, joined), and only while a batch has an adapter: a
batch without one runs the very same code as a model without any.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from guidance_core.executors.torch.linear_layers import linear_calls, linear_layers, weight_of
from guidance_core.executors.torch.lora_file import LayerDelta


@dataclass(frozen=True, slots=True, eq=False)
class LoadedAdapter:
    """An adapter's weights, as they were when they were read.

    Attributes:
        id: unique in the process's life, from 1: what was computed with one must not be taken for another's.
        deltas: by the name of the layer.
    """

    id: int
    deltas: dict[str, LayerDelta]


def adaptable_layers(model: Any, run: Callable[[], object], tokens: int) -> dict[str, tuple[int, int]]:
    """The linear layers that an adapter may change: name → (in_features, out_features).

    These are those that see each token once, in order: a router's experts see some, and what makes the logits sees
    only the rows that are asked for.

    Args:
        model: of transformers, before its layers are packed.
        run: runs the model once.
        tokens: how many ``run`` feeds it.
    """
    output = model.get_output_embeddings()
    rows: dict[nn.Module, list[int]] = defaultdict(list)
    for layer, x, _ in linear_calls(model, run):
        rows[layer].append(x.numel() // x.shape[-1])
    return {
        name: (weight_of(layer).shape[1], weight_of(layer).shape[0])
        for layer, name in linear_layers(model).items()
        if layer is not output and rows[layer] == [tokens]
    }


class AdaptedLayers:
    """Applies adapters to the layers of a model.

    Args:
        model: as it runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooks: list[Any] = []
        self._hooked: frozenset[str] = frozenset()
        self._groups: list[tuple[LoadedAdapter, torch.Tensor | slice]] = []

    @contextmanager
    def applied(self, rows: Sequence[tuple[LoadedAdapter, range]], device: torch.device) -> Iterator[None]:
        """While this lasts, forward passes of the model add the adapters' deltas.

        Args:
            rows: which adapter in which rows of the flat batch; what is not named has none.
            device: of the model.
        """
        by_adapter: dict[LoadedAdapter, list[range]] = {}
        for adapter, part in rows:
            by_adapter.setdefault(adapter, []).append(part)
        self._hook(frozenset(name for adapter in by_adapter for name in adapter.deltas))
        self._groups = [(adapter, _index(parts, device)) for adapter, parts in by_adapter.items()]
        try:
            yield
        finally:
            self._groups = []

    def _hook(self, names: frozenset[str]) -> None:
        """Have hooks on these layers and on no others. Steps that follow each other need the same, as a rule."""
        if names == self._hooked:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooked = names
        self._hooks = [self._model.get_submodule(name).register_forward_hook(self._adder(name)) for name in names]

    def _adder(self, name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x, y = inputs[0].reshape(-1, inputs[0].shape[-1]), output.view(-1, output.shape[-1])
            for adapter, rows in self._groups:
                delta = adapter.deltas.get(name)
                if delta is not None:
                    y[rows] += x[rows] @ delta.down.t() @ delta.up.t()

        return add


def _index(parts: Sequence[range], device: torch.device) -> torch.Tensor | slice:
    """Rows as an index; neighbours as a slice, which copies nothing."""
    ordered = sorted(parts, key=lambda part: part.start)
    if all(a.stop == b.start for a, b in itertools.pairwise(ordered)):
        return slice(ordered[0].start, ordered[-1].stop)
    return torch.tensor([row for part in ordered for row in part], device=device)

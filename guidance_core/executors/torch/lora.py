"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685) in a flat batch: each sequence may have another one.

An adapted layer's output gets ``x @ down.T @ up.T`` added in the rows of the sequences that have the adapter. That is
done by hooks on the layers, whatever has become of these (packed, joined), and only while a batch has an adapter: a
batch without one runs the very same code as a model without any.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

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
    names = {m: n for n, m in model.named_modules() if type(m) in (nn.Linear, Conv1D) and m is not output}
    rows: dict[nn.Module, list[int]] = {module: [] for module in names}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows[layer].append(inputs[0].numel() // inputs[0].shape[-1])

    hooks = [module.register_forward_pre_hook(note) for module in names]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _features(module) for module, name in names.items() if rows[module] == [tokens]}


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


def _features(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, Conv1D):
        return layer.weight.shape[0], layer.weight.shape[1]
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features

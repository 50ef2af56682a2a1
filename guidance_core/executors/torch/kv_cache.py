"""Keys and values of every slot, one preallocated slab per layer, written at the positions a step names.

It takes the place of a Hugging Face cache (`update` has the same signature), so that model code needs no change.
"""

from __future__ import annotations

import math
import mmap
import sys

import torch


class KVCache:
    """Slabs of keys and values, one pair per attention layer.

    A slab has the shape ``[slots, max_len, kv_heads, head_dim]``: a token's heads lie together, so that one indexed
    copy writes all tokens of a step, and a slot in use touches memory only as far as its sequence is long. Slabs are
    made on a layer's first `update`, from the shapes that the model hands over: nothing has to be known about its
    architecture.

    Args:
        num_slots: sequences that can be held at once.
        max_len: most tokens of one sequence.
    """

    def __init__(self, num_slots: int, max_len: int) -> None:
        self.num_slots = num_slots
        self.max_len = max_len
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._rows: torch.Tensor | None = None

    @property
    def bytes_per_token(self) -> int:
        """Of all layers; known once each had its first `update`."""
        slabs = (slab for layer in self._layers.values() for slab in layer)
        return sum(slab[0, 0].nbytes for slab in slabs)

    def begin(self, rows: torch.Tensor) -> None:
        """Say where the next forward pass writes.

        Args:
            rows: int64 ``[tokens]`` on the model's device: ``slot * max_len + position`` of each token, all different.
        """
        self._rows = rows

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one layer's new keys and values; called by the model's attention layers.

        Args:
            key_states: ``[1, kv_heads, tokens, head_dim]``.
            value_states: the same, with a head dimension that may differ.
            layer_idx: which layer.

        Returns:
            The layer's slabs, both ``[slots, kv_heads, max_len, head_dim]`` (views): attention finds the sequences
            in them.
        """
        assert self._rows is not None, "begin() comes before the forward pass"
        layer = self._layers.get(layer_idx)
        if layer is None:
            layer = (self._allocate(key_states), self._allocate(value_states))
            self._layers[layer_idx] = layer
        for slab, states in zip(layer, (key_states, value_states), strict=True):
            slab.view(-1, *slab.shape[2:]).index_copy_(0, self._rows, states[0].transpose(0, 1))
        return layer[0].transpose(1, 2), layer[1].transpose(1, 2)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy what slot ``source`` holds of its first ``length`` positions into slot ``target``."""
        for layer in self._layers.values():
            for slab in layer:
                slab[target, :length] = slab[source, :length]

    def clear(self, slot: int, length: int) -> None:
        """Zero the first ``length`` positions of a slot, so that no NaN stays where others will lie."""
        for layer in self._layers.values():
            for slab in layer:
                slab[slot, :length] = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Zero: positions are given explicitly, none are derived from the cache."""
        return 0

    def _allocate(self, states: torch.Tensor) -> torch.Tensor:
        """A zeroed slab for states ``[1, kv_heads, tokens, head_dim]``.

        Zeroed because attention multiplies what lies beyond a sequence's end by a probability of 0, which would keep
        a NaN alive.
        """
        shape = (self.num_slots, self.max_len, states.shape[1], states.shape[3])
        if states.device.type == "cpu" and sys.platform != "win32":
            return _lazy_zeros(shape, states.dtype)
        return torch.zeros(shape, dtype=states.dtype, device=states.device)


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros in anonymous memory that the system hands out page by page, on first touch.

    Small pages: with huge ones (which numpy and some systems ask for) every slot of every layer would cost 2 MiB from
    its first token.
    """
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)

"""Who attends to what in one forward pass: the same for all layers, so it is planned once.

Sequences that run a few tokens each (one, or some that a grammar forced) attend together, in as few calls as pays;
those that run many (chunks of prompts) each in a call of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_MOST_QUERIES = 16
"""Segments of up to so many tokens attend together, padded to the longest of them."""

_KEY_STEP = 16
"""Keys are gathered in multiples of so many: oneDNN compiles a kernel for each new shape of a product, which takes
half a millisecond, and one key more would be a new shape at every step."""

_CALL_COST = 2000
"""One more call costs as much as attending to so many more keys (measured on 2 CPU cores in bfloat16)."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence that take part in a forward pass.

    Attributes:
        slot: where the sequence's keys and values are.
        start: position of the first token.
        length: how many tokens.
        blocks: first and end positions of those of them that see each other, such as an image's; the others see what
            is before them.
    """

    slot: int
    start: int
    length: int
    blocks: tuple[tuple[int, int], ...] = ()

    @property
    def end(self) -> int:
        """How many keys the last token sees."""
        return self.start + self.length


class Group:
    """Sequences that attend in one call, a row each, padded to the same numbers of tokens and of keys.

    Attributes:
        rows: of the call, as many as sequences.
        queries: tokens of each row, with padding.
        tokens: of the flat batch, without padding.
    """

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        """Plan a call.

        Args:
            spans: sorted by slot.
            device: where the masks are made.
        """
        self.rows = len(spans)
        self.queries = max(span.length for span in spans)
        self.tokens = sum(span.length for span in spans)
        self._spans = spans
        self._device = device
        self._longest = max(span.end for span in spans)
        self._shortest = min(span.start + 1 for span in spans)
        self._in_place = spans[-1].slot - spans[0].slot == self.rows - 1
        self._source: torch.Tensor | None = None
        self._place: torch.Tensor | None = None
        if self.tokens < self.rows * self.queries:
            source: list[int] = []
            place: list[int] = []
            for row, span in enumerate(spans):
                # What pads a row repeats its last token.
                source.extend(len(place) + offset for offset in self._offsets(span))
                place.extend(range(row * self.queries, row * self.queries + span.length))
            self._source, self._place = torch.tensor(source, device=device), torch.tensor(place, device=device)
        self._keys: dict[int | None, torch.Tensor] = {}
        self._masks: dict[int | None, torch.Tensor | None] = {}
        self._biases: dict[tuple[int | None, int], torch.Tensor] = {}
        self._heads: dict[tuple[int | None, int], torch.Tensor] = {}

    def pad(self, tokens: torch.Tensor) -> torch.Tensor:
        """``[tokens, …]`` of the flat batch as ``[rows * queries, …]``."""
        return tokens if self._source is None else tokens.index_select(0, self._source)

    def unpad(self, outputs: torch.Tensor) -> torch.Tensor:
        """``[rows * queries, …]`` as ``[tokens, …]`` of the flat batch."""
        return outputs if self._place is None else outputs.index_select(0, self._place)

    def select(self, slab: torch.Tensor, window: int | None) -> torch.Tensor:
        """The part ``[rows, kv_heads, keys, head_dim]`` of a slab that the rows see between them.

        A view where the slots are neighbours. Elsewhere a copy, which costs little: attention in half precision makes
        one anyway.
        """
        if self._in_place:
            first = self._spans[0].slot
            return slab[first : first + self.rows, :, self._first_key(window) : self._longest]
        if window not in self._keys:
            self._keys[window] = self._find_keys(window, slab.shape[2], self._longest - self._first_key(window))
        # A token's heads lie together: one row of a matrix.
        tokens = slab.transpose(1, 2).flatten(2).flatten(0, 1)
        kv_heads, head_dim = slab.shape[1], slab.shape[3]
        selected = tokens.index_select(0, self._keys[window])
        return selected.view(self.rows, -1, kv_heads, head_dim).transpose(1, 2)

    def gather(self, slab: torch.Tensor, window: int | None) -> torch.Tensor:
        """The same with some more keys that no row sees, as a contiguous copy ``[rows * kv_heads, keys, head_dim]``.

        Args:
            slab: ``[slots, kv_heads, max_len, head_dim]``, laid out as a `KVCache` does.
            window: how many keys a token sees at most.
        """
        _, kv_heads, max_len, head_dim = slab.shape
        if (window, kv_heads) not in self._heads:
            first = self._first_key(window)
            seen = self._longest - first
            keys = min(seen + -seen % _KEY_STEP, max_len - first)
            rows = self._find_keys(window, max_len, keys).view(self.rows, 1, -1) * kv_heads
            rows = rows + torch.arange(kv_heads, device=self._device)[:, None]
            self._heads[window, kv_heads] = rows.view(-1)
        heads = slab.transpose(1, 2).view(-1, head_dim)
        return heads.index_select(0, self._heads[window, kv_heads]).view(self.rows * kv_heads, -1, head_dim)

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Which of the keys of `select` each token sees, bool ``[rows, queries, keys]``; None where all see all."""
        if window not in self._masks:
            everything = self._shortest == self._longest
            self._masks[window] = None if everything else self._make_mask(window, self._longest)
        return self._masks[window]

    def bias(self, window: int | None, keys: int) -> torch.Tensor:
        """The same to be added to scores: float32 0 or -inf, ``[rows, 1, queries, keys]`` or ``[1, 1, 1, 1]``.

        Args:
            window: how many keys a token sees at most.
            keys: how many there are: those of `select` or of `gather`.
        """
        if (window, keys) not in self._biases:
            end = self._first_key(window) + keys
            if self._shortest == end:
                bias = torch.zeros((1, 1, 1, 1), device=self._device)
            else:
                bias = _minus_infinity_outside(self._make_mask(window, end))
            self._biases[window, keys] = bias
        return self._biases[window, keys]

    def _first_key(self, window: int | None) -> int:
        return 0 if window is None else max(0, self._shortest - window)

    def _positions(self, window: int | None, end: int) -> torch.Tensor:
        return torch.arange(self._first_key(window), end, device=self._device)

    def _offsets(self, span: Span) -> list[int]:
        """Of the tokens of a row within its span."""
        return [min(offset, span.length - 1) for offset in range(self.queries)]

    def _find_keys(self, window: int | None, max_len: int, keys: int) -> torch.Tensor:
        """Rows of a slab's tokens, row by row, ``keys`` each; padding repeats a sequence's last key."""
        slots = torch.tensor([span.slot for span in self._spans], device=self._device)[:, None]
        last = torch.tensor([span.end - 1 for span in self._spans], device=self._device)[:, None]
        positions = self._positions(window, self._first_key(window) + keys)
        return (slots * max_len + torch.minimum(positions, last)).view(-1)

    def _make_mask(self, window: int | None, end: int) -> torch.Tensor:
        ends = [[span.start + offset + 1 for offset in self._offsets(span)] for span in self._spans]
        seen = torch.tensor(ends, device=self._device)[:, :, None]
        positions = self._positions(window, end)
        mask = positions < seen
        return mask if window is None else mask & (positions >= seen - window)


class AttentionPlan:
    """Who attends to what in one forward pass, and in which order the tokens lie in its flat batch.

    Attributes:
        order: indices of the spans, as they follow one another in the flat batch.
        groups: those of few tokens, first in the batch.
        chunks: those of many tokens, or with blocks, after them.
    """

    def __init__(self, spans: Sequence[Span], device: torch.device, *, blocks_in_windows_only: bool = False) -> None:
        """Plan a pass.

        Args:
            spans: all of different slots.
            device: where the masks are made.
            blocks_in_windows_only: layers without a window see a span's blocks as they see other tokens (Gemma 4).
        """
        single = [i for i, span in enumerate(spans) if span.length == 1 and not span.blocks]
        short = [i for i, span in enumerate(spans) if 1 < span.length <= _MOST_QUERIES and not span.blocks]
        chunks = [i for i, span in enumerate(spans) if span.length > _MOST_QUERIES or span.blocks]
        groups = [*_cut_by_length(single, spans), *_cut_by_length(short, spans)]
        self.order = [*itertools.chain.from_iterable(groups), *chunks]
        self.groups = [Group([spans[i] for i in group], device) for group in groups]
        self.chunks = [spans[i] for i in chunks]
        self._device = device
        self._blocks_in_windows_only = blocks_in_windows_only
        self._alone: dict[Span, Group] = {}
        self._masks: dict[tuple[Span, int | None], torch.Tensor | None] = {}

    def alone(self, chunk: Span) -> Group:
        """A chunk as a group of its own, for attention that wants it as one."""
        if chunk not in self._alone:
            self._alone[chunk] = Group([chunk], self._device)
        return self._alone[chunk]

    def chunk_mask(self, chunk: Span, window: int | None) -> torch.Tensor | None:
        """Which keys each token of a chunk sees, bool ``[length, keys]``; None where it is all up to itself.

        Keys begin where the chunk's first token sees its first one: at `first_key`.
        """
        if (chunk, window) not in self._masks:
            plain = chunk.start == 0 and (window is None or chunk.length <= window) and not self._blocks(chunk, window)
            self._masks[chunk, window] = None if plain else self._make_mask(chunk, window)
        return self._masks[chunk, window]

    def _blocks(self, chunk: Span, window: int | None) -> tuple[tuple[int, int], ...]:
        return () if window is None and self._blocks_in_windows_only else chunk.blocks

    def _make_mask(self, chunk: Span, window: int | None) -> torch.Tensor:
        queries = torch.arange(chunk.start, chunk.end, device=self._device)[:, None]
        keys = torch.arange(first_key(chunk.start, window), chunk.end, device=self._device)
        mask = keys <= queries
        for first, end in self._blocks(chunk, window):
            mask |= (queries >= first) & (queries < end) & (keys >= first) & (keys < end)
        return mask if window is None else mask & (keys > queries - window)


def first_key(position: int, window: int | None) -> int:
    """The lowest position that a token at ``position`` sees."""
    return 0 if window is None else max(0, position + 1 - window)


def _minus_infinity_outside(mask: torch.Tensor) -> torch.Tensor:
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -math.inf)[:, None]


def _cut_by_length(indices: Sequence[int], spans: Sequence[Span]) -> list[list[int]]:
    """Divide spans where padding the shorter ones would cost more than a call of their own; each group by slot."""
    groups: list[list[int]] = []
    longest = waste = 0
    for index in sorted(indices, key=lambda i: -spans[i].end):
        waste += longest - spans[index].end
        if not groups or waste > _CALL_COST:
            groups.append([])
            longest, waste = spans[index].end, 0
        groups[-1].append(index)
    return [sorted(group, key=lambda i: spans[i].slot) for group in groups]

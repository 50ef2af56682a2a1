"""Which tokens the KV cache's slots hold, and which slot a new sequence takes.

A slot keeps its tokens after its sequence has ended, until another sequence takes it: a prompt that begins in the same
way (a system prompt, the conversation so far) need not be run again. What a slot claims to hold has been written by a
forward pass that succeeded; whatever is in doubt is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guidance_core.executors.torch.sequence import Sequence

_SHORTEST_COPY = 8
"""Prefixes shorter than this are computed again: a copy touches every layer, which costs as much."""


def common_prefix(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> int:
    """How many tokens two token lists begin with in common."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


@dataclass(slots=True)
class _Slot:
    index: int
    tokens: npt.NDArray[np.int64]
    length: int = 0
    key: int | None = None
    lora: int | None = None
    live: bool = False
    released: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a sequence goes.

    Attributes:
        slot: the slot that it takes.
        cached: how many tokens of its prompt need not be run.
        source: the slot from which they are to be copied first; None where they are in ``slot`` already.
    """

    slot: int
    cached: int = 0
    source: int | None = None


class Slots:
    """The slots of one KV cache.

    Args:
        count: how many there are.
        capacity: most tokens of one.
        share: whether requests may use each other's prefixes; the choices of one request always do.
    """

    def __init__(self, count: int, capacity: int, *, share: bool) -> None:
        self._slots = [_Slot(index, np.zeros(capacity, dtype=np.int64)) for index in range(count)]
        self._share = share
        self._clock = 0
        self.free = count

    @property
    def tokens(self) -> int:
        """How many tokens are held, live and reusable."""
        return sum(slot.length for slot in self._slots)

    def longest_prefix(self, sequence: Sequence) -> int:
        """How many tokens of a waiting sequence's prompt some slot holds now."""
        return self._best(sequence)[1]

    def may_share(self, a: Sequence, b: Sequence) -> bool:
        """Whether two sequences may use each other's prefix."""
        return _adapter(a) == _adapter(b) and (self._share or a.key == b.key)

    def place(self, sequence: Sequence) -> Placement:
        """Give a free slot to a sequence. There must be one.

        The prefix is taken over in the slot that has it, or copied to the slot that has been free for the longest:
        whichever forgets fewer tokens that another request may come back for.
        """
        oldest = min((s for s in self._slots if not s.live), key=lambda s: (s.length > 0, s.released, s.index))
        best, cached = self._best(sequence)
        if best is not None and not best.live and best.length - cached <= oldest.length:
            slot, source = best, None
        elif best is not None and cached >= _SHORTEST_COPY:
            slot, source = oldest, best.index
            slot.tokens[:cached] = best.tokens[:cached]
        else:
            slot, cached, source = oldest, 0, None
        slot.length = cached
        slot.key, slot.lora, slot.live = sequence.key, _adapter(sequence), True
        self.free -= 1
        return Placement(slot.index, cached, source)

    def write(self, slot: int, start: int, tokens: Tokens[int]) -> None:
        """Note what a forward pass has written: tokens, as `Sequence.keys` names them."""
        end = start + len(tokens)
        self._slots[slot].tokens[start:end] = tokens
        self._slots[slot].length = end

    def forget(self, slot: int) -> None:
        """Drop what a slot holds: it cannot be trusted."""
        self._slots[slot].length = 0

    def release(self, slot: int) -> None:
        """Take a slot back; it keeps its tokens."""
        self._clock += 1
        self._slots[slot].live = False
        self._slots[slot].released = self._clock
        self.free += 1

    def _best(self, sequence: Sequence) -> tuple[_Slot | None, int]:
        """The slot with the longest common prefix, a free one before a live one."""
        # The prompt's last token is always run: its logits are needed.
        prompt = sequence.prompt[:-1]
        best, length = None, 0
        if sequence.scores_prompt:
            return best, length  # what was not run has no logits
        for slot in self._slots:
            if slot.length < max(length, 1) or not (self._share or slot.key == sequence.key):
                continue
            if slot.lora != _adapter(sequence):
                continue  # the same tokens, but other keys and values
            common = common_prefix(slot.tokens[: slot.length], prompt)
            if common > length or (common == length > 0 and best is not None and best.live and not slot.live):
                best, length = slot, common
        return best, length


def _adapter(sequence: Sequence) -> int | None:
    """What besides its tokens a sequence's keys and values depend on; a number, which keeps no weights in memory."""
    return None if sequence.lora is None else sequence.lora.id

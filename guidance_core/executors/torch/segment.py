"""What one sequence contributes to a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from guidance_core.executors.torch.images import GridPositions, SequenceImage
    from guidance_core.executors.torch.lora import LoadedAdapter


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one sequence, to be run in a forward pass.

    Attributes:
        slot: KV cache slot of the sequence.
        start: position of ``token_ids[0]``; the slot holds keys and values of all positions below.
        token_ids: 1 (decode), a few (forced tokens) or a chunk of a prompt; at least one.
        logits: of which tokens logits are wanted.
        lora: the adapter to run them with, or None.
        images: those that have placeholders among the tokens.
        grid: the sequence's positions where images make them other than counted; see `GridPositions`.
    """

    slot: int
    start: int
    token_ids: Sequence[int]
    logits: Literal["none", "last", "all"]
    lora: LoadedAdapter | None = None
    images: Sequence[SequenceImage] = ()
    grid: GridPositions | None = None

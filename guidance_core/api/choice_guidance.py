"""What guidance did for one choice, added up."""

from __future__ import annotations

from guidance_core.generation import GuidanceTimes


class ChoiceGuidance:
    """Collects the `GuidanceTimes` of one choice's deltas.

    Attributes:
        forced_tokens: tokens that the grammar forced.
        mask_seconds: one entry per step that needed a mask.
        wait_seconds: the part of it that was not hidden behind the forward pass; as long as ``mask_seconds``.
        allowed_mass: probability that the grammar left to the model, one entry per step where it was measured.
    """

    __slots__ = ("allowed_mass", "forced_tokens", "mask_seconds", "wait_seconds")

    def __init__(self) -> None:
        self.forced_tokens = 0
        self.mask_seconds: list[float] = []
        self.wait_seconds: list[float] = []
        self.allowed_mass: list[float] = []

    def add(self, times: GuidanceTimes) -> None:
        """Take one more delta's."""
        self.forced_tokens += times.forced_tokens
        if times.mask_seconds > 0:
            self.mask_seconds.append(times.mask_seconds)
            self.wait_seconds.append(times.wait_seconds)
        if times.allowed_mass is not None:
            self.allowed_mass.append(times.allowed_mass)

"""Logits and masks to measure with."""

from __future__ import annotations

import numpy as np
import torch

KINDS = {
    "all allowed": "no token is forbidden",
    "few forbidden": "20 tokens, each in another word of the mask",
    "a twentieth": "each token with probability 1/20, as inside a JSON string",
    "half": "every other word of the mask, all its 32 tokens",
    "random": "each token with probability 1/2",
    "few allowed": "all but 20 tokens, as between the parts of a JSON document",
    "all forbidden": "every token",
}
"""The kinds of masks, and what each forbids."""

_FEW = 20


def masks(kind: str, rows: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    """Masks of one kind, each row another.

    Args:
        kind: of `KINDS`.
        rows: number of masks.
        vocabulary: a multiple of 32.
        seed: of what is random.

    Returns:
        int32 [rows, vocabulary / 32].
    """
    random = np.random.default_rng(seed)
    words = vocabulary // 32
    bitmask = np.zeros((rows, words), dtype=np.int32)
    if kind in ("all allowed", "few forbidden"):
        bitmask[:] = -1
    if kind in ("few forbidden", "few allowed"):
        for row in bitmask:
            bits = np.left_shift(np.uint32(1), random.integers(0, 32, _FEW).astype(np.uint32))
            row[random.permutation(words)[:_FEW]] ^= bits.view(np.int32)
    elif kind == "half":
        bitmask[:, ::2] = -1
    elif kind == "random":
        bitmask[:] = random.integers(-(2**31), 2**31, (rows, words))
    elif kind == "a twentieth":
        allowed = random.random((rows, vocabulary)) >= 1 / 20
        bitmask[:] = np.packbits(allowed, axis=1, bitorder="little").view(np.int32)
    return torch.from_numpy(bitmask)


def forbidden_tokens(bitmask: torch.Tensor) -> int:
    """How many zeros the masks have."""
    bits = np.unpackbits(bitmask.numpy().view(np.uint8))
    return int(bits.size - bits.sum())

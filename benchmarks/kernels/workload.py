"""Logits and masks to measure with."""

from __future__ import annotations

import numpy as np
import torch

SHARES = {"1/1000": 0.001, "1/100": 0.01, "1/20": 0.05, "1/2": 0.5, "19/20": 0.95, "999/1000": 0.999}
"""Shares of the tokens that are forbidden: up to some percent inside a JSON string, nearly all between its parts."""

IN_RUNS = " in runs"

KINDS = ("none", *SHARES, *(share + IN_RUNS for share in SHARES), "all")
"""The kinds of masks, by what they forbid: tokens at random places, or runs of tokens."""

_RUN = 64
"""Tokens of a run. It does not begin with a word of the mask."""


def masks(kind: str, rows: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    """Masks of one kind, each row another.

    Args:
        kind: of `KINDS`.
        rows: number of masks.
        vocabulary: a multiple of 64.
        seed: of what is random.

    Returns:
        int32 [rows, vocabulary / 32].
    """
    random = np.random.default_rng(seed)
    share = {"none": 0.0, "all": 1.0, **SHARES}[kind.removesuffix(IN_RUNS)]
    run = _RUN if kind.endswith(IN_RUNS) else 1
    places = vocabulary // run
    forbidden = np.zeros((rows, places), dtype=bool)
    forbidden[:, : round(share * places)] = True
    allowed = ~random.permuted(forbidden, axis=1).repeat(run, axis=1)
    packed = np.packbits(np.roll(allowed, run // 3, axis=1), axis=1, bitorder="little")
    return torch.from_numpy(packed.view(np.int32))


def forbidden_sectors(bitmask: torch.Tensor, itemsize: int) -> int:
    """How many 32-byte sectors of memory hold a forbidden logit.

    Args:
        bitmask: see `masks`; of rows that begin with a sector.
        itemsize: bytes of a logit, 2 or 4.
    """
    return int((bitmask.numpy().view({4: np.uint8, 2: np.uint16}[itemsize]) + 1 != 0).sum())


def forbidden_tokens(bitmask: torch.Tensor) -> int:
    """How many zeros the masks have."""
    bits = np.unpackbits(bitmask.numpy().view(np.uint8))
    return int(bits.size - bits.sum())

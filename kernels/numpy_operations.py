"""The mask kernel's work on a CPU without a compiler: numpy's vector loops, without a branch per logit.

What a mask costs depends on its kind. Where few words of the mask forbid anything, reading it is the work, and the
forbidden tokens are written one by one. Where few words allow anything, the row is filled and those logits are put
back. In between, a lookup table turns each byte of the mask into eight words of all ones or all zeros, and integer
arithmetic does the rest: ``numpy.putmask``, ``torch.where`` and ``masked_fill_`` branch on every element, and so does
looking for single tokens, which takes several times as long where the branches cannot be foreseen.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from kernels.selection import Selection

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")


class _Kind:
    """A type of logits as integers of the same width.

    Attributes:
        integer: torch's integer type.
        minus_infinity: −inf's bits.
        spread: [256, 8]: for each byte of a mask, all ones where a bit is one, lowest bit first.
    """

    def __init__(self, integer: torch.dtype, minus_infinity: np.int32 | np.int16) -> None:
        self.integer = integer
        self.minus_infinity = minus_infinity
        self.spread = np.where(_BITS, -1, 0).astype(minus_infinity.dtype)


_KINDS = {
    torch.float32: _Kind(torch.int32, np.int32(-0x0080_0000)),
    torch.float16: _Kind(torch.int16, np.int16(-0x0400)),
    torch.bfloat16: _Kind(torch.int16, np.int16(-0x0080)),
}

_ALL_ONES = b"\xff" * 65_536

_FEW = 8
"""Up to one in so many words of a mask is few: tokens are then looked for in these words alone."""

_scratch = threading.local()

_Integers = npt.NDArray[np.signedinteger]
_Masks = npt.NDArray[np.int32]


def mask_with_numpy(selection: Selection) -> None:
    """Set what is forbidden to −inf, in place.

    Args:
        selection: at least one mask and one token, on the CPU.
    """
    logits, targets = selection.logits, selection.targets()
    if isinstance(logits, torch.Tensor) and (selection.rows is None or min(targets) >= 0):
        _mask(logits, selection.bitmask, targets)
        return
    for source, target in enumerate(targets):
        if target >= 0:
            _mask(selection.row(target)[None], selection.bitmask[source, None], range(1))


def _mask(logits: torch.Tensor, bitmask: torch.Tensor, targets: Sequence[int]) -> None:
    """Mask rows of a matrix.

    Args:
        logits: [rows, vocabulary] on the CPU, each row contiguous.
        bitmask: int32 [n, words] on the CPU, each row contiguous.
        targets: the row of ``logits`` of each mask.
    """
    vocabulary = logits.shape[1]
    masks: _Masks = bitmask.numpy()
    words = -(-vocabulary // 32)
    if masks.shape[1] > words:
        masks = masks[:, :words]
    elif masks.shape[1] < words:
        words = masks.shape[1]
        for target in targets:
            logits[target, words * 32 :] = -torch.inf

    if masks.nbytes <= len(_ALL_ONES) and _ALL_ONES.startswith(masks.tobytes()):
        return  # a third of the time of looking for words
    forbids = masks != -1  # whether a word forbids anything
    left = np.count_nonzero(forbids)
    if not left:
        return
    kind = _KINDS[logits.dtype]
    values: _Integers = logits.view(kind.integer).numpy()
    if left * _FEW > words:  # else there are few even in a single mask
        for source, target in enumerate(targets):
            count = np.count_nonzero(forbids[source])
            if count * _FEW > words:
                _mask_row(values[target], masks[source], kind)
                forbids[source] = False
                left -= count
        if not left:
            return
    places = forbids.reshape(-1).nonzero()[0]
    tokens = _ones(~masks.reshape(-1)[places], places)
    if words * 32 == vocabulary and values.flags.c_contiguous and targets == range(len(masks)):
        values.reshape(-1)[tokens] = kind.minus_infinity
    else:
        sources, tokens = np.divmod(tokens, words * 32)
        if words * 32 > vocabulary:
            sources, tokens = sources[tokens < vocabulary], tokens[tokens < vocabulary]
        values[np.asarray(targets)[sources], tokens] = kind.minus_infinity


def _ones(words: _Masks, places: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The ones of some words of a mask, as tokens in rising order.

    Args:
        words: [n].
        places: [n]; where in the mask each is.
    """
    bits = np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_).nonzero()[0]
    tokens: npt.NDArray[np.intp] = (places * 32)[bits >> 5] + (bits & 31)
    return tokens


def _mask_row(row: _Integers, mask: _Masks, kind: _Kind) -> None:
    """A row that many words of its mask forbid in part or whole."""
    allowing = mask.nonzero()[0]
    if allowing.size * _FEW > len(mask):
        _mask_evenly(row, mask, kind)
        return
    tokens = _ones(mask[allowing], allowing)
    tokens = tokens[tokens < len(row)]
    kept = row[tokens]
    row.fill(kind.minus_infinity)
    row[tokens] = kept


def _mask_evenly(row: _Integers, mask: _Masks, kind: _Kind) -> None:
    """Without a branch: (x ^ −inf) & keep ^ −inf, for all words of the mask."""
    covered = row[: len(mask) * 32]
    size = len(mask) * 4 * 8 * row.itemsize
    # Memory that is new in every call would cost more than the work.
    if getattr(_scratch, "buffer", None) is None or _scratch.buffer.nbytes < size:
        _scratch.buffer = np.empty(size, dtype=np.uint8)
    keep = _scratch.buffer[:size].view(row.dtype)
    np.take(kind.spread, mask.view(np.uint8), axis=0, out=keep.reshape(-1, 8), mode="clip")
    np.bitwise_xor(covered, kind.minus_infinity, out=covered)
    np.bitwise_and(covered, keep[: len(covered)], out=covered)
    np.bitwise_xor(covered, kind.minus_infinity, out=covered)
